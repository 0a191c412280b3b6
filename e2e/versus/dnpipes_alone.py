#!/usr/bin/env python3
"""Dnpipes beside what the disk can do: pushing through the client, recovery, idle and many dnpipes, many readers.

B is the bandwidth of the disk and L the time of a flush; `sidestream bench` probes both right before each run, on the same file
system. A figure brings its goal along where it has one. Linux only: some figures are /proc's. Prints a JSON line a figure.

usage: dnpipes_alone.py SIDESTREAM [ROUNDS] [SECONDS] [GIB ...]    GIB: sizes of the journal that recovery is measured at; 1 5 20
SIDESTREAM_BENCH_DIR names the folder of the data; a temporary one otherwise
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from dnpipes import end_in_order, report, serve, stop

ROOM_LEFT = 4 << 30
MANY = 10_000
# Of a file.
DOCUMENTS = 200
READERS = 64


def main():
    sidestream = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    seconds = sys.argv[3] if len(sys.argv) > 3 else "3"
    sizes = [float(size) for size in sys.argv[4:]] or [1, 5, 20]
    end_in_order()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="versus-dnpipes-", dir=os.environ.get("SIDESTREAM_BENCH_DIR")))
    try:
        for measure in (beside_the_disk, many, readers, recovery):
            with contextlib.ExitStack() as stack:
                data = folder / measure.__name__
                measure(stack, Bench(sidestream, folder, data, seconds), rounds, sizes)
                stack.close()
                shutil.rmtree(data, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    """`sidestream bench` of a server on this machine."""

    def __init__(self, sidestream, folder, data, seconds):
        self.sidestream, self.folder, self.data, self.seconds = sidestream, folder, data, seconds

    def serve(self, stack, dnpipes, more=()):
        server, _ = serve(self.sidestream, self.folder, self.data, dnpipes, more=more)
        stack.callback(stop, server)
        return server

    def __call__(self, kind, *arguments, ends=True):
        out = self.folder / "figures.json"
        command = [self.sidestream, "bench", kind, *arguments, "--data-dir", self.data, "--quiet", "--json", out]
        command += ["--for", f"{float(self.seconds) * 1000:.0f}ms", "--warm-up", "1s"] if ends else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def ask(self, *arguments):
        command = [self.sidestream, *arguments, "--data-dir", self.data]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def beside_the_disk(stack, bench, rounds, _):
    bench.serve(stack, {"device": "Device", "page-cache": "PageCache"})
    rows = {
        "batches of 64 KiB, 4 MiB in flight": ("device", "--batch", "64", "--in-flight", "4096"),
        "1 record a batch, 256 in flight": ("device", "--batch", "1", "--in-flight", "256"),
        "1 record a batch, 1 in flight": ("device", "--batch", "1", "--in-flight", "1"),
        "50,000/s due, PageCache": ("page-cache", "--rate", "50000"),
        "50,000/s due, Device": ("device", "--rate", "50000"),
        "10,000/s due, PageCache": ("page-cache", "--rate", "10000"),
        "10,000/s due, Device": ("device", "--rate", "10000"),
    }
    runs = {row: [] for row in rows}
    for _ in range(rounds):
        for row, arguments in rows.items():
            runs[row].append(bench("push", *arguments))
            bench.ask("reset", arguments[0])
    for row, got in runs.items():
        figure = lambda read: statistics.median(read(run) for run in got)
        bandwidth = figure(lambda run: run["disk"]["bandwidthBytesPerSecond"])
        flush = figure(lambda run: run["disk"]["flushMicros"])
        how = f"{got[0]['durability']} on {got[0]['driver']}, local socket; {figure(lambda run: run['push']['recordsPerBatch']):.1f} records a batch"
        name = f"dnpipe push 1 KiB, {row}"
        latency = lambda quantile: figure(lambda run: run["push"]["latency"][quantile])
        mine = lambda bench, value, unit, **goal: report(bench, "sidestream", value, unit, how, **goal)
        if "due" in row:
            mine(f"{name}, p50", latency("p50"), "us")
            goal = 3 * flush if "Device" in row else 300
            mine(f"{name}, p99", latency("p99"), "us", most=goal)
            mine(f"{name}, sent late p99", figure(lambda run: run["push"]["late"]["p99"]), "us")
            mine(name, figure(lambda run: run["push"]["recordsPerSecond"]), "records/s")
        elif "256" in row:
            mine(name, figure(lambda run: run["push"]["recordsPerSecond"]), "records/s", least=20e6 / flush)
        elif "64" in row:
            mine(name, figure(lambda run: run["push"]["bytesPerSecond"]) / 2**20, "MiB/s", least=0.85 * bandwidth / 2**20)
            report(name, "B", bandwidth / 2**20, "MiB/s")
        else:
            mine(f"{name}, p50", latency("p50"), "us", most=flush + 40)
            mine(f"{name}, p99", latency("p99"), "us")
        if "64" not in row:
            report(f"{name}, p50", "L", flush, "us")


def many(stack, bench, rounds, _):
    """What an idle dnpipe costs, and what many that are not idle do to throughput."""
    names = [f"d-{number}" for number in range(MANY)]
    each = [f"kind: Dnpipe\nmetadata: {{name: {name}}}\nspec: {{}}\n" for name in names]
    made = ["---\n".join(each[first : first + DOCUMENTS]) for first in range(0, MANY, DOCUMENTS)]
    memory, descriptors = idle(stack, Bench(bench.sidestream, bench.folder, bench.folder / "few", bench.seconds), ())
    shutil.rmtree(bench.folder / "few", ignore_errors=True)
    memory_of_many, descriptors_of_many = idle(stack, bench, made)
    server = bench.serve(stack, {"device": "Device"})
    assert names[-1] in bench.ask("dnpipe", "list")
    how = f"{MANY} dnpipes"
    report("idle dnpipe: resident memory", "sidestream", (memory_of_many - memory) / MANY / 1024, "KiB", how, most=4)
    report("idle dnpipe: file descriptors", "sidestream", max(descriptors_of_many - descriptors, 0), "of all", how, most=0)
    for row, load in (("1 record a batch, 256 in flight", ("--batch", "1", "--in-flight", "256")), ("batches of 64 KiB, 4 MiB in flight", ("--batch", "64", "--in-flight", "4096"))):
        rates = {"one": [], "many": []}
        for _ in range(rounds):
            for who, dnpipes in (("one", ["device"]), ("many", names)):
                rates[who].append(bench("push", *dnpipes, *load)["push"]["recordsPerSecond"])
            bench.ask("reset", "device")
        one, several = (statistics.median(rates[who]) for who in ("one", "many"))
        name = f"dnpipe push 1 KiB, {row}, turn by turn to {MANY} dnpipes"
        report(name, "sidestream", several, "records/s", "Device", least=0.9 * one)
        report(name, "one dnpipe", one, "records/s", "Device")


def idle(stack, bench, made):
    """Memory and descriptors of a server of dnpipes that another process made: what making them took is not what they take."""
    stop(bench.serve(stack, {"device": "Device"}, made))
    server = bench.serve(stack, {"device": "Device"})
    time.sleep(3)
    found = resident(server.pid), opened(server.pid)
    stop(server)
    return found


def readers(stack, bench, rounds, _):
    """What readers at the end cost whoever pushes."""
    server = bench.serve(stack, {"device": "Device"})
    for row, load in (
        ("as fast as it goes", ("--batch", "64", "--in-flight", "1024")),
        ("2,000/s due", ("--rate", "2000")),
        ("500/s due", ("--rate", "500")),
    ):
        alone, beside, read = [], [], []
        for _ in range(rounds):
            alone.append(bench("push", "device", *load)["push"]["recordsPerSecond"])
            bench.ask("reset", "device")
            before = read_bytes(server.pid)
            run = bench("end-to-end", "device", *load, "--consumers", str(READERS))
            read.append(read_bytes(server.pid) - before)
            beside.append(run["push"]["recordsPerSecond"])
            pulled = run["pull"]["records"] + run["pull"]["warmUpRecords"]
            pushed = run["push"]["records"] + run["push"]["warmUpRecords"]
            assert pulled == READERS * pushed, f"{pulled} of {READERS} x {pushed} were read"
            bench.ask("reset", "device")
        name = f"dnpipe push 1 KiB, {row}, beside {READERS} readers at the end"
        rate = statistics.median(alone)
        report(name, "sidestream", statistics.median(beside), "records/s", "Device; all on two cores", least=0.8 * rate)
        report(name, "no reader", rate, "records/s", "Device")
        report(f"{name}: read from the disk", "sidestream", max(read), "bytes", most=0)


def recovery(stack, bench, _, sizes):
    """From the start of a process behind kill -9 until it acknowledges, by the size of its journal."""
    dnpipe = "kind: Dnpipe\nmetadata: {name: big}\nspec: {partitions: 1000}\n"
    server = bench.serve(stack, {"device": "Device"}, [dnpipe])
    found, full = [], 0.0
    for size in sorted(sizes):
        if shutil.disk_usage(bench.folder).free < (size - full) * 2**30 + ROOM_LEFT:
            print(f"recovery at {size} GiB is left out: the disk has no room for it", file=sys.stderr)
            break
        records = int((size - full) * 2**30 / 1088) // 64 * 64
        bench("push", "big", "--batch", "64", "--in-flight", "4096", "--records", str(records), ends=False)
        full = size
        times = []
        for _ in range(3):
            # It is killed while it works.
            pushing = subprocess.Popen(
                [bench.sidestream, "bench", "push", "big", "--batch", "1", "--in-flight", "256", "--quiet", "--data-dir", bench.data],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1)
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            pushing.kill()
            pushing.wait()
            begun = time.monotonic()
            server = start(bench, stack)
            acknowledged(bench.data / "sidestream.sock", server)
            times.append(time.monotonic() - begun)
        found.append((size, statistics.median(times)))
        report(f"recovery: first acknowledgement after kill -9, {size:g} GiB in 1000 partitions", "sidestream", statistics.median(times) * 1000, "ms", most=1000)
    if len(found) > 1:
        (low, first), (high, last) = found[0], found[-1]
        slope = (last - first) * 1000 / (high - low)
        report("recovery: slope", "sidestream", slope, "ms/GiB", f"from {low:g} to {high:g} GiB")


def start(bench, stack):
    file = bench.folder / f"{bench.data.name}.yaml"
    command = [bench.sidestream, "run", file, "--data-dir", bench.data, "--metrics", "off"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(stop, server)
    return server


def acknowledged(path, server):
    """Waits for the first push that is acknowledged."""

    class Local(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(path))

    begun = time.monotonic()
    while time.monotonic() - begun < 120:
        if server.poll() is not None:
            raise SystemExit("the server ended")
        try:
            connection = Local("localhost", timeout=60)
            connection.request("POST", "/v1/dnpipes/default/big/records", body=b"first")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.001)
    raise SystemExit("nothing is acknowledged")


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc says nothing of its memory")


def opened(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def read_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("read_bytes")))


if __name__ == "__main__":
    main()
