"""Commands that read the rounds which a node has kept: history, and track, which hands them on."""

import csv
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.cli.round_rows import COLUMNS, cells, flat
from shoal.node.errors import BadConfig
from shoal.node.storage.home import Home
from shoal.node.text import duration, figure

if TYPE_CHECKING:
    from shoal.node.storage.database import KeptRound, Store

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOOK_EVERY: Final = 1.0
"""Seconds between two looks for new rounds."""


def history(
    home: HomeOption = None,
    json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with a column for every metric.")] = False,
    since: Annotated[str, typer.Option(help="Only rounds that ended in the last 30m, 12h or 2d.")] = "",
    last: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 20,
) -> None:
    """Show the rounds that this node has ended, whether it runs or not."""
    start = time.time() - seconds_of(since) if since else 0.0
    limit = sys.maxsize if since else last
    with closing(_store(home_of(home))) as store:
        found = store.kept_rounds(since=start, limit=limit)
    if json:
        print_json([flat(each) for each in found])
    elif as_csv:
        _write_csv(found)
    elif found:
        console().print(_table(found))
    else:
        print("no round has ended yet" + (f" in the last {since}" if since else ""))


def track(
    to: Annotated[
        list[str],
        typer.Option(
            help="csv:FILE, tensorboard:FOLDER, wandb:PROJECT, mlflow:ADDRESS or, for OpenTelemetry,"
            " otlp:http://HOST:4318; may be repeated."
        ),
    ],
    home: HomeOption = None,
    once: Annotated[bool, typer.Option("--once", help="End when all rounds so far are written.")] = False,
) -> None:
    """Hand the rounds of a node on to a tracker as they end; a second start goes on where it stopped."""
    from shoal.node.cli.trackers import tracker_of

    place = home_of(home)
    with closing(_store(place)) as store, ExitStack() as stack:
        trackers = {name: stack.enter_context(closing(tracker_of(name, place))) for name in to}
        print(f"rounds of {place.path} go to {', '.join(to)}" + ("" if once else "; Ctrl-C ends it"))
        while True:
            for name, tracker in trackers.items():
                fact = f"tracked by {name}"
                new = store.kept_rounds(after=int(store.get(fact) or b"0"))
                for kept in new:
                    tracker.write(kept)
                if new:
                    tracker.flush()
                    store.put(fact, str(new[-1].id).encode())
            if once:
                break
            time.sleep(LOOK_EVERY)


def seconds_of(text: str) -> float:
    """Return how long a text such as 2d is.

    Raises:
        BadConfig: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise BadConfig(f"{text!r} is no span of time: write 30m, 12h or 2d")
    return int(found[1]) * UNITS[found[2]]


def _store(place: Home) -> "Store":
    from shoal.node.storage.database import Store

    if not place.database.exists():
        raise BadConfig(f"{place.path} has no rounds: start the node, or name another with --home")
    return Store(place.database)


def _write_csv(found: "list[KeptRound]") -> None:
    rows = [cells(each) for each in found]
    metrics = dict.fromkeys(name for each in rows for name in each if name not in COLUMNS)
    writer = csv.DictWriter(sys.stdout, [*COLUMNS, *metrics], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(found: "list[KeptRound]") -> Any:
    made = table(
        "run", "round", "ended", "outcome", "contributors", "loss", "metrics", "work", "matchmaking",
        "exchange", "reason",
        numbers=("round", "contributors", "loss", "work", "matchmaking", "exchange"),
    )  # fmt: skip
    for kept in found:
        done = kept.round
        ended = datetime.fromtimestamp(done.finished_at).astimezone()
        seconds = (done.work_seconds, done.matchmaking_seconds, done.exchange_seconds)
        loss = figure(done.loss) if math.isfinite(done.loss) else ""
        row(
            made, kept.run_id[:6], done.round, f"{ended:%Y-%m-%d %H:%M:%S}", done.outcome, done.contributors,
            loss, " ".join(_figures(done.metrics)), *(duration(each) for each in seconds),
            done.reason,
        )  # fmt: skip
    return made


def _figures(metrics: dict[str, float]) -> Iterator[str]:
    for name, value in metrics.items():
        yield f"{name} {figure(value)}"
