"""Events over HTTP: what listeners are told, what a slow one misses, and how many there may be."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from fake_node import HOSTILE, a_round, make_status
from trio.testing import MockClock

from shoal.node.status import RoundStatus
from shoal.node.storage.database import Store
from shoal.node.web import visitor
from shoal.node.web.events import (
    BEAT,
    KEPT,
    KINDS,
    LIFE,
    MAX_DATA,
    MAX_LISTENERS,
    QUEUE,
    EventLog,
    EventStream,
    kind_of,
)
from shoal.node.web.past import MAX_METRICS, Past, columns
from shoal.node.web.server import make_app, serve_http

RUN = "7d" * 32


class InRun:
    run = bytes.fromhex(RUN)


def over_http(tmp_path: Path, visit: Callable[[Past, httpx.AsyncClient], Awaitable[None]]) -> None:
    """Serve a past, and let a test visit it."""

    async def main() -> None:
        with closing(Store(tmp_path / "shoal.db")) as store:
            store.add_rounds(RUN, [a_round(0), a_round(1)])
            store.add_rounds("ab" * 32, [a_round(7)])
            past = Past(store, InRun())
            async with trio.open_nursery() as nursery:
                app = make_app(make_status, None, past=past)
                address = await nursery.start(partial(serve_http, app, "127.0.0.1:0"))
                async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                    await visit(past, client)
                nursery.cancel_scope.cancel()

    trio.run(main)


class Lines:
    """The lines of /events, as one visitor reads them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream, self._buffer = stream, b""

    async def until(self, last: str) -> list[str]:
        """Return the lines that are neither empty nor comments, up to one."""
        found: list[str] = []
        while last not in found:
            while b"\n" not in self._buffer:
                piece = await self._stream.receive_some()
                assert piece, found
                self._buffer += piece
            line, _, self._buffer = self._buffer.partition(b"\n")
            found.append(line.decode().rstrip("\r"))
        return [line for line in found if line and not line.startswith(("retry", ":"))]


@asynccontextmanager
async def listening(client: httpx.AsyncClient, after: str = "") -> AsyncIterator[Lines]:
    """Open /events, and read the head of the answer; of HTTP 1.0, so that it is not cut into chunks."""
    port = client.base_url.port
    assert port is not None
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        asked = f"GET /events HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {after}\r\n\r\n"
        await stream.send_all(asked.encode())
        lines = Lines(stream)
        head = await lines.until("")
        assert head[0].endswith(" 200 ")
        assert "content-type: text/event-stream; charset=utf-8" in head
        assert any(line.startswith("content-security-policy: default-src 'none'") for line in head)
        yield lines


def test_a_listener_gets_what_was_told_before_and_what_is_told_from_then_on(tmp_path: Path) -> None:
    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        past.events.publish("peer", b'{"text":"before"}')
        async with listening(client) as lines:
            first = await lines.until('data: {"text":"before"}')
            assert first[1:] == ["event: peer", 'data: {"text":"before"}']
            past.events.publish("round", b'{"text":"after"}')
            second = await lines.until('data: {"text":"after"}')
            assert second[1:] == ["event: round", 'data: {"text":"after"}']
            assert int(second[0].removeprefix("id: ")) > int(first[0].removeprefix("id: "))

    over_http(tmp_path, visit)


def test_who_comes_back_gets_what_it_missed_and_nothing_twice(tmp_path: Path) -> None:
    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        for number in range(3):
            past.events.publish("log", b"%d" % number)
        async with listening(client) as lines:
            found = await lines.until("data: 2")
        seen = found[found.index("data: 1") - 2].removeprefix("id: ")
        async with listening(client, seen) as lines:
            again = await lines.until("data: 2")
        assert [line for line in again if line.startswith("data")] == ["data: 2"]

    over_http(tmp_path, visit)


def test_a_program_that_asks_now_and_then_gets_the_events_since_it_asked_last(tmp_path: Path) -> None:
    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        past.events.publish("log", b'{"text":"one"}')
        [first] = (await client.get("/events.json")).json()
        assert (first["kind"], first["told"]) == ("log", {"text": "one"})
        past.events.publish("peer", b'{"text":"two"}')
        [second] = (await client.get("/events.json", params={"after": first["id"]})).json()
        assert (second["kind"], second["told"]) == ("peer", {"text": "two"})
        assert len((await client.get("/events.json", params={"after": "-1; DROP"})).json()) == 2

    over_http(tmp_path, visit)


