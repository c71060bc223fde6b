"""Measure what a node needs for a model of so many numbers: memory, processor and time of a round.

    python scripts/bench_sizes.py                                # 4 M numbers, two nodes, fedavg and diloco
    python scripts/bench_sizes.py --numel 50000000 --json        # a line per method
    python scripts/bench_sizes.py --methods diloco --inner adamw # the inner optimizer's moments too

Real nodes on loopback train a task without work (scripts/empty_task.py), so that what is left is shoal's own.
Memory is the peak of the daemon's and the trainer's PSS, in which shared memory counts once.
`bytes_per_parameter` is what the peak is above `--base-mb`, which is about what both processes take for a
small model, and without the inner optimizer's moments: those are `optimizer_bytes_per_parameter`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import psutil

from shoal.gossip.run_spec import Combine
from shoal.node.errors import NotRunning, Refused
from shoal.node.status import RoundStatus, Status
from shoal.node.testnet.processes import Guard, environment, spawn
from shoal.node.web import client

SCRIPTS: Final = Path(__file__).resolve().parent
BASE_MB: Final = 450.0
"""Python, torch and libp2p in two processes, and buffers that do not grow with the model."""
WARM_UP: Final = 2
"""Rounds that are not timed: memory is touched for the first time."""
MOMENTS: Final = {"adamw": 8.0}
"""Inner optimizer -> bytes that it keeps for a parameter."""
EVERY: Final = 0.05
"""Seconds between two looks at the memory."""
STATIC: Final = ("--no-mdns", "--http-port", "0", "--no-check", "--wait-for", "{nodes}")
NODE: Final = (sys.executable, "-P", "-m", "shoal.node")
LISTEN: Final = ("--listen", "/ip4/127.0.0.1/tcp/0")


@dataclass(slots=True)
class Seen:
    """What was seen of one node."""

    peak_bytes: int = 0
    parts: tuple[int, int, int] = (0, 0, 0)
    """At the peak: private to the daemon, private to the trainer, and the rest, which is shared."""
    cpu_at: dict[int, float] = field(default_factory=dict)
    """Round -> the trainer's processor seconds when it was first seen."""
    history: Sequence[RoundStatus] = ()


def memory_of(rollup: str) -> tuple[int, int]:
    """Return (PSS, private) in bytes from the text of /proc/PID/smaps_rollup."""
    found = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in rollup.splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = 1024 * int(rest.split()[0])
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]


def row(method: str, inner: str, numel: int, nodes: int, base: int, seen: Sequence[Seen]) -> dict[str, Any]:
    """Return what is reported of a method: the node with the highest peak, and medians of all."""
    largest = max(seen, key=lambda each: each.peak_bytes)
    moments = MOMENTS.get(inner, 0.0)
    rounds = [timed for each in seen for timed in spans(each.history)]
    exchanges = [r.exchange_seconds for each in seen for r in each.history if r.outcome == "averaged"][
        WARM_UP:
    ]
    cpu = [spent for each in seen if (spent := cpu_per_round(each.cpu_at)) is not None]
    daemon, trainer, shared = (round(part / numel, 1) for part in largest.parts)
    return {
        "method": method,
        "inner": inner,
        "numel": numel,
        "nodes": nodes,
        "peak_bytes": largest.peak_bytes,
        "base_bytes": base,
        "bytes_per_parameter": round((largest.peak_bytes - base) / numel - moments, 1),
        "optimizer_bytes_per_parameter": moments,
        "daemon_private_per_parameter": daemon,
        "trainer_private_per_parameter": trainer,
        "shared_per_parameter": shared,
        "trainer_cpu_seconds": round(max(cpu), 3) if cpu else None,
        "round_seconds": round(median(rounds), 3) if rounds else None,
        "exchange_seconds": round(median(exchanges), 3) if exchanges else None,
        "rounds": min(len(each.history) for each in seen),
    }


def spans(history: Sequence[RoundStatus]) -> list[float]:
    """Return the seconds from the end of one averaged round to that of the next."""
    ends = [each.finished_at for each in history if each.outcome == "averaged"][WARM_UP:]
    return [after - before for before, after in pairwise(ends)]


def cpu_per_round(cpu_at: dict[int, float]) -> float | None:
    """Return the processor seconds of a round, as a mean over those that were seen to begin and to end."""
    known = [number for number in cpu_at if number >= WARM_UP]
    if len(known) < 2:
        return None
    first, last = min(known), max(known)
    return (cpu_at[last] - cpu_at[first]) / (last - first)


