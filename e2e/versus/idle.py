#!/usr/bin/env python3
"""What a sidecar costs that has nothing to do: time from its start to ready, resident memory, share of a processor.

The pipeline waits at an HTTP source for requests that never come. Linux only: the figures are /proc's. Prints a JSON line a
figure.

usage: idle.py SIDESTREAM [SECONDS]
"""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

PIPELINE = """
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: idle}}
spec:
  stages:
  - {{name: requests, source: {{http: {{listen: "127.0.0.1:{port}"}}}}}}
  - {{name: chosen, process: {{filter: {{keep: "event.status >= 500"}}}}}}
  - {{name: minute, process: {{window: {{tumbling: 1m, emit: {{max: event.millis}}}}}}}}
  - {{name: nowhere, sink: {{blackhole: {{}}}}}}
"""
STARTS = 11


def main():
    sidestream = pathlib.Path(sys.argv[1]).resolve()
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30
    starts = []
    for _ in range(STARTS - 1):
        process, ready = start(sidestream)
        starts.append(ready)
        stop(process)
    process, ready = start(sidestream)
    starts.append(ready)
    time.sleep(2)
    before = cpu_seconds(process.pid)
    begun = time.monotonic()
    time.sleep(seconds)
    share = (cpu_seconds(process.pid) - before) / (time.monotonic() - begun)
    memory = resident_bytes(process.pid)
    stop(process)
    report("idle: start to ready", statistics.median(starts) * 1000, "ms")
    report("idle: resident memory", memory / 2**20, "MiB")
    report("idle: processor", share * 100, "% of a core")


def start(sidestream):
    """A running sidecar, and how long it took to be ready."""
    requests, metrics = free_port(), free_port()
    file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
    with file:
        file.write(PIPELINE.format(port=requests))
    begun = time.monotonic()
    process = subprocess.Popen(
        [str(sidestream), "run", file.name, "--metrics", f"127.0.0.1:{metrics}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    ready = time.monotonic() - begun
                    os.unlink(file.name)
                    return process, ready
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() - begun > 30:
            process.kill()
            raise SystemExit(f"it does not get ready: {process.stderr.read().decode(errors='replace')[-2000:]}")
        time.sleep(0.001)


def stop(process):
    process.terminate()
    process.wait()


def cpu_seconds(pid):
    """Of all its threads, to the nanosecond: /proc/PID/stat counts in hundredths of a second."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc says nothing of its memory")


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def report(bench, value, unit):
    print(json.dumps({"bench": bench, "who": "sidestream", "value": round(value, 3), "unit": unit}), flush=True)


if __name__ == "__main__":
    main()
