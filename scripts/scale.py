"""Measure how a swarm grows: what a peer says and to how many, how states become one, how fast one joins.

    python scripts/scale.py                                   # 100, 300, 1,000, 3,000 and 10,000 peers
    python scripts/scale.py --peers 100,1000 --rounds 4       # smaller, and longer
    python scripts/scale.py --peers 100,1000,10000 --json     # nothing but the last line
    python scripts/scale.py --idle --peers 8,16,32,64,128     # what is said while all are at work
    python scripts/scale.py --from docs/scale.json --plots docs   # draw again what was measured

Every peer is a whole `Member` as it ships, in virtual time, in one process per size (tests/sim/crowd.py):
what is replaced is the network, the clock, the dice and the trainer, whose model has 32 numbers. 20 % of
the peers die in an hour and are replaced, so short runs of small swarms see no death; five newcomers arrive
in any case. Sizes of messages are those of the real wire. docs/scale.md says what came of it.

Sizes may be measured apart, with --save, and put together with --from. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import Manager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from crowd_sizes import Sizes  # noqa: E402 - the path comes first
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from sim.crowd import Crowd, Plan, mixing  # noqa: E402

PEERS: Final = "100,300,1000,3000,10000"
MAX_PEERS: Final = 50_000
FAMILIES: Final = {
    "presence": ("Records", "Leave", "Describe", "Announcement"),
    "matchmaking": ("Ready", "Propose", "Accept", "Decline", "Commit"),
    "averaging": ("Part", "Reduced", "Done", "Alive", "Cut", "Abandon", "Claim", "Yield"),
    "state": ("Want", "Offer", "Fetch", "Chunk", "NotHeld", "Wait"),
}
BOUND: Final = 1.5
"""How much more than the smallest swarm's a peer may say in the largest."""


def measure(plan: Plan, told: Callable[[tuple[int, float, int]], None]) -> dict[str, Any]:
    """Run one size; `told((peers, virtual seconds, round))` is called now and then."""
    began = time.process_time()
    # Nothing here is garbage before the end, and looking for it takes a third of the time.
    gc.disable()
    crowd = Crowd(plan, Sizes())
    for round_, now in crowd.run():
        told((plan.peers, now, round_))
    tally = crowd.tally
    rounds = max(1, tally.rounds)
    links = [len(crowd.peers[peer].links) for peer in crowd.alive]
    members = [crowd.peers[peer].member for peer in crowd.alive]
    found: dict[str, Any] = {
        "peers": plan.peers,
        "messages": sum(tally.messages.values()) / rounds,
        "bytes": sum(tally.n_bytes.values()) / rounds,
        "most_bytes": tally.most_bytes,
        "bytes_per_second": sum(tally.n_bytes.values()) / tally.peer_seconds,
        "links": statistics.mean(links),
        "most_links": max(links),
        "known": statistics.mean(len(member.table) for member in members),
        "addresses": statistics.mean(len(member.dial_plan.targets) for member in members),
        "round_seconds": tally.peer_seconds / rounds,
        "rounds_counted": rounds / len(crowd.alive),
        "join_seconds": sorted(round(seconds, 2) for seconds in crowd.join_seconds),
        "failed": dict(tally.failed),
        "mixing": mixing(crowd),
        "events": crowd.events,
        "virtual_seconds": crowd.now,
    }
    for family, kinds in FAMILIES.items():
        found[f"{family}_messages"] = sum(tally.messages[kind] for kind in kinds) / rounds
        found[f"{family}_bytes"] = sum(tally.n_bytes[kind] for kind in kinds) / rounds
    found["cpu_seconds"] = time.process_time() - began
    return found


def measure_idle(peers: int, seed: int) -> dict[str, float]:
    """Return what a peer says while everyone is at work, per second."""
    crowd = Crowd(Plan(peers, group_size=16, pace=1e9, seed=seed), Sizes())
    crowd.idle()
    tally = crowd.tally
    return {
        "peers": peers,
        "bytes_per_second": sum(tally.n_bytes.values()) / tally.peer_seconds,
        "messages_per_second": sum(tally.messages.values()) / tally.peer_seconds,
        "links": statistics.mean(len(crowd.peers[peer].links) for peer in crowd.alive),
    }


