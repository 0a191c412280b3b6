#!/usr/bin/env python3
"""The LMAX Disruptor beside our ring, in the loops of sidecar/ring/benches: hop, single items, batches of 64.

Rounds are interleaved, a process each; a figure is the median over the rounds. The Java threads are not pinned, since Java
has no way to; there are as many cores as threads. Needs a JDK and Maven, and says so where they are missing.

usage: disruptor.py [ROUNDS]
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sidestream" / "versus"
FIGURES = (("hop p50", "ns"), ("hop p99", "ns"), ("throughput single", "million/s"), ("throughput batch 64", "million/s"))


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    missing = [tool for tool in ("javac", "mvn") if not shutil.which(tool)]
    if missing:
        print(f"the LMAX Disruptor is left out: {' and '.join(missing)} missing", file=sys.stderr)
        return
    java = build()
    runs = {"sidestream": [], "LMAX Disruptor 4.0": []}
    for _ in range(rounds):
        runs["sidestream"].append(ours())
        printed = subprocess.run(java, check=True, capture_output=True, text=True).stdout
        runs["LMAX Disruptor 4.0"].append([float(figure) for figure in printed.split()])
    for who, rows in runs.items():
        for (bench, unit), values in zip(FIGURES, zip(*rows)):
            print(json.dumps({"bench": bench, "who": who, "value": statistics.median(values), "unit": unit}), flush=True)


def build():
    folder = CACHE / "disruptor"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("lib/disruptor-*.jar")):
        shutil.copy(HERE / "disruptor" / "pom.xml", folder)
        copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
        subprocess.run(copy, cwd=folder, check=True, stdout=sys.stderr)
    path = f"{folder / 'lib'}/*"
    subprocess.run(["javac", "-cp", path, "-d", str(folder), str(HERE / "disruptor" / "Rings.java")], check=True)
    return ["java", "-cp", f"{path}:{folder}", "Rings"]


def ours():
    """One round of our own benches, in the order of FIGURES."""
    figures = {}
    for bench in ("hop", "throughput"):
        command = ["cargo", "bench", "--locked", "-q", "-p", "sidestream-ring", "--bench", bench, "--", "1", "sidestream"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in printed.splitlines():
            figure = json.loads(line) if line.startswith('{"bench"') else {"who": None}
            if figure["who"] == "sidestream":
                figures[figure["bench"], figure["unit"]] = figure["value"]
    return [figures[figure] for figure in FIGURES]


if __name__ == "__main__":
    main()
