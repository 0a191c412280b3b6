#!/usr/bin/env python3
"""Pushing over loopback: Sidestream, Kafka 4.1 (KRaft, one node) and NATS JetStream, each with its own ordinary client.

Every cell is run twice: durable, where an acknowledgement waits for the device (`Device`; `flush.messages=1`, which is
`log.flush.interval.messages=1` for one topic; `sync_interval: always`), and kernel, where it does not (`PageCache`; the
defaults of both). Ours goes over TCP with mTLS, the others in plain text, as they come. JetStream has no batches: it has as many
messages on their way as the others have records. Rounds are interleaved, a process each, servers stay up; a figure is the
median over the rounds. A peer that cannot be built is named and left out. Prints a JSON line a figure.

usage: dnpipes.py SIDESTREAM [ROUNDS] [SECONDS]    SIDESTREAM_BENCH_DIR names the folder of the data; a temporary one otherwise
"""

import contextlib
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

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sidestream" / "versus"
NATS = "github.com/nats-io/nats-server/v2@v2.15.2"
WARM_UP = "1"
SIZES = (256, 1024)
# What a cell is called, the bytes of a batch (0: one record), the bytes on their way (None: so many records).
CELLS = (
    ("1 record a batch, 1 in flight", 0, 1, None),
    ("1 record a batch, 256 in flight", 0, 256, None),
    ("batches as the client likes, 256 records in flight", None, 256, None),
    ("batches of 64 KiB, 4 MiB in flight", 64 << 10, None, 4 << 20),
)
# How many times as fast ours is to be as the best peer; elsewhere it is to be ahead.
GOALS = {("1 record a batch, 256 in flight", "durable"): 20}


