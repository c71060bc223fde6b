"""Compare averaging engines side by side, in one run, on the same vectors.

    python scripts/bench_averaging.py                                  # the full table, many minutes
    python scripts/bench_averaging.py --peers 4 --numel 25000000 --systems shoal-float32,hivemind-float32,gloo
    python scripts/bench_averaging.py --json                           # one line per row
    python scripts/bench_averaging.py --repeats 5                      # the steadier way, below

Systems: shoal-CODEC; shoal:tcp-float32 (over TCP as between machines; on one, nodes take Unix sockets);
hivemind-float32, -float16, -uint8 (told the exact group size), hivemind-default (told nothing); gloo
(torch.distributed, plaintext, no faults: the practical floor); copy (the bytes of one peer through a bare
loopback socket); sealed (the same, encrypted and opened). A round's time is that of its slowest peer.

With --repeats the systems take turns, so that none has the machine's better minutes to itself. A ratio is
then the median over the turns, with the smallest and the largest. A system that does not average is a row
with rounds lost; where it is ours or gloo, the exit code says so too. With --write, docs/benchmarks.md and a
plot are written.
"""

import argparse
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from shoal.gossip.net.transport.records import AES, TAG, Cipher

ROOT: Final = Path(__file__).resolve().parent.parent
WARM_UP: Final = 1
SYSTEMS: Final = (
    "shoal-float32",
    "shoal-float16",
    "shoal-int8",
    "shoal:tcp-float32",
    "hivemind-float32",
    "hivemind-float16",
    "hivemind-uint8",
    "hivemind-default",
    "gloo",
    "copy",
    "sealed",
)
OURS: Final = ("shoal", "shoal:tcp")


def worker_of(system: str) -> tuple[str, dict[str, Any]]:
    """Return the worker module of a system and its options."""
    engine, _, codec = system.partition("-")
    if engine in OURS:
        return "scripts.bench_peer", {"codec": codec, "fast": True, "local": engine == "shoal"}
    if engine == "hivemind":
        told = codec != "default"
        return "scripts.bench_hivemind", {"codec": codec if told else "float32", "told_size": told}
    return "scripts.bench_gloo", {}


class WorkerEnded(Exception):
    """A peer's process ended before its rounds."""


class Worker:
    """One peer process."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        """Start it and hand it its options."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.errors: list[str] = []
        threading.Thread(target=self._drain, daemon=True).start()
        self.tell(options)

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.errors = list(self.process.stderr)[-5:]

    def tell(self, value: Any) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        """Return the next JSON line."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith("{"):
                line: dict[str, Any] = json.loads(text)
                return line
        self.process.wait()
        raise WorkerEnded("a worker ended early: " + "".join(self.errors)[-800:])

    def end(self) -> None:
        """Let it end; kill it if it does not."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (subprocess.TimeoutExpired, OSError):
            self.process.kill()
            self.process.wait()


def run_group(system: str, peers: int, numel: int, rounds: int) -> list[list[dict[str, Any]]]:
    """Return the rows of each peer."""
    module, options = worker_of(system)
    common = {"peers": peers, "numel": numel, "rounds": rounds + WARM_UP, **options}
    workers = [Worker(module, {"index": index, **common}) for index in range(peers)]
    try:
        first = workers[0].line()["address"]
        for worker in workers[1:]:
            worker.line()
        for index, worker in enumerate(workers):
            worker.tell([first] if index else [])
        rows: list[list[dict[str, Any]]] = [[] for _ in workers]
        while len(rows[0]) < rounds + WARM_UP:
            lines = [worker.line() for worker in workers]
            if "barrier" in lines[0]:
                for worker in workers:
                    worker.tell({})
                continue
            for mine, line in zip(rows, lines, strict=True):
                mine.append(line)
        return [mine[WARM_UP:] for mine in rows]
    finally:
        for worker in workers:
            worker.end()


COPIED: Final = 512 * 1024
"""Bytes of a record of *copy* and *sealed*: the largest of a link."""


