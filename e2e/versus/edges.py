#!/usr/bin/env python3
"""Edges beside what others build such ways of: tonic's streams, NATS core, plain TCP.

Two hops on loopback, events of 256 bytes at 20,000 a second, open loop; then as many events as go over one hop. Rounds are
interleaved, a process each; a figure is the median over the rounds. Ours acknowledges, resends and reads what it carries;
`edges/src/main.rs` says what the others leave out. A contender that cannot be built is named and left out. Prints a JSON
line a figure.

usage: edges.py [ROUNDS] [SECONDS]
"""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sidestream" / "versus"
NATS = "github.com/nats-io/nats-server/v2@v2.15.2"
QUANTILES = ("p50", "p99", "p99.9")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = sys.argv[2] if len(sys.argv) > 2 else "2"
    contenders = {"sidestream": lambda: ours(seconds)}
    server = None
    folder = certificates()
    try:
        program = build()
        for who, name in (("plain TCP", "tcp"), ("tonic streams", "tonic"), ("tonic streams, mTLS", "tonic-mtls")):
            contenders[who] = lambda name=name: theirs(program, name, seconds, folder)
        server, address = nats_server(folder)
        contenders["NATS core, mTLS"] = lambda: theirs(program, "nats", seconds, folder, address)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"left out: {error}", file=sys.stderr)
    runs = {who: [] for who in contenders}
    try:
        for _ in range(rounds):
            for who, run in contenders.items():
                runs[who].append(run())
    finally:
        if server:
            server.terminate()
            server.wait()
    for who, figures in runs.items():
        for quantile in QUANTILES:
            report(f"two hops at 20k/s, {quantile}", who, statistics.median(run[quantile] for run in figures), "us")
        report("one hop, 256 B, batched", who, statistics.median(run["rate"] for run in figures), "events/s")
        if lost := sum(run.get("lost", 0) for run in figures):
            report("two hops at 20k/s, lost in all rounds", who, lost, "events")


def ours(seconds):
    """One round of our own bench."""
    command = ["cargo", "bench", "--locked", "-q", "-p", "sidestream-sidecar", "--bench", "edges", "--", seconds, "1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = [json.loads(line) for line in printed.splitlines() if line.startswith('{"bench"')]
    run = {figure["bench"].rsplit(" ", 1)[1]: figure["value"] for figure in figures if figure["unit"] == "us"}
    run["rate"] = next(figure["value"] for figure in figures if figure["unit"] == "events/s")
    return run


def theirs(program, name, seconds, folder, address=""):
    printed = subprocess.run([program, name, seconds, folder, address], check=True, capture_output=True, text=True)
    return json.loads(printed.stdout)


def build():
    target = CACHE / "edges"
    manifest = str(HERE / "edges" / "Cargo.toml")
    command = ["cargo", "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", str(target)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return str(target / "release" / "versus-edges")


def certificates():
    """An authority, and a certificate of it that serves and calls, as PEM files."""
    folder = CACHE / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "own.crt").exists():
        return str(folder)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-subj", "/CN=versus", "-days", "3650", "-keyout", "ca.key", "-out", "ca.crt",
            "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", "-x509", *key, "-subj", "/CN=localhost", "-days", "3650", "-keyout", "own.key", "-out", "own.crt",
            "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth,clientAuth")
    return str(folder)


def nats_server(folder):
    """A server that takes TLS 1.3 with certificates and nothing else, and its address."""
    binary = CACHE / "nats" / "nats-server"
    if not binary.exists():
        environment = {**os.environ, "GOBIN": str(binary.parent), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        subprocess.run(["go", "install", NATS], env=environment, check=True, stdout=sys.stderr)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    settings = CACHE / "nats" / "server.conf"
    settings.write_text(f"""
host: 127.0.0.1
port: {port}
tls {{ cert_file: "{folder}/own.crt", key_file: "{folder}/own.key", ca_file: "{folder}/ca.crt", verify: true, min_version: "1.3" }}
""")
    server = subprocess.Popen([str(binary), "-c", str(settings)], stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server, f"tls://localhost:{port}"
        except OSError:
            time.sleep(0.05)
    server.kill()
    raise OSError("nats-server does not listen")


def report(bench, who, value, unit):
    print(json.dumps({"bench": bench, "who": who, "value": round(value, 1), "unit": unit}), flush=True)


if __name__ == "__main__":
    main()