def main():
    sidestream = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    seconds = sys.argv[3] if len(sys.argv) > 3 else "2"
    end_in_order()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="versus-dnpipes-", dir=os.environ.get("SIDESTREAM_BENCH_DIR")))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        contenders = {"durable": {}, "kernel": {}}
        for begin in (ours, kafka, nats):
            try:
                for durability, who, push in begin(stack, folder, sidestream):
                    contenders[durability][who] = push
            except (OSError, subprocess.CalledProcessError) as error:
                if begin is ours:
                    raise
                print(f"{begin.__name__} is left out: {error}", file=sys.stderr)
        runs = {}
        for _ in range(rounds):
            for size in SIZES:
                for cell, batch, window, window_bytes in CELLS:
                    for durability, several in contenders.items():
                        for who, push in several.items():
                            got = push(size, batch, window or window_bytes // size, seconds)
                            runs.setdefault((size, cell, durability), {}).setdefault(who, []).append(got)
                            print(size, cell, durability, who, got, file=sys.stderr, flush=True)
        for (size, cell, durability), several in runs.items():
            told(f"push {size} B, {cell}, {durability}", GOALS.get((cell, durability), 1), several)


def told(bench, times, several):
    """The figures of a cell, each with what was effective; ours with its goal: ahead of the best peer."""
    rates = {who: statistics.median(run["rate"] for run in got) for who, got in several.items()}
    best = max((rate for who, rate in rates.items() if who != "sidestream"), default=None)
    for who, got in several.items():
        how = f"{got[0]['how']}; {statistics.median(run['batch'] for run in got):.1f} records a batch"
        goal = {"least": times * best} if who == "sidestream" and best else {}
        report(bench, who, rates[who], "records/s", how, **goal)
        if "1 in flight" in bench:
            report(f"{bench}, p50", who, statistics.median(run["p50"] for run in got), "us", how)
            report(f"{bench}, p99", who, statistics.median(run["p99"] for run in got), "us", how)


def ours(stack, folder, sidestream):
    data, peers, out = folder / "sidestream", folder / "peers", folder / "figures.json"
    peers.mkdir()
    server, address = serve(sidestream, folder, data, {"device": "Device", "page-cache": "PageCache"}, peers)
    stack.callback(stop, server)

    def pusher(dnpipe, how):
        def push(size, batch, window, seconds):
            command = [sidestream, "bench", "push", dnpipe, "--at", address, "--peers", peers, "--quiet", "--json", out]
            command += ["--size", str(size), "--in-flight", str(window), "--for", f"{float(seconds) * 1000:.0f}ms", "--warm-up", f"{WARM_UP}s"]
            if batch is not None:
                command += ["--batch", str(max(batch // size, 1))]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            subprocess.run([sidestream, "reset", dnpipe, "--data-dir", data], check=True, stdout=subprocess.DEVNULL)
            side = json.loads(out.read_text())["push"]
            latency = side["latency"]
            return {"rate": side["recordsPerSecond"], "p50": latency["p50"], "p99": latency["p99"],
                    "batch": side["recordsPerBatch"], "how": how}

        return push

    yield "durable", "sidestream", pusher("device", "Device, mTLS")
    yield "kernel", "sidestream", pusher("page-cache", "PageCache, mTLS")


def serve(sidestream, folder, data, dnpipes, peers=None, more=()):
    """A server of ours that is ready, and its address where it has peers. `more` is the text of a file each."""
    file = folder / f"{data.name}.yaml"
    one = "kind: Dnpipe\nmetadata: {{name: {}}}\nspec: {{durability: {}, retention: {{bytes: 6Gi}}}}\n"
    file.write_text("---\n".join(one.format(name, durability) for name, durability in dnpipes.items()))
    files = [file]
    for number, text in enumerate(more):
        files.append(folder / f"{data.name}-{number}.yaml")
        files[-1].write_text(text)
    command = [sidestream, "run", *files, "--data-dir", data, "--metrics", "off"]
    if peers:
        command += ["--listen", "127.0.0.1:0", "--peers", peers]
    log = open(folder / f"{data.name}.log", "w+")
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=os.environ | {"NO_COLOR": "1"})
    said = lambda: pathlib.Path(log.name).read_text()
    until(lambda: "ready" in said(), server, said)
    address = said().split('address="')[1].split('"')[0] if peers else None
    return server, address


def kafka(stack, folder, _):
    java = [shutil.which("java") or "java", "-Xmx512m", "-cp", f"{kafka_built()}/*"]
    broker, controller = free_port(), free_port()
    settings = folder / "kafka.properties"
    settings.write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
offsets.topic.replication.factor=1
log.dirs={folder / 'kafka'}
file.delete.delay.ms=1000
log.initial.task.delay.ms=1000
""")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    identity = subprocess.run([*java, "kafka.tools.StorageTool", "random-uuid"], check=True, capture_output=True, text=True).stdout.split()[-1]
    subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", identity, "-c", settings], check=True, **quiet)
    server = subprocess.Popen([*java, "kafka.Kafka", settings], **quiet)
    stack.callback(stop, server)
    until(lambda: listens(broker), server)

    def pusher(flush, how):
        def push(size, batch, window, seconds):
            batch_bytes = 16384 if batch is None else batch
            client = [*java[:2], *java[2:], "Push", f"127.0.0.1:{broker}", flush, str(size), str(batch_bytes), str(window), WARM_UP, seconds]
            return {**printed(client), "how": how}

        return push

    yield "durable", "Kafka 4.1", pusher("each", "flush.messages=1, acks=all")
    yield "kernel", "Kafka 4.1", pusher("default", "no flush, acks=all")


def kafka_built():
    """The folder of Kafka's jars, and of our client of it in one more."""
    folder = CACHE / "kafka"
    lib = folder / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    if not list(lib.glob("kafka_2.13-*.jar")):
        shutil.copy(HERE / "dnpipes" / "pom.xml", folder)
        copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={lib}"]
        subprocess.run(copy, cwd=folder, check=True, stdout=sys.stderr)
    classes = folder / "classes"
    subprocess.run(["javac", "-cp", f"{lib}/*", "-d", classes, HERE / "dnpipes" / "Push.java"], check=True)
    subprocess.run(["jar", "--create", "--file", lib / "versus-push.jar", "-C", classes, "."], check=True)
    return lib


def nats(stack, folder, _):
    client = nats_client()
    for durability, sync, how in (("durable", "sync_interval: always", "sync_interval: always"), ("kernel", "", "flushed every 2 min")):
        port, name = free_port(), f"nats-{durability}"
        settings = folder / f"{name}.conf"
        settings.write_text(f'host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: "{folder / name}"\n{sync}\n}}\n')
        server = subprocess.Popen([nats_server(), "-c", settings], stderr=subprocess.DEVNULL)
        stack.callback(stop, server)
        until(lambda port=port: listens(port), server)

        def push(size, batch, window, seconds, port=port, how=how):
            return {**printed([client, f"nats://127.0.0.1:{port}", str(size), str(window), WARM_UP, seconds]), "how": how}

        yield durability, "NATS JetStream", push


def nats_server():
    binary = CACHE / "nats" / "nats-server"
    if not binary.exists():
        subprocess.run(["go", "install", NATS], env={**go(), "GOBIN": str(binary.parent)}, check=True, stdout=sys.stderr)
    return binary


def nats_client():
    folder = CACHE / "nats-client"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("main.go", "go.mod"):
        shutil.copy(HERE / "dnpipes" / name, folder)
    subprocess.run(["go", "mod", "tidy"], cwd=folder, env=go(), check=True, capture_output=True)
    subprocess.run(["go", "build", "-o", "push", "."], cwd=folder, env=go(), check=True, stdout=sys.stderr)
    return folder / "push"


def go():
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def printed(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def end_in_order():
    """Whoever is told to end stops what he started, and removes it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def until(is_so, server, said=lambda: ""):
    begun = time.monotonic()
    while not is_so():
        if server.poll() is not None or time.monotonic() - begun > 60:
            server.kill()
            raise OSError(f"{server.args[0]} does not get ready: {said()[-2000:]}")
        time.sleep(0.02)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def stop(server):
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def report(bench, who, value, unit, how=None, **goal):
    figure = {"bench": bench, "who": who, "value": round(value, 3), "unit": unit, **({"how": how} if how else {}), **goal}
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