def measure(method: str, inner: str, numel: int, nodes: int, rounds: int, combine: str) -> list[Seen]:
    """Run nodes until each has made so many rounds; returns what was seen of each."""
    with (
        tempfile.TemporaryDirectory() as folder,
        swarm(Path(folder), method, inner, numel, nodes, combine) as running,
    ):
        seen = [Seen() for _ in running]
        while any(process.poll() is None for _, process in running):
            for (home, process), each in zip(running, seen, strict=True):
                _look(home, process, each)
            if all(_is_over(each.history, rounds) for each in seen):
                return seen
            time.sleep(EVERY)
        logs = "\n".join((home / "out.log").read_text()[-2000:] for home, _ in running)
        raise SystemExit(f"the nodes ended before {rounds} rounds\n{logs}")


def _is_over(history: Sequence[RoundStatus], rounds: int) -> bool:
    return sum(each.outcome == "averaged" for each in history) >= rounds


def _look(home: Path, process: "subprocess.Popen[bytes]", seen: Seen) -> None:
    status = _status(home)
    if status is None:
        return
    seen.history = status.history or seen.history
    with suppress(psutil.Error, OSError):
        children = psutil.Process(process.pid).children()
        trainer = next((each for each in children if "--spec" in each.cmdline()), None)
        if trainer is None:
            return
        seen.cpu_at.setdefault(status.round, sum(trainer.cpu_times()[:2]))
        (daemon, of_daemon), (pss, of_trainer) = (
            memory_of(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in (process.pid, trainer.pid)
        )
        if daemon + pss > seen.peak_bytes:
            seen.peak_bytes = daemon + pss
            seen.parts = (of_daemon, of_trainer, daemon + pss - of_daemon - of_trainer)


def _status(home: Path) -> Status | None:
    try:
        return client.fetch_status(home)
    except (NotRunning, Refused):
        return None


@contextmanager
def swarm(
    folder: Path, method: str, inner: str, numel: int, nodes: int, combine: str
) -> Iterator[list[tuple[Path, "subprocess.Popen[bytes]"]]]:
    """Run nodes of one run; yields the home and the process of each."""
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []
    options = ["--option", "steps=2"] + (["--option", f"inner={inner}"] if inner != "task" else [])
    flags = [part.format(nodes=nodes) for part in (*STATIC, *LISTEN)]
    train = ["--task", "empty_task:Empty", "--task-option", f"numel={numel}", "--method", method, *options]
    train += ["--combine", combine]
    guard = Guard()
    try:
        for number in range(nodes):
            home = folder / f"node{number}"
            home.mkdir()
            join = ["--join", _address(running[0][0])] if running else []
            command = [*NODE, "start", "--home", str(home), *flags, *train, *join]
            process = spawn(command, home / "out.log", environment(os.environ), str(SCRIPTS))
            guard.watch(process.pid)
            running.append((home, process))
        yield running
    finally:
        for _, process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        guard.close()


def _address(home: Path) -> str:
    for _ in range(1200):
        status = _status(home)
        if status is not None and status.addresses:
            return status.addresses[0]
        time.sleep(0.1)
    raise SystemExit(f"the first node does not listen\n{(home / 'out.log').read_text()[-2000:]}")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows for people."""
    from rich.console import Console
    from rich.table import Table

    names = [
        "method",
        "bytes_per_parameter",
        "optimizer_bytes_per_parameter",
        "daemon_private_per_parameter",
        "trainer_private_per_parameter",
        "shared_per_parameter",
        "trainer_cpu_seconds",
        "round_seconds",
        "exchange_seconds",
    ]
    table = Table(title=f"{rows[0]['numel']:,} numbers, {rows[0]['nodes']} nodes")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for each in rows:
        table.add_row(*(str(each[name]) for name in names))
    Console().print(table)


def main() -> None:
    """Read the command line and run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--numel", type=int, default=4_000_000, help="numbers of the model")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8, help=f"of which the first {WARM_UP} are not timed")
    parser.add_argument("--methods", default="fedavg,diloco", help="divided by commas")
    parser.add_argument("--inner", default="task", choices=("task", "sgd", "adamw"), help="of diloco")
    parser.add_argument("--combine", default="clip", choices=get_args(Combine), help="clip, as in open runs")
    parser.add_argument("--base-mb", type=float, default=BASE_MB, help="not counted")
    parser.add_argument("--json", action="store_true", help="a line per method")
    options = parser.parse_args()
    rows = []
    for method in options.methods.split(","):
        inner = options.inner if method == "diloco" else "task"
        base = int(1e6 * options.base_mb)
        seen = measure(method, inner, options.numel, options.nodes, options.rounds, options.combine)
        rows.append(
            {"combine": options.combine, **row(method, inner, options.numel, options.nodes, base, seen)}
        )
        if options.json:
            print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print_table(rows)


if __name__ == "__main__":
    main()
