"""Past: what happened in a node, for whoever opens its page now: events, and every round that was kept.

GET /events          events as they happen, see `shoal.node.web.events`
GET /events.json     those that are kept, at once; with ?after=ID those since one
GET /history.json    the rounds of the run that the node is in, at most 2,000 of them, see `columns`
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.node.status import RoundStatus
from shoal.node.storage.database import Store
from shoal.node.text import escaped
from shoal.node.web.events import EventLog, EventStream, number

BUCKETS: Final = 666
"""Of the rounds of a run, each of which gives up to 3 rounds."""
MAX_METRICS: Final = 16
"""Names of metrics that are told over time."""
_NUMBERS: Final = (
    *("round", "finished_at", "outcome", "contributors", "loss", "work_seconds", "matchmaking_seconds"),
    *("exchange_seconds", "bytes_sent", "bytes_received"),
)


class InRun(Protocol):
    """What knows the run that the node is in."""

    run: bytes


class Past:
    """What a node remembers of its own doings."""

    def __init__(self, store: Store, rounds: InRun) -> None:
        """`rounds`: is asked each time for its run."""
        self.events = EventLog()
        self._store, self._rounds = store, rounds
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def history(self) -> dict[str, list[Any] | dict[str, list[Any]]]:
        """Return the run's rounds as columns."""
        run = self._rounds.run.hex()

        def read() -> list[RoundStatus]:
            return escaped(self._store.thinned_rounds(run, BUCKETS))

        return columns(await trio.to_thread.run_sync(read, limiter=self._one_at_a_time))


def columns(rounds: Sequence[RoundStatus]) -> dict[str, list[Any] | dict[str, list[Any]]]:
    """Return rounds as one list per field; under ``metrics`` one list per metric, with gaps as null."""
    names: dict[str, None] = {}
    for done in rounds:
        names.update(dict.fromkeys(done.metrics))
    metrics = {name: [done.metrics.get(name) for done in rounds] for name in list(names)[:MAX_METRICS]}
    return {**{field: [getattr(done, field) for done in rounds] for field in _NUMBERS}, "metrics": metrics}


def past_routes(past: Past) -> list[Route]:
    """Return the pages about what happened."""

    async def history(request: Request) -> Response:
        return Response(msgspec.json.encode(await past.history()), media_type="application/json")

    async def events(request: Request) -> Response:
        after = number(request.query_params.get("after", ""), 0)
        told = [
            {"id": each.id, "kind": each.kind, "told": msgspec.Raw(each.data)}
            for each in past.events.since(after)
        ]
        return Response(msgspec.json.encode(told), media_type="application/json")

    return [
        Route("/history.json", history),
        Route("/events", EventStream(past.events), methods=["GET"]),
        Route("/events.json", events),
    ]