def run_all(arguments: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """Measure every size, each in a process of its own, one after the other."""
    found = []
    with Manager() as manager:
        for count in arguments.peers:
            plan = Plan(count, arguments.rounds, seed=arguments.seed)
            task = progress.add_task(f"{count:,} peers", total=plan.rounds)
            words = manager.Queue()
            with ProcessPoolExecutor(1) as pool:
                running = pool.submit(partial(measure, plan, words.put))
                while not running.done():
                    time.sleep(0.2)
                    while not words.empty():
                        _, now, round_ = words.get()
                        text = f"{count:,} peers, {now:.0f} virtual s"
                        progress.update(task, completed=round_, description=text)
                found.append(running.result())
            progress.update(task, completed=plan.rounds)
    return found


def draw(found: list[dict[str, Any]], directory: Path) -> list[Path]:
    """Draw what was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = [each["peers"] for each in found]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.8))
    lowest = [0.0] * len(found)
    for family in FAMILIES:
        heights = [each[f"{family}_bytes"] / 1000 for each in found]
        tops = [low + height for low, height in zip(lowest, heights, strict=True)]
        left.fill_between(peers, lowest, tops, label=family, alpha=0.7)
        lowest = tops
    left.set_title("kB sent per peer and round")
    for family in FAMILIES:
        middle.plot(peers, [each[f"{family}_messages"] for each in found], "o-", label=family)
    middle.set_title("messages sent per peer and round")
    right.plot(peers, [each["links"] for each in found], "o-", label="links, mean")
    right.plot(peers, [each["most_links"] for each in found], "o-", label="links, most")
    right.plot(peers, [each["known"] for each in found], "o-", label="peers known, mean")
    right.set_title("links and records per peer")
    for axes in (left, middle, right):
        axes.set_xscale("log")
        axes.set_xlabel("peers in the swarm")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    first = directory / "scale-traffic.png"
    figure.tight_layout()
    figure.savefig(first, dpi=110)

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for each in found:
        rounds = [0, *(point["round"] for point in each["mixing"])]
        left.plot(
            rounds, [1.0, *(point["variance"] for point in each["mixing"])], "o-", label=f"{each['peers']:,}"
        )
    longest = max(found, key=lambda each: len(each["mixing"]))["mixing"]
    rounds = [0, *(point["round"] for point in longest)]
    left.plot(rounds, [1.0, *(p["theory"] for p in longest)], "k--", label="theory, sizes as met")
    left.plot(rounds, [1.0, *(p["full"] for p in longest)], "k:", label="theory, full groups")
    left.set(yscale="log", xlabel="rounds", title="variance of the peers' states", xticks=rounds)
    for each in found:
        right.plot([each["peers"]] * len(each["join_seconds"]), each["join_seconds"], "o", alpha=0.4)
    medians = [
        (each["peers"], statistics.median(each["join_seconds"])) for each in found if each["join_seconds"]
    ]
    right.plot([peers for peers, _ in medians], [seconds for _, seconds in medians], "k-", label="median")
    right.set(
        xscale="log", xlabel="peers in the swarm", title="seconds until a newcomer had a part in a mean"
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    second = directory / "scale-mixing.png"
    figure.tight_layout()
    figure.savefig(second, dpi=110)
    return [first, second]


def table(found: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| peers | messages | kB | kB, busiest | links | links, most | known | s per round | s to join |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        most = f"{each['most_bytes'] / 1000:.1f}" if each["most_bytes"] else "-"
        joined = f"{statistics.median(each['join_seconds']):.1f}" if each["join_seconds"] else "-"
        lines.append(
            f"| {each['peers']:,} | {each['messages']:.0f} | {each['bytes'] / 1000:.1f} "
            f"| {most} | {each['links']:.1f} | {each['most_links']} "
            f"| {each['known']:.0f} | {each['round_seconds']:.1f} | {joined} |"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure how a swarm grows, in virtual time.")
    parser.add_argument("--peers", default=PEERS, help=f"sizes, with commas ({PEERS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that half of the peers make (3)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument("--save", type=Path, help="write what was measured to this JSON file")
    parser.add_argument(
        "--from",
        dest="saved",
        type=Path,
        nargs="+",
        default=[],
        help="measure nothing; take what was saved here",
    )
    parser.add_argument("--plots", type=Path, help="draw scale-traffic.png and scale-mixing.png here")
    parser.add_argument("--idle", action="store_true", help="measure only what is said while all are at work")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args(argv)
    try:
        arguments.peers = sorted({int(text) for text in arguments.peers.split(",")})
    except ValueError:
        parser.error("--peers takes whole numbers with commas between them, such as 100,1000")
    if not all((2 if arguments.idle else 10) <= count <= MAX_PEERS for count in arguments.peers):
        parser.error(f"--peers are between 10 (with --idle 2) and {MAX_PEERS}")
    if not 2 <= arguments.rounds <= 100:
        parser.error("--rounds is between 2 and 100: the first is not counted")
    for path in arguments.saved:
        if not path.is_file():
            parser.error(f"--from: there is no file {path}; measure one with --save {path}")
    for directory in (arguments.plots, arguments.save and arguments.save.parent):
        if directory is not None and not directory.is_dir():
            parser.error(f"there is no directory {directory}: make it first, with mkdir -p {directory}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    arguments = parse(argv)
    console = Console(stderr=True, quiet=arguments.json)
    if arguments.idle:
        idle = [measure_idle(count, arguments.seed) for count in arguments.peers]
        for each in idle:
            figures = f"{each['bytes_per_second']:.0f} B/s in {each['messages_per_second']:.1f} messages"
            console.print(f"{each['peers']:6,.0f} peers: {figures} per peer, {each['links']:.1f} links")
        print(json.dumps({"idle": idle}))
        return 0
    if arguments.saved:
        found = [each for path in arguments.saved for each in json.loads(path.read_text())["sizes"]]
        found.sort(key=lambda each: int(each["peers"]))
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            found = run_all(arguments, progress)
    grown = {key: found[-1][key] / found[0][key] for key in ("messages", "bytes", "links")}
    report = {"sizes": found, "grown": grown, "holds": max(grown.values()) <= BOUND}
    if arguments.save is not None:
        arguments.save.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plots is not None:
        for path in draw(found, arguments.plots):
            console.print(f"drew {path}")
    console.print(table(found), markup=False, soft_wrap=True)
    print(json.dumps(report))
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
