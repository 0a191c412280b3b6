#!/usr/bin/env python3
"""Runs every benchmark of the tree, prints one table, and writes docs/reference/benchmarks.md.

A benchmark prints JSON lines {"bench", "who", "value", "unit"}; whatever else it prints is for people and goes by. Rounds
between contenders are interleaved inside each benchmark, which reports medians. Beside a contender stands its figure
relative to ours; both figures are in the table. A figure may say "how" it came about, and bring its own goal: "most" or "least".

usage: bench.py [NAME ...]    only the commands whose text has one of the names; the rest of the page stays as it is
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
OURS = "sidestream"

# The goals that one figure decides: (bench, who, unit) -> the most it should be.
GOALS = {
    ("stage overhead, batch 64", "fused", "ns/event"): 5,
    ("stage overhead, batch 1", "fused", "ns/event"): 30,
    ("predicate/compare", OURS, "ns"): 50,
    ("predicate/compare_and_search", OURS, "ns"): 50,
    ("predicate/name_and_label", OURS, "ns"): 50,
    ("predicate/in_list", OURS, "ns"): 50,
    ("three stages at 100k/s, p99.9", "fused", "us"): 100,
    ("three stages at 100k/s, p99.9", "own rings", "us"): 100,
    ("idle: resident memory", OURS, "MiB"): 12,
    ("idle: processor", OURS, "% of a core"): 0.1,
    ("idle: start to ready", OURS, "ms"): 100,
    ("three sidecars over two mTLS edges at 20k/s, p50", OURS, "us"): 100,
    ("three sidecars over two mTLS edges at 20k/s, p99", OURS, "us"): 250,
    ("three sidecars over two mTLS edges at 20k/s, p99.9", OURS, "us"): 1000,
    ("two hops at 20k/s, p50", OURS, "us"): 100,
    ("two hops at 20k/s, p99", OURS, "us"): 250,
    ("two hops at 20k/s, p99.9", OURS, "us"): 1000,
    ("operator: reconcile p99, Pipelines created 20 a second", OURS, "ms"): 50,
    ("operator: reconcile p99, Pipelines edited 5 a second", OURS, "ms"): 50,
    ("operator: API writes in 300 idle seconds", OURS, "writes"): 0,
    ("operator: resident memory, 1000 Pipelines and no sidecar", OURS, "MiB"): 40,
    ("operator: resident memory, for each of 200 connected sidecars", OURS, "KiB"): 64,
    ("operator: plan change acknowledged by 50 sidecars, median", OURS, "ms"): 1000,
    ("operator: plan change acknowledged by 50 sidecars, longest of 11", OURS, "ms"): 1000,
    ("journal: durable append, batch 1, 256 in flight", "uring", "flushes per acknowledgement (goal 0.02)"): 0.02,
    ("journal: durable append, batch 1, 256 in flight", "file", "flushes per acknowledgement (goal 0.02)"): 0.02,
    ("journal: batch 1, 1 in flight, p50", "uring", "us over L (goal 40)"): 40,
    ("journal: batch 1, 1 in flight, p50", "file", "us over L (goal 40)"): 40,
    ("cluster: kubectl apply to Ready, median", OURS, "s"): 5,
    ("cluster: kubectl apply to Ready, longest of 11", OURS, "s"): 5,
    ("cluster: idle injected sidecar, resident memory", OURS, "MiB"): 15,
}
# And the least.
GOALS_LEAST = {
    ("one mTLS edge, 256 B, batched", OURS, "events/s"): 1_000_000,
    ("one hop, 256 B, batched", OURS, "events/s"): 1_000_000,
    ("journal: durable append, batches of 64 KiB", "uring", "of B (goal 0.85)"): 0.85,
    ("journal: durable append, batches of 64 KiB", "file", "of B (goal 0.85)"): 0.85,
    ("journal: durable append, batches of 1024 KiB", "uring", "of B (goal 0.85)"): 0.85,
    ("journal: durable append, batches of 1024 KiB", "file", "of B (goal 0.85)"): 0.85,
    ("journal: durable append, batch 1, 256 in flight", "uring", "per L (goal 20)"): 20,
    ("journal: durable append, batch 1, 256 in flight", "file", "per L (goal 20)"): 20,
}


def main():
    names = sys.argv[1:]
    sections, machine = [], machine_line()
    before = read(PAGE.read_text()) if names and PAGE.exists() else ([], {})
    for command in commands():
        if names and not any(name in " ".join(command) for name in names):
            continue
        print(f"{' '.join(command)} ...", file=sys.stderr, flush=True)
        figures = run(command)
        if not figures:
            continue
        sections.append((command, figures))
        print(table(figures), flush=True)
        line = next((f for f in figures if f["who"].endswith("= L") and f["unit"] == "ns"), None)
        if line:
            machine += f"; L, a cache line from core to core and back, halved: {line['value']:.1f} ns"
        # Each time, so that what fails later costs nothing of it.
        PAGE.write_text(page(*merged(before, sections, machine)))
    print(machine)


def commands():
    """Every `[[bench]]` of the workspace, then what measures the programs as a whole."""
    metadata = json.loads(capture("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"))
    for package in metadata["packages"]:
        for target in package["targets"]:
            if "bench" in target["kind"]:
                yield ["cargo", "bench", "--locked", "--package", package["name"], "--bench", target["name"]]
    capture("cargo", "build", "--release", "--locked", "--package", "sidestream")
    binary = pathlib.Path(metadata["target_directory"]) / "release" / "sidestream"
    binary = binary.relative_to(ROOT) if binary.is_relative_to(ROOT) else binary
    yield ["e2e/versus/disruptor.py"]
    yield ["e2e/versus/edges.py"]
    yield ["e2e/versus/idle.py", str(binary)]
    yield ["e2e/versus/throughput.py", str(binary)]
    yield ["e2e/versus/dnpipes.py", str(binary)]
    yield ["e2e/versus/dnpipes_alone.py", str(binary)]
    yield ["e2e/versus/cluster.sh"]


def run(command):
    """The figures a command prints; what it says to people is shown, not kept."""
    environment = os.environ | (shipped_operator() if command[-1] == "load" else {})
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    figures = [json.loads(line) for line in process.stdout if line.startswith('{"bench"')]
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return figures


def shipped_operator():
    """The program of the image, where it can be built: static, it takes memory in another way than cargo's does."""
    if subprocess.run(["e2e/image/build.sh"], cwd=ROOT, stdout=sys.stderr).returncode != 0:
        return {}
    return {"SIDESTREAM_OPERATOR": str(ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "images" / "sidestream-operator")}


