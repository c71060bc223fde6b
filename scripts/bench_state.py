"""Measure how a state is fetched from one donor and from several, each a process with real links on loopback.

    python scripts/bench_state.py                               # 100 MB from 1, 2, 3 donors of 200 Mbit/s
    python scripts/bench_state.py --mbit 0 --donors 1,3         # as fast as this machine can
    python scripts/bench_state.py --mbits 800,40,4 --donors 3   # donors of unlike speed
    python scripts/bench_state.py --json                        # a line per number of donors

The donors limit themselves, as `gossip.state_upload_mbit` does. Runs of different numbers of donors take
turns, so that a busy machine is equally busy for all. The processes are those of tests/state_process.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PROCESS = Path(__file__).resolve().parent.parent / "tests" / "state_process.py"


@contextmanager
def donor(megabytes: int, mbit: float) -> Iterator[str]:
    """Run a process that holds the state; yields its address."""
    command = [sys.executable, str(PROCESS), "hold", str(megabytes), str(mbit or 1e9)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise SystemExit(f"{PROCESS.name} did not start; see what it printed above")
            yield address
        finally:
            process.kill()


def fetch(megabytes: int, addresses: list[str]) -> dict[str, Any]:
    """Fetch the state in a process of its own; returns what it told."""
    command = [sys.executable, str(PROCESS), "fetch", str(megabytes), *addresses]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    if not told["is_right"]:
        raise SystemExit("what arrived is not the state")
    return told


def row(donors: int, runs: list[dict[str, Any]], megabytes: int, alone: float) -> dict[str, Any]:
    """Return what is reported of a number of donors."""
    seconds = [run["seconds"] for run in runs]
    middle = statistics.median(seconds)
    return {
        "donors": donors,
        "megabytes": megabytes,
        "seconds_median": round(middle, 3),
        "seconds_min": round(min(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "megabytes_per_second": round(megabytes / middle, 1),
        "times_first": round(alone / middle, 2),
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 2),
        "chunks_by_donor": [sorted(run["donors"].values(), reverse=True) for run in runs],
    }


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("donors", "seconds", "MB/s", "times the first row", "fetcher's CPU s", "chunks by donor"):
        table.add_column(heading, justify="right")
    for each in rows:
        shares = " ".join("/".join(map(str, run)) for run in each["chunks_by_donor"])
        figures = (
            each["seconds_median"],
            each["megabytes_per_second"],
            each["times_first"],
            each["cpu_seconds"],
        )
        table.add_row(str(each["donors"]), *map(str, figures), shares)
    Console().print(table)


def main() -> None:
    """Read the command line and run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--mbit", type=float, default=200.0, help="of every donor; 0 for no limit")
    parser.add_argument("--mbits", default="", help="of each donor, divided by commas, instead of --mbit")
    parser.add_argument("--donors", default="1,2,3", help="how many, divided by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a line per number of donors")
    options = parser.parse_args()
    counts = [int(part) for part in options.donors.split(",")]
    limits = [float(part) for part in options.mbits.split(",") if part] or [options.mbit] * max(counts)
    if len(limits) < max(counts):
        parser.error(f"--mbits names {len(limits)} donors, --donors wants {max(counts)}")
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    with ExitStack() as stack:
        addresses = [stack.enter_context(donor(options.megabytes, limit)) for limit in limits[: max(counts)]]
        for _ in range(options.repeats):
            for count in counts:
                runs[count].append(fetch(options.megabytes, addresses[:count]))
    alone = statistics.median(run["seconds"] for run in runs[counts[0]])
    rows = [row(count, runs[count], options.megabytes, alone) for count in counts]
    if options.json:
        for each in rows:
            print(json.dumps(each))
    else:
        speeds = "/".join(f"{limit:g}" if limit else "unlimited" for limit in limits)
        print_table(rows, f"{options.megabytes} MB on loopback, donors of {speeds} Mbit/s, median")


if __name__ == "__main__":
    main()