def run_copy(peers: int, numel: int, rounds: int, *, sealed: bool = False) -> list[list[dict[str, Any]]]:
    """Push one peer's bytes through a loopback socket, as they are or in the sealed records of a link."""
    n_bytes = 8 * numel * (peers - 1) // peers
    records, tail = divmod(n_bytes, COPIED)
    sizes = [COPIED] * records + [tail] * bool(tail)
    rows = []
    left, right = socket.socketpair()
    with left, right:
        for round_ in range(rounds + WARM_UP):
            ciphers = (Cipher(bytes(32), AES), Cipher(bytes(32), AES)) if sealed else (None, None)
            sender = threading.Thread(target=_give, args=(left, sizes, ciphers[0]))
            start, cpu = time.perf_counter(), time.process_time()
            sender.start()
            _take(right, sizes, ciphers[1])
            sender.join()
            row = {"round": round_, "seconds": time.perf_counter() - start, "matchmaking_seconds": 0.0}
            used = time.process_time() - cpu
            rows.append(row | {"bytes": n_bytes, "cpu_seconds": used, "error": 0.0, "peak_rss_mb": 0.0})
    return [rows[WARM_UP:]]


def _give(link: socket.socket, sizes: Sequence[int], cipher: Cipher | None) -> None:
    plain, out = memoryview(bytes(COPIED)), memoryview(bytearray(COPIED + TAG))
    for size in sizes:
        if cipher is None:
            link.sendall(plain[:size])
            continue
        cipher.seal_into(plain[:size], out[: size + TAG])
        link.sendall(out[: size + TAG])


def _take(link: socket.socket, sizes: Sequence[int], cipher: Cipher | None) -> None:
    plain, got = memoryview(bytearray(COPIED)), memoryview(bytearray(COPIED + TAG))
    for size in sizes:
        wanted, n = size + (TAG if cipher else 0), 0
        while n < wanted:
            n += link.recv_into(got[n:wanted])
        if cipher is not None:
            cipher.open_into(got[:wanted], plain[:size])


def summary(
    system: str, peers: int, numel: int, rows: list[list[dict[str, Any]]], load: float
) -> dict[str, Any]:
    """Return one line of the result; `load` is the machine's before it.

    Rounds in which peers did not get the mean of all do not count, and are told: hivemind closes some groups
    before everyone is in them. Ours and gloo's may lose none.
    """
    engine, _, codec = system.partition("-")
    rounds = list(zip(*rows, strict=True))
    good = [round_ for round_ in rounds if max(row["error"] for row in round_) <= MOST_WRONG]
    if not good:
        return lost(system, peers, numel, len(rounds), load)
    seconds = [max(row["seconds"] for row in round_) for round_ in good]
    waits = [max(row["matchmaking_seconds"] for row in round_) for round_ in good]
    whole = [max(row["seconds"] + row["matchmaking_seconds"] for row in round_) for round_ in good]
    flat = [row for round_ in good for row in round_]
    sent = [row["bytes"] for row in flat if row["bytes"] is not None]
    return {
        "system": engine,
        "codec": codec or "float32",
        "peers": peers,
        "numel": numel,
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "matchmaking_seconds": statistics.median(waits),
        "round_seconds": statistics.median(whole),
        "bytes_per_peer": statistics.median(sent) if sent else None,
        "cpu_seconds_per_peer": statistics.median(row["cpu_seconds"] for row in flat),
        "peak_rss_mb": max(row["peak_rss_mb"] for row in flat),
        "vectors_of_memory": max((row.get("vectors") or 0.0 for row in flat), default=0.0) or None,
        "page_faults": statistics.median(row.get("page_faults", 0) for row in flat),
        "huge_mb": max(row.get("huge_mb", 0.0) for row in flat),
        "largest_error": max(row["error"] for row in flat),
        "rounds_lost": len(rounds) - len(good),
        "load_before": load,
    }


def lost(system: str, peers: int, numel: int, rounds: int, load: float, why: str = "") -> dict[str, Any]:
    """Return the line of a system of which no round came to the mean."""
    engine, _, codec = system.partition("-")
    what = {"system": engine, "codec": codec or "float32", "peers": peers, "numel": numel}
    return what | {"rounds_lost": rounds, "load_before": load, "why": why}


