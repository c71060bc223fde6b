"""`shoal top`, driven by Textual's own pilot: what stands on the screen, and what the keys do."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from fake_node import HOSTILE, FakeNode, a_round, make_status

from shoal.node.cli import main as cli
from shoal.node.cli.operation.top import Running
from shoal.node.errors import NotRunning
from shoal.node.status import AttendeeStatus, CallsStatus, ExchangeStatus, FetchStatus, Status
from shoal.node.storage.database import Store
from shoal.node.web.client import KeptEvent, ToldEvent
from shoal.node.web.past import Past

textual = pytest.importorskip("textual", reason="Textual is not installed: pip install textual")

from textual.pilot import Pilot  # noqa: E402
from textual.widgets import DataTable, RichLog  # noqa: E402

from shoal.node.top.app import Top  # noqa: E402

Act = Callable[["Pilot[None]", Top], Awaitable[None]]


class Told:
    """A source that says what the test tells it."""

    def __init__(self, status: Status) -> None:
        self.now = status
        self.kept: list[KeptEvent] = []
        self.asked: list[int] = []
        self.is_gone = False

    def status(self) -> Status:
        if self.is_gone:
            raise NotRunning("no node runs there; start one with: shoal start")
        return self.now

    def events(self, after: int) -> list[KeptEvent]:
        self.asked.append(after)
        return [event for event in self.kept if event.id > after]


def drive(source: Told, act: Act, size: tuple[int, int] = (100, 30)) -> None:
    async def main() -> None:
        app = Top(source, source.status(), every=None)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(pilot, app)

    asyncio.run(main())


def screen(app: Top) -> str:
    """Return what stands on the screen."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def row_count(app: Top, table: str) -> int:
    return app.query_one(table, DataTable).row_count


def test_a_small_terminal_shows_the_node_and_its_peers() -> None:
    async def act(pilot: "Pilot[None]", app: Top) -> None:
        shown = screen(app)
        for words in ("working", "round 2 of 40", "accuracy 0.75", "1 peers linked, 1 hold this model"):
            assert words in shown
        assert "nothing is exchanged now" in shown
        assert "2NBnB1u" in shown
        assert "direct" in shown
        assert all(len(line) <= 80 for line in shown.split("\n"))

    drive(Told(make_status()), act, size=(80, 24))


def test_a_node_of_a_split_model_says_who_hosts() -> None:
    calls = CallsStatus(hosts={"host": ["x" * 20 + "abcdefgh"], "spare": []}, per_second=2.5, waiting=0,
                        unanswered=0, parts=[])  # fmt: skip

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        assert "2.5 calls a second, host abcdefgh" in screen(app)

    drive(Told(make_status(calls=calls)), act)


def test_the_keys_show_rounds_and_events() -> None:
    source = Told(
        make_status(
            history=[
                a_round(0),
                a_round(1),
                msgspec.structs.replace(a_round(2), outcome="failed", reason="too slow"),
            ]
        )
    )
    source.kept = [KeptEvent(7, "peer", ToldEvent(1.0, "warning", "peer abc left"))]

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        await pilot.press("2")
        await pilot.pause()
        assert "too slow" in screen(app)
        assert row_count(app, "#round-table") == 3
        await pilot.press("3")
        await pilot.pause()
        assert "peer abc left" in screen(app)

    drive(source, act)


def test_an_event_is_shown_once() -> None:
    source = Told(make_status())
    source.kept = [KeptEvent(7, "peer", ToldEvent(1.0, "info", "one"))]

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        source.kept.append(KeptEvent(8, "peer", ToldEvent(2.0, "info", "two")))
        await app.look()
        await app.look()
        await pilot.press("3")
        await pilot.pause()
        assert source.asked == [0, 7, 8]
        assert [line.text.split()[-1] for line in app.query_one("#log", RichLog).lines] == ["one", "two"]

    drive(source, act)


def test_what_is_under_way_has_a_bar() -> None:
    members = [AttendeeStatus("a", False, True, 1, 2), AttendeeStatus("b", True, False, 1, 2)]
    source = Told(make_status(exchange=ExchangeStatus(members, 0.5)))

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        assert "1 of 2 members have all, 1 lost" in screen(app)
        assert "50%" in screen(app)
        source.now = make_status(fetch=FetchStatus(41, 0.25, 100, []))
        await app.look()
        await pilot.pause()
        assert "fetching the model of round 41" in screen(app)
        assert "25%" in screen(app)

    drive(source, act)


