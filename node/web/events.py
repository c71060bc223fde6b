"""Events over HTTP: what happens in a node, told to many listeners as it happens (server-sent events).

    publish(kind, data) --> the last `KEPT` --> one bounded queue per listener --> GET /events

A message has an ``id``, an ``event`` of `KINDS` and JSON as ``data``. Ids grow over restarts of the node. A
listener that comes back with ``Last-Event-ID`` gets what it missed, as far as it is kept. A listener that
does not read holds nobody up: its queue drops the oldest, and the message ``dropped`` says how many. Each
stream ends after `LIFE` seconds; who still listens comes back by itself, as browsers do, and misses nothing.
Reference: HTML Living Standard, section 9.2, https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

KEPT: Final = 1000
"""Events that are remembered for listeners to come."""
MAX_LISTENERS: Final = 8
QUEUE: Final = 256
"""Events that wait for a listener; a newer one drops the oldest."""
MAX_DATA: Final = 16 << 10
"""Bytes of one event; a longer one is left out, since nobody can be shown it."""
BEAT: Final = 15.0
"""Seconds without an event after which a comment shows that the node is there."""
LIFE: Final = 3600.0
"""Seconds of a stream, so that nobody keeps a place who is gone or never reads."""
KINDS: Final = ("round", "peer", "problem", "phase", "sync", "log")
"""Of events, as a listener chooses among them; `kind_of` tells which an event of the journal is."""
_PREFIXES: Final = {
    "round": "round",
    "peer": "peer",
    "alone": "peer",
    "in-company": "peer",
    "company": "peer",
    "bootstrap": "peer",
    "problem": "problem",
    "refused": "problem",
    "trainer-ended": "problem",
    "trainer": "phase",
    "run": "phase",
    "up": "phase",
    "finished": "phase",
    "leaving": "phase",
    "fetching": "sync",
    "state-fetched": "sync",
}


def kind_of(event: str) -> str:
    """Return of which of `KINDS` an event of the journal is."""
    return next((kind for prefix, kind in _PREFIXES.items() if event.startswith(prefix)), "log")


class Told(NamedTuple):
    """An event as listeners get it."""

    id: int
    kind: str
    data: bytes


class Listener:
    """One who listens: what waits for it."""

    def __init__(self, missed: list[Told]) -> None:
        """`missed`: what it gets first."""
        self.dropped = 0
        self._waiting = deque(missed)
        self._has_news = trio.Event()

    def put(self, told: Told) -> None:
        """Add an event, in the place of the oldest where too many wait."""
        if len(self._waiting) >= QUEUE:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(told)
        self._has_news.set()

    async def take(self) -> bytes:
        """Return what waits, as it travels; a comment if nothing has for `BEAT` seconds."""
        if not self._waiting:
            with trio.move_on_after(BEAT):
                await self._has_news.wait()
        self._has_news = trio.Event()
        dropped, self.dropped = self.dropped, 0
        lines = [b'event: dropped\ndata: {"count":%d}\n\n' % dropped] if dropped else []
        while self._waiting:
            told = self._waiting.popleft()
            lines.append(b"id: %d\nevent: %s\ndata: %s\n\n" % (told.id, told.kind.encode(), told.data))
        return b"".join(lines) or b":\n\n"


class EventLog:
    """The last events of a node, and who listens."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._kept: deque[Told] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()
        self._last = time.time_ns() // 1_000_000

    @property
    def n_listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def publish(self, kind: str, data: bytes) -> None:
        """Tell all who listen; `data`: JSON in one line."""
        if len(data) > MAX_DATA:
            return
        self._last += 1
        told = Told(self._last, kind, data)
        self._kept.append(told)
        for listener in self._listeners:
            listener.put(told)

    def since(self, after: int) -> list[Told]:
        """Return the events since the event `after` that are kept, oldest first."""
        return [told for told in self._kept if told.id > after]

    @contextmanager
    def listen(self, after: int, most: int = KEPT) -> Iterator[Listener]:
        """Give the events since `after`, at most the last `most`, and those from now on."""
        missed = self.since(after)
        listener = Listener(missed[max(0, len(missed) - most) :])
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class EventStream:
    """GET /events, as an ASGI app."""

    def __init__(self, log: EventLog) -> None:
        """Tell what this log tells."""
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.types.ASGIApp`."""
        request = Request(scope)
        if self._log.n_listeners >= MAX_LISTENERS:
            text = f"{MAX_LISTENERS} listen already: close another page of this node\n"
            refusal = PlainTextResponse(text, status_code=503, headers={"retry-after": "10"})
            await refusal(scope, receive, send)
            return
        after = number(request.headers.get("last-event-id", ""), 0)
        most = number(request.query_params.get("last", ""), KEPT)
        with self._log.listen(after, most) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, listener, send, nursery.cancel_scope)
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()


async def _tell(listener: Listener, send: Send, visit: trio.CancelScope) -> None:
    until = trio.current_time() + LIFE
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})
    while trio.current_time() < until:
        body = await listener.take()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    visit.cancel()


def number(text: str, default: int) -> int:
    """Return a number that a visitor sent, if it is one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else default