def pooled(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one line for the turns of a system: medians, extremes, and all lost rounds."""
    good = [turn for turn in turns if "seconds_median" in turn]
    told = {"rounds_lost": sum(turn["rounds_lost"] for turn in turns), "turns": turns}
    if not good:
        return turns[0] | told
    middles = (
        "seconds_median",
        "matchmaking_seconds",
        "round_seconds",
        "cpu_seconds_per_peer",
        "page_faults",
    )
    line = good[0] | {name: statistics.median(turn[name] for turn in good) for name in middles}
    line["seconds_min"] = min(turn["seconds_min"] for turn in good)
    line["seconds_max"] = max(turn["seconds_max"] for turn in good)
    return line | told


def ratio(one: dict[str, Any], other: dict[str, Any], name: str) -> str:
    """Return the median ratio over the turns of two systems, with its spread where there are several."""
    pairs = zip(one.get("turns", [one]), other.get("turns", [other]), strict=False)
    found = [mine[name] / its[name] for mine, its in pairs if mine.get(name) and its.get(name)]
    if not found:
        return ""
    middle = f"{statistics.median(found):.2f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.2f} to {max(found):.2f})"


MOST_WRONG: Final = 0.1
"""Eight bits round values from -8 to 8 by less; a peer that kept its own is off by 0.5."""


COLUMNS: Final = (
    *("numbers", "peers", "system", "all-reduce s", "min to max", "whole round s", "x gloo", "CPU x gloo"),
    *("hivemind x", "its round x", "default round x", "CPU s/peer", "faults", "huge MB", "MB/peer", "memory"),
    *("lost", "load"),
)


def ratios(row: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, str]:
    """Return how a row compares to gloo and to hivemind with the same numbers on the wire."""
    group = {(r["system"], r["codec"]): r for r in results if _same(r, row)}
    gloo, is_ours = group.get(("gloo", "float32")), row["system"] in OURS
    twin = {"float32": "float32", "float16": "float16", "int8": "uint8"}.get(row["codec"], "")
    hivemind = group.get(("hivemind", twin)) if is_ours else None
    default = group.get(("hivemind", "default")) if is_ours and row["codec"] == "float32" else None
    return {
        "x gloo": ratio(row, gloo, "seconds_median") if gloo else "",
        "CPU x gloo": ratio(row, gloo, "cpu_seconds_per_peer") if gloo else "",
        "hivemind x": ratio(hivemind, row, "seconds_median") if hivemind else "",
        "its round x": ratio(hivemind, row, "round_seconds") if hivemind else "",
        "default round x": ratio(default, row, "round_seconds") if default else "",
    }


def cells_of(row: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, str]:
    """Return a row as a reader sees it."""
    name = {
        "numbers": f"{row['numel'] / 1e6:g} M",
        "peers": str(row["peers"]),
        "system": f"{row['system']} {row['codec']}",
    }
    end = {"lost": str(row.get("rounds_lost", 0) or ""), "load": f"{row['load_before']:.1f}"}
    if "seconds_median" not in row:
        return dict.fromkeys(COLUMNS, "") | name | end
    mega = row["bytes_per_peer"] and f"{row['bytes_per_peer'] / 1e6:.0f}"
    return {
        **name,
        "all-reduce s": f"{row['seconds_median']:.3f}",
        "min to max": f"{row['seconds_min']:.3f} to {row['seconds_max']:.3f}",
        "whole round s": f"{row['round_seconds']:.3f}",
        **ratios(row, results),
        "CPU s/peer": f"{row['cpu_seconds_per_peer']:.3f}",
        "faults": f"{row.get('page_faults', 0):.0f}",
        "huge MB": f"{row.get('huge_mb', 0):.0f}",
        "MB/peer": mega or "",
        "memory": f"{vectors:.2f}" if (vectors := row.get("vectors_of_memory")) else "",
        **end,
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return the results as a table, a column for each system, with ratios within the same peers and size."""
    rows = [cells_of(row, results) for row in results]
    table = Table(title="averaging, medians over rounds of the slowest peer")
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(f"{row['system']}, {row['peers']} peers, {row['numbers']}", justify="right")
    for name in COLUMNS[COLUMNS.index("system") + 1 :]:
        if any(row[name] for row in rows):
            table.add_row(name, *(row[name] for row in rows))
    return table


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["peers"] == other["peers"] and one["numel"] == other["numel"])


LEGEND: Final = """\
How to read it: *all-reduce s* is the time from a formed group to the mean, on the slowest peer, median over
the rounds; *whole round s* adds the matchmaking. *x gloo* is that time divided by gloo's (1 would be the
speed of plaintext without any fault tolerance); *hivemind x* is hivemind's time with the same codec divided
by ours (uint8 is its 8-bit codec); *its round x* and *default round x* compare whole rounds, with hivemind
told the exact group size and with its defaults. *CPU s/peer* is user and system time of one peer process in
one round: on a busy machine it is the steadier figure; *CPU x gloo* compares it. *faults* are pages that the
process touched for the first time in a round, and *huge MB* is what of it lay in huge pages. *memory* is the
most that a round took beyond the bare process, in vectors: 1 is the vector itself. *lost*: rounds that did
not end in the mean of all peers, and are left out. A row with nothing else is a system of which no round
ended so. *load* is the one-minute load average before the row
was measured: it holds what the rows before left behind, and whatever else ran. *copy* are the bytes of
one peer through a bare socket pair, and *sealed* the same in the encrypted records of a link: the processor
seconds between them are what encryption costs a peer at least, and gloo has no such cost.
"""


