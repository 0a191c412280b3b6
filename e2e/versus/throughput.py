#!/usr/bin/env python3
"""Events per CPU second of the same four stages over the same file: Sidestream, Benthos, Bytewax.

Rounds are interleaved; a figure is the median over the rounds of events / (user + system seconds) of the whole process,
start and end included. Prints a JSON line a figure. Peers are built from their own package registries into the cache
folder; one that cannot be built is named on standard error and left out.

usage: throughput.py SIDESTREAM [EVENTS] [ROUNDS]
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sidestream" / "versus"


def main():
    sidestream = pathlib.Path(sys.argv[1]).resolve()
    events = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    CACHE.mkdir(parents=True, exist_ok=True)
    source = write_input(events)
    contenders = {"sidestream": run_sidestream(sidestream, source)}
    for name, build in (("benthos 4.40", benthos), ("bytewax", bytewax)):
        try:
            contenders[name] = build(source)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    figures = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (command, environment) in contenders.items():
            figures[name].append(measure(command, environment))
    for name, runs in figures.items():
        cpu = statistics.median(run["cpu"] for run in runs)
        report("events per CPU second", name, events / cpu, "events/s", cpu=cpu)
        report("resident memory, largest", name, max(run["rss"] for run in runs), "bytes")


def write_input(events):
    """JSON lines of 111 bytes; one in ten has a status of 500 or more."""
    path = CACHE / f"lines-{events}.json"
    if not path.exists():
        with open(path.with_suffix(".part"), "w") as out:
            for n in range(events):
                status = 503 if n % 10 == 0 else 200
                line = f'{{"time":"2026-11-21T00:00:{n % 60:02}Z","path":"/api/cart/{n % 100:02}","status":{status},"millis":{n % 1000:03},"user":"u{n:07}","ok":true}}'
                line = line.replace('"millis":0', '"millis":1')
                out.write(line + "\n")
        path.with_suffix(".part").rename(path)
    return path


def run_sidestream(binary, source):
    config = CACHE / "sidestream.yaml"
    config.write_text((HERE / "sidestream.yaml").read_text().replace("INPUT", str(source)))
    return [str(binary), "run", str(config), "--metrics", "off"], {}


def benthos(source):
    folder = CACHE / "benthos"
    binary = folder / "benthos"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("main.go", "go.mod"):
            shutil.copy(HERE / "benthos" / name, folder)
        subprocess.run(["go", "mod", "tidy"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["go", "build", "-o", "benthos", "."], cwd=folder, check=True, capture_output=True)
    return [str(binary), "-c", str(HERE / "benthos" / "pipeline.yaml")], {"INPUT": str(source)}


def bytewax(source):
    python = CACHE / "bytewax" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "bytewax")], check=True, capture_output=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "bytewax"], check=True, capture_output=True)
    command = [str(python), "-m", "bytewax.run", str(HERE / "bytewax" / "pipeline.py") + ":flow"]
    return command, {"INPUT": str(source)}


def measure(command, environment):
    """CPU seconds and resident memory of one whole run."""
    begun = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} failed: {said.decode(errors='replace')[-2000:]}")
    return {"cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024, "wall": time.monotonic() - begun}


def report(bench, who, value, unit, **more):
    print(json.dumps({"bench": bench, "who": who, "value": value, "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
