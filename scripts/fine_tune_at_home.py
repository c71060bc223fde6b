"""Measure what it costs two friends to tune one LoRA over home lines.

    python scripts/fine_tune_at_home.py                     # 20 Mbit/s, GPT-2 small's sizes, r = 8
    python scripts/fine_tune_at_home.py --mbit 5 --json

Two nodes, real processes with a line of so many Mbit/s each, tune low-rank changes of a model of GPT-2
small's sizes (scripts/home_lora.py) with FedIT. Of a round it tells the local work, the search for the group
and the exchange in seconds, what a node sends in megabytes, and the memory of a node.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

SCRIPTS: Final = Path(__file__).resolve().parent
NODES: Final = 2
ROUNDS: Final = (
    "SELECT work_seconds, matchmaking_seconds, exchange_seconds, loss FROM rounds WHERE contributors = 2"
)
TARGETS: Final = {"c_attn": "c_attn", "all": ""}
"""Which layers are changed: as in the LoRA paper, or all but the head."""


def command(given: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command line of the run."""
    options = {
        "variant": "separate",
        "rank": given.rank,
        "targets": TARGETS[given.layers],
        "steps": given.steps,
        "batch_size": given.batch_size,
    }
    return [
        *(sys.executable, "-P", "-m", "shoal.node", "testnet", "up", "--json", "--keep", "--no-calm"),
        *("--dir", str(folder), "--nodes", str(NODES), "--rounds", str(given.rounds), "--seeds", "0"),
        *("--task", "home_lora:HomeLora", "--task-option", "share={i}/{n}"),
        *(
            "--method",
            "fedit",
            *(word for pair in options.items() for word in ("--option", f"{pair[0]}={pair[1]}")),
        ),
        *("--bandwidth", f"{given.mbit:g}mbit", "--latency", "20ms", "--network", "proxy"),
    ]


def rows_of(folder: Path) -> list[tuple[float, ...]]:
    """Return the averaged rounds of all nodes: work, search, exchange, loss."""
    rows = []
    for path in sorted(folder.glob("node-*/shoal.db")):
        with closing(sqlite3.connect(path)) as database:
            rows += database.execute(ROUNDS).fetchall()
    return rows


def line(
    rows: Sequence[tuple[float, ...]], told: Mapping[str, Any], given: argparse.Namespace
) -> dict[str, Any]:
    """Return what is printed, as medians over the rounds."""
    work, search, exchange = (median(row[index] for row in rows) for index in range(3))
    return {
        "mbit": given.mbit,
        "steps": given.steps,
        "rounds": len(rows) // NODES,
        "work_seconds": round(work, 2),
        "search_seconds": round(search, 2),
        "exchange_seconds": round(exchange, 2),
        "utilisation": round(told["utilisation"] or 0.0, 2),
        "megabytes_a_round": round(told["bytes_sent"] / NODES / max(1, len(rows) // NODES) / 1e6, 2),
        "first_loss": round(rows[0][3], 3),
        "last_loss": round(rows[-1][3], 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fine_tune_at_home.py", description="Measure what two friends need to tune one LoRA together."
    )
    parser.add_argument("--mbit", type=float, default=20.0, help="what each line carries, either way")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of a round; at home rather 100")
    parser.add_argument("--batch-size", type=int, default=2, help="examples of 32 tokens")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", choices=tuple(TARGETS), default="c_attn", help="which have changes")
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "net"
        done = subprocess.run(
            command(given, folder), cwd=SCRIPTS, text=True, stdout=subprocess.PIPE, check=False
        )
        rows = rows_of(folder)
        if not rows or not done.stdout:
            print("no round was averaged; what the nodes said stands above", file=sys.stderr)
            return 1
        found = line(rows, json.loads(done.stdout), given)
    print(
        json.dumps(found) if given.json else "\n".join(f"{name:>20} {value}" for name, value in found.items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