def write_docs(results: list[dict[str, Any]]) -> None:
    """Write docs/benchmarks.md and its plot."""
    plot(results)
    rows = [cells_of(row, results) for row in results]
    lines = ["# Benchmarks", ""]
    lines += [f"    {command}" for command in dict.fromkeys(row["command"] for row in results)]
    lines += ["", f"{_machine()}.", "", "![seconds per all-reduce](benchmarks.png)", "", LEGEND]
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + " ---: |" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines) + "\n")


def kept(results: list[dict[str, Any]], *, append: bool) -> list[dict[str, Any]]:
    """Keep rows for the document; with `append`, behind those of earlier runs."""
    path = ROOT / "docs" / "benchmarks.jsonl"
    new = {(row["system"], row["codec"], row["peers"], row["numel"]) for row in results}
    old = [json.loads(line) for line in path.read_text().splitlines()] if append and path.exists() else []
    rows = [r for r in old if (r["system"], r["codec"], r["peers"], r["numel"]) not in new] + results
    rows.sort(key=lambda row: (-row["numel"], row["peers"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def plot(results: list[dict[str, Any]]) -> None:
    """Draw the largest vector among four peers, or what comes nearest."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    largest = max(results, key=lambda r: (r["numel"], r["peers"] == 4))
    shown = [r for r in results if _same(r, largest) and r["codec"] != "default" and "seconds_median" in r]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(shown) + 1.4))
    names = [
        f"{r['system']} {r['codec']}" if r["system"] not in ("gloo", "copy", "sealed") else r["system"]
        for r in shown
    ]
    colors = ["#0072b2" if r["system"] in OURS else "#999999" for r in shown]
    bars = axes.barh(names, [r["seconds_median"] for r in shown], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per all-reduce, median; shorter is better")
    axes.set_title(f"{largest['numel'] / 1e6:g} M numbers, {largest['peers']} peers on one machine")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "benchmarks.png", dpi=120)


def _machine() -> str:
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {python}"


def measured(system: str, peers: int, numel: int, rounds: int) -> dict[str, Any]:
    """Let a system take its turn; where it does not average, say so in its line."""
    load = os.getloadavg()[0]
    try:
        if system in ("copy", "sealed"):
            rows = run_copy(peers, numel, rounds, sealed=system == "sealed")
        else:
            rows = run_group(system, peers, numel, rounds)
        return summary(system, peers, numel, rows, load)
    except WorkerEnded as error:
        return lost(system, peers, numel, rounds, load, str(error))


def main() -> int:
    """Run what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="2,4,8")
    parser.add_argument("--numel", default="1000000,10000000,25000000")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=1, help="turns of all systems, one after the other")
    parser.add_argument("--json", action="store_true", help="a line per row instead of the table")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plot")
    parser.add_argument("--append", action="store_true", help="like --write, and keep rows of earlier runs")
    options = parser.parse_args()
    systems = options.systems.split(",")
    unknown = set(systems) - set(SYSTEMS) - {"shoal-bfloat16"}
    if unknown:
        parser.error(f"unknown system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    if importlib.util.find_spec("hivemind") is None:
        systems = [system for system in systems if not system.startswith("hivemind")]
        print("hivemind is not installed (pip install hivemind): left out", file=sys.stderr)
    command = " ".join(["python scripts/bench_averaging.py", *sys.argv[1:]])
    sizes = [(int(n), int(k)) for n in options.numel.split(",") for k in options.peers.split(",")]
    results = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("averaging", total=len(sizes) * len(systems) * options.repeats)
        for numel, peers in sizes:
            turns: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
            for _ in range(options.repeats):
                for system in systems:
                    progress.update(task, description=f"{system}, {peers} peers, {numel / 1e6:g} M")
                    turns[system].append(measured(system, peers, numel, options.rounds))
                    progress.advance(task)
            for each in turns.values():
                results.append(pooled(each) | {"command": command})
                if options.json:
                    print(json.dumps(results[-1]), flush=True)
    if not options.json:
        Console().print(table_of(results))
    if options.write or options.append:
        write_docs(kept(results, append=options.append))
    failed = [row for row in results if row["rounds_lost"] and row["system"] != "hivemind"]
    for row in failed:
        print(f"{row['system']} {row['codec']} lost rounds: {row['rounds_lost']}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