def table(figures):
    ours = {(f["bench"], f["unit"]): f["value"] for f in figures if f["who"] == OURS}
    lines = ["| what | who | figure | beside ours |", "|---|---|---:|---:|"]
    for figure in figures:
        own = ours.get((figure["bench"], figure["unit"]))
        beside = f"{figure['value'] / own:.2f} x" if own and figure["who"] != OURS else ""
        who = figure["who"] + (f" ({figure['how']})" if "how" in figure else "")
        lines.append(f"| {figure['bench']} | {who} | {number(figure['value'])} {figure['unit']} | {beside} |")
    return "\n".join(lines)


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def read(text):
    """The rows of goals of a page, and its sections by their command, each with its machine line and its table."""
    head, *parts = text.split("\n## ")
    goals, sections = [], {}
    for part in parts:
        title, _, body = part.partition("\n")
        if title == "Goals":
            goals = [row for row in body.splitlines() if row.startswith("| ")][1:]
        else:
            sections[title.strip("`")] = body.strip()
    return goals, sections


def merged(before, measured, machine):
    """What a page had, with what was measured now in its place."""
    old, sections = before
    new = goals([figure for _, figures in measured for figure in figures])
    what = lambda row: row.split(" | ")[:2]
    rows = [row for row in old if what(row) not in [what(own) for own in new]] + new
    return rows, sections | {" ".join(command): f"{machine}\n\n{table(figures)}" for command, figures in measured}


def page(goals, sections):
    text = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench`; `e2e/bench.py NAME` writes one section anew. -->",
        "",
        "A figure *beside ours* is a contender's figure divided by ours; both are in the table. Each section says when and where",
        "it was measured.",
    ]
    text += ["", "## Goals", "", "| what | who | goal | measured | |", "|---|---|---:|---:|---|", *goals]
    for command, body in sections.items():
        text += ["", f"## `{command}`", "", body]
    return "\n".join(text) + "\n"


def goals(figures):
    """A row for each goal: met, or missed and by how much."""
    rows = []

    def row(what, who, goal, measured, unit, met):
        by = f"missed by {abs(measured / goal - 1) * 100:.0f} %" if goal else "missed"
        rows.append(f"| {what} | {who} | {number(goal)} {unit} | {number(measured)} {unit} | {'met' if met else by} |")

    for figure in figures:
        most = figure.get("most", GOALS.get((figure["bench"], figure["who"], figure["unit"])))
        if most is not None:
            row(figure["bench"], figure["who"], most, figure["value"], figure["unit"], figure["value"] <= most)
        least = figure.get("least", GOALS_LEAST.get((figure["bench"], figure["who"], figure["unit"])))
        if least is not None:
            row(f"{figure['bench']} (at least)", figure["who"], least, figure["value"], figure["unit"], figure["value"] >= least)
    line = next((f["value"] for f in figures if f["who"].endswith("= L") and f["unit"] == "ns"), None)
    for quantile, factor in (("p50", 1.3), ("p99", 3)):
        hop = next((f for f in figures if "hop" in f["bench"] and quantile in f["bench"] and f["who"] == OURS and f["unit"] == "ns"), None)
        if line and hop:
            row(f"{hop['bench']} (at most {factor} L)", OURS, factor * line, hop["value"], "ns", hop["value"] <= factor * line)
    rates = {f["who"]: f["value"] for f in figures if f["bench"] == "events per CPU second"}
    if OURS in rates and len(rates) > 1:
        best = max(value for who, value in rates.items() if who != OURS)
        row("events per CPU second (at least 10 x the best peer)", OURS, 10 * best, rates[OURS], "/s", rates[OURS] >= 10 * best)
    return rows


def machine_line():
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = f"{len(models)} x {models[0]}" if models else model
    rustc = capture("rustc", "--version").strip()
    commit = capture("git", "rev-parse", "--short", "HEAD").strip()
    return f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit}: {model}, {platform.system()} {platform.release()}, {rustc}"


def capture(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
