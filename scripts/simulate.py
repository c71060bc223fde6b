"""Simulate thousands of swarms, each from one seed, and shrink what fails.

    python scripts/simulate.py --seeds 1000                  # seeds 0 to 999, two to nine peers each
    python scripts/simulate.py --seeds 200 --peers 8 --jobs 1
    python scripts/simulate.py --start 4711 --seeds 1        # one seed again
    python scripts/simulate.py --seeds 1000 --json           # nothing but the last line
    python scripts/simulate.py --scenario scenarios/torchft.toml --seeds 20

A seed says how many peers there are, how fast and how far apart, and what befalls them: crashes between any
two effects, restarts, freezes, partitions, one-way, slow and breaking links, clocks that leap, peers that
lie. Time is virtual, the code is that of a node; docs/simulation.md says what is checked. A failing
seed is run again with fewer and fewer faults, and printed as a literal for
tests/sim/test_runs.py.

The last line is one JSON object with `seeds`, `violations`, `seeds_per_second` (of processor time per
process) and `trace`, a hash of all that happened, which is the same on every machine. Exit code 1 if an
invariant was violated. Ctrl-C ends the run: the line then tells of the seeds that were run, exit code 130.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import zlib
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console  # noqa: E402 - the path comes first
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402
from sim.runs import draw, shrink  # noqa: E402
from sim.scenario import scenario_of  # noqa: E402
from sim.world import Sim  # noqa: E402

from shoal.node.errors import UserError  # noqa: E402
from shoal.node.testnet.plan import load  # noqa: E402

if TYPE_CHECKING:
    from sim.checks import Violation
    from sim.world import Scenario

    from shoal.node.testnet.plan import Plan

BATCH: Final = 10
AHEAD: Final = 4
"""Batches handed out per process: enough that none waits, few to wait for after Ctrl-C."""
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Outcome:
    """What came of one batch of seeds."""

    failed: tuple[tuple[int, Violation], ...]
    events: int
    traces: tuple[str, ...]
    seconds: float
    """Of processor time."""


def make(seed: int, peers: int | None, plan: Plan | None) -> Scenario:
    """Return what a seed stands for: a scenario drawn by it, or that of a plan with its dice."""
    return draw(seed, peers) if plan is None else scenario_of(plan, seed)


def run_batch(first: int, count: int, peers: int | None, plan: Plan | None) -> Outcome:
    """Run some seeds in a row."""
    began = time.process_time()
    failed: list[tuple[int, Violation]] = []
    events = 0
    traces = []
    for seed in range(first, first + count):
        result = Sim(make(seed, peers, plan)).run()
        events += result.events
        traces.append(result.trace)
        failed += [(seed, violation) for violation in result.violations]
    return Outcome(tuple(failed), events, tuple(traces), time.process_time() - began)


def run_all(arguments: argparse.Namespace, progress: Progress) -> list[Outcome]:
    """Run all seeds, in as many processes as asked for; after Ctrl-C those that were run count."""
    task = progress.add_task("seeds", total=arguments.seeds)
    end = arguments.start + arguments.seeds
    batches = [
        (first, min(BATCH, end - first), arguments.peers, arguments.plan)
        for first in range(arguments.start, end, BATCH)
    ]
    outcomes: list[Outcome] = []
    failures, is_stopped = 0, False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True

    # A flag, not an exception: that could come in the middle of handing out work, and leave it locked.
    former = signal.signal(signal.SIGINT, stop)
    try:
        with ProcessPoolExecutor(arguments.jobs, initializer=leave_to_parent) as pool:
            rest, waiting = deque(batches), deque[tuple[int, Future[Outcome]]]()
            while True:
                while rest and not is_stopped and len(waiting) < AHEAD * arguments.jobs:
                    batch = rest.popleft()
                    waiting.append((batch[1], pool.submit(run_batch, *batch)))
                if not waiting:
                    break
                count, future = waiting.popleft()
                outcomes.append(future.result())
                for seed, violation in outcomes[-1].failed:
                    progress.console.print(f"seed {seed}: {violation.invariant}", markup=False)
                failures += len(outcomes[-1].failed)
                progress.update(task, advance=count, description=f"seeds, {failures} violations")
    finally:
        signal.signal(signal.SIGINT, former)
    return outcomes


def leave_to_parent() -> None:
    """Ignore Ctrl-C, which a terminal sends to all: the process that counts ends the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def trace_of(outcomes: list[Outcome]) -> str:
    """Return the trace of a single seed, or a hash over those of several."""
    traces = [trace for outcome in outcomes for trace in outcome.traces]
    return traces[0] if len(traces) == 1 else f"{zlib.crc32(' '.join(traces).encode()):08x}"


def explain(console: Console, seed: int, violation: Violation, scenario: Scenario) -> None:
    """Print a violation, and the smallest scenario found that still shows it."""
    console.print(f"seed {seed}: {violation.invariant} (at {violation.at:.2f} s)", markup=False)
    console.print(f"  {violation.detail}", markup=False, soft_wrap=True)
    smallest = shrink(scenario)
    console.print(f"  {smallest!r}", markup=False, soft_wrap=True, highlight=False)
    for left in Sim(smallest).run().violations:
        console.print(f"  there: {left.invariant}: {left.detail}", markup=False, soft_wrap=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Simulate swarms by seed and check their invariants.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (0)")
    parser.add_argument(
        "--peers", type=int, default=None, help="peers per swarm (drawn from the seed: 2 to 9)"
    )
    parser.add_argument("--scenario", type=Path, help="a file that testnets take, instead of drawn faults")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (2)")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.jobs < 1 or arguments.start < 0:
        parser.error("--seeds and --jobs are at least 1, --start at least 0")
    if arguments.peers is not None and not 2 <= arguments.peers <= 64:
        parser.error("--peers is between 2 and 64")
    arguments.plan = None
    if arguments.scenario is not None:
        if arguments.peers is not None:
            parser.error("--scenario says how many nodes there are: leave out --peers")
        try:
            arguments.plan = load(arguments.scenario)
            make(arguments.start, None, arguments.plan)
        except UserError as error:
            parser.error(str(error))
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    arguments = parse(argv)
    console = Console(stderr=True, quiet=arguments.json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        outcomes = run_all(arguments, progress)
    failed = [failure for outcome in outcomes for failure in outcome.failed]
    explained: set[str] = set()
    for seed, violation in failed:
        if violation.invariant not in explained and not arguments.json:
            explained.add(violation.invariant)
            explain(console, seed, violation, make(seed, arguments.peers, arguments.plan))
    busy = sum(outcome.seconds for outcome in outcomes)
    done = sum(len(outcome.traces) for outcome in outcomes)
    report: dict[str, Any] = {
        "seeds": done,
        "violations": len(failed),
        "seeds_per_second": round(done / busy, 1) if busy else 0.0,
        "start": arguments.start,
        "peers": arguments.plan.nodes if arguments.plan else arguments.peers or "2-9",
        "failing_seeds": sorted({seed for seed, _ in failed})[:100],
        "trace": trace_of(outcomes),
        "events": sum(outcome.events for outcome in outcomes),
        "wall_seconds": round(time.monotonic() - began, 1),
        "jobs": arguments.jobs,
    }
    print(json.dumps(report))
    if failed:
        return 1
    return 0 if done == arguments.seeds else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