def test_there_is_room_for_so_many_listeners_and_again_when_one_has_gone(tmp_path: Path) -> None:
    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(MAX_LISTENERS - 1):
                await stack.enter_async_context(listening(client))
            async with listening(client):
                refused = await client.get("/events")
                assert refused.status_code == 503
                assert "close another page" in refused.text
            while past.events.n_listeners >= MAX_LISTENERS:
                await trio.lowlevel.checkpoint()
            await stack.enter_async_context(listening(client))

    over_http(tmp_path, visit)


def test_a_listener_that_does_not_read_loses_the_oldest_and_is_told_how_many() -> None:
    async def main() -> None:
        log = EventLog()
        with log.listen(0) as slow, log.listen(0) as quick:
            for number in range(QUEUE + 5):
                log.publish("log", b"%d" % number)
                assert b"data: %d\n" % number in await quick.take()
            found = await slow.take()
        assert found.startswith(b'event: dropped\ndata: {"count":5}\n\n')
        assert b"data: 4\n" not in found
        assert found.count(b"data: ") == QUEUE + 1
        assert log.n_listeners == 0

    trio.run(main)


def test_who_never_reads_loses_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "PATIENCE", 0.2)

    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        async with listening(client):
            # More than the system holds for a reader, whatever that is.
            while past.events.n_listeners:
                past.events.publish("log", b"0" * MAX_DATA)
                await trio.sleep(0)
        assert (await client.get("/healthz")).status_code == 200

    over_http(tmp_path, visit)


def test_a_stream_ends_after_its_life_and_gives_its_place_back() -> None:
    async def main() -> None:
        log, sent = EventLog(), []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/events", "headers": [], "query_string": b""}
        await EventStream(log)(scope, trio.sleep_forever, send)
        assert LIFE <= trio.current_time() <= LIFE + BEAT
        assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert log.n_listeners == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_of_what_was_told_the_last_are_kept() -> None:
    async def main() -> None:
        log = EventLog()
        for number in range(KEPT + 2):
            log.publish("log", b"%d" % number)
        with log.listen(0) as listener:
            told = await listener.take()
        assert told.count(b"data: ") == KEPT
        assert b"data: 1\n" not in told
        with log.listen(0, most=2) as listener:
            assert (await listener.take()).count(b"data: ") == 2

    trio.run(main)


def test_an_event_that_is_too_long_is_left_out() -> None:
    async def main() -> None:
        log = EventLog()
        log.publish("log", b"x" * (MAX_DATA + 1))
        log.publish("log", b"1")
        with log.listen(0) as listener:
            assert (await listener.take()).count(b"data: ") == 1

    trio.run(main)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("round", "round"),
        ("round-lost", "round"),
        ("peers-left", "peer"),
        ("bootstrap-failed", "peer"),
        ("problem", "problem"),
        ("trainer-ended", "problem"),
        ("trainer-started", "phase"),
        ("state-fetched", "sync"),
        ("what nobody knows", "log"),
    ],
)
def test_events_of_the_journal_fall_into_few_kinds(event: str, kind: str) -> None:
    assert kind_of(event) == kind
    assert kind in KINDS


def test_the_history_tells_the_rounds_of_the_run_as_columns(tmp_path: Path) -> None:
    async def visit(past: Past, client: httpx.AsyncClient) -> None:
        found = (await client.get("/history.json")).json()
        assert found["round"] == [0, 1]
        assert found["metrics"] == {"accuracy": [0.75, 0.75]}
        assert found["outcome"] == ["averaged", "averaged"]

    over_http(tmp_path, visit)


def test_a_metric_that_some_rounds_lack_has_gaps_and_only_some_names_are_told() -> None:
    plain = msgspec.structs.asdict(a_round(0))
    rounds = [
        RoundStatus(**plain | {"metrics": {}, "loss": float("nan")}),
        RoundStatus(**plain | {"metrics": {f"m{number}": 1.0 for number in range(99)}}),
    ]
    found = msgspec.json.decode(msgspec.json.encode(columns(rounds)))
    assert found["metrics"]["m0"] == [None, 1.0]
    assert found["loss"] == [None, 0.5]
    assert len(found["metrics"]) == MAX_METRICS


def test_what_a_task_called_its_metric_is_escaped_in_the_history(tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Store(tmp_path / "shoal.db")) as store:
            plain = msgspec.structs.asdict(a_round(0))
            store.add_round(RUN, RoundStatus(**plain | {"metrics": {HOSTILE: 1.0}}))
            found = await Past(store, InRun()).history()
            assert list(found["metrics"]) == [r"\x1b[2J<script>alert(1)</script>"]

    trio.run(main)