def test_what_a_person_should_know_stands_at_the_top() -> None:
    source = Told(make_status(peers=[], problems=["the disk is full: make room"]))

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        assert "the disk is full" in screen(app)
        assert "This node is alone" in screen(app)
        source.now = make_status(phase="finished", home=" --home x")
        await app.look()
        await pilot.pause()
        assert "shoal model save model.safetensors --home x" in screen(app)
        assert "alone" not in screen(app)
        source.is_gone = True
        await app.look()
        await pilot.pause()
        assert "no node runs there" in screen(app)

    drive(source, act)


def test_a_peer_is_found_by_a_part_of_what_it_is() -> None:
    one = make_status().peers[0]
    many = [msgspec.structs.replace(one, peer=f"{one.peer[:-3]}{n:03}") for n in range(200)]
    source = Told(make_status(peers=many))

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        assert row_count(app, "#peer-table") == 200
        await pilot.press("slash", *"042")
        await pilot.pause()
        assert row_count(app, "#peer-table") == 1
        await pilot.press("escape")
        await pilot.pause()
        assert row_count(app, "#peer-table") == 200

    drive(source, act)


def test_a_paused_screen_stays_as_it_is() -> None:
    source = Told(make_status())

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        await pilot.press("p")
        await pilot.pause()
        assert "paused" in screen(app)
        source.now = make_status(round=33)
        await app.look()
        await pilot.pause()
        assert "round 2 of 40" in screen(app)
        await pilot.press("p")
        await app.look()
        await pilot.pause()
        assert "round 33 of 40" in screen(app)
        assert "paused" not in screen(app)

    drive(source, act)


def test_the_reader_stays_in_his_row() -> None:
    one = make_status().peers[0]
    source = Told(
        make_status(peers=[msgspec.structs.replace(one, peer=f"{one.peer[:-3]}{n:03}") for n in range(50)])
    )

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        await pilot.press("down", "down", "down")
        await app.look()
        await pilot.pause()
        assert app.query_one("#peer-table", DataTable).cursor_row == 3

    drive(source, act)


def test_the_join_command_is_said_as_it_is() -> None:
    source = Told(make_status(join_command="shoal start --join [red]x[/red]"))

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        await pilot.press("j")
        await pilot.pause()
        assert "[red]x[/red]" in screen(app)

    drive(source, act)


def test_a_peers_words_are_neither_markup_nor_control_characters() -> None:
    words = f"[bold]{HOSTILE}"
    peer = msgspec.structs.replace(make_status().peers[0], address=words, phase="[red]x")
    source = Told(make_status(peers=[peer], name="[blink]me", problems=["[link=x]y"]))
    source.kept = [KeptEvent(1, "log", ToldEvent(1.0, "info", words))]

    async def act(pilot: "Pilot[None]", app: Top) -> None:
        shown = screen(app)
        assert "\x1b" not in shown
        for each in ("[red]x", "[blink]me", "[link=x]y"):
            assert each in shown
        await pilot.press("3")
        await pilot.pause()
        assert "[bold]" in screen(app)
        assert "\x1b" not in screen(app)

    drive(source, act)


class InRun:
    run = b""


def test_a_running_node_is_a_source(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "shoal.db")) as store:
        past = Past(store, InRun())
        past.events.publish("log", b'{"time":1.0,"level":"info","event":"up","text":"hello","fields":{}}')
        with FakeNode(tmp_path / "home", make_status, tmp_path, past):
            source = Running(tmp_path / "home")
            assert source.status().round == 2
            [event] = source.events(0)
            assert event.told == ToldEvent(1.0, "info", "hello")
            assert source.events(event.id) == []


def test_who_lacks_textual_or_a_node_is_told_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["top", "--home", str(tmp_path)]) == 1
    assert "shoal start --home" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "textual", None)
    for name in [name for name in sys.modules if name.startswith(("textual.", "shoal.node.top.app"))]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["top", "--home", str(tmp_path)]) == 2
    assert "pip install textual" in capsys.readouterr().err
