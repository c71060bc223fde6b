"""The terminal: lines, JSON or a live view; a slow or absent reader holds nobody up."""

import io
import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from fake_node import HOSTILE, make_status
from rich.console import Console

from shoal.node.config.settings import LogConfig
from shoal.node.daemon import terminal as module
from shoal.node.daemon.journal import Event
from shoal.node.daemon.live_view import live_view
from shoal.node.daemon.terminal import MAX_WAITING, Terminal, TerminalHandler
from shoal.node.service.log_file import LogFile, stamp

INFO = Event(time=0.0, event="peer-joined", text="peer X joined", fields={"peer": "X"})
WARNING = Event(time=0.0, event="peer-left", text="peer X left", level="warning")


@pytest.fixture(autouse=True)
def _time_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may pause for longer than a person would wait for the last lines."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 30.0)


def written(config: LogConfig, *events: Event, record: str = "") -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with Terminal(config, out, err) as terminal:
        terminal.show(events, make_status())
        if record:
            handler = TerminalHandler(terminal)
            handler.handle(logging.LogRecord("a.b", logging.WARNING, "", 0, record, None, None))
    return out.getvalue(), err.getvalue()


def test_lines_go_to_the_output_and_the_log_to_the_error() -> None:
    out, err = written(LogConfig(), INFO, WARNING, record="slow")
    assert [line[10:] for line in out.splitlines()] == ["peer X joined", "peer X left"]
    assert err == "slow\n"


def test_quiet_leaves_what_somebody_should_see_to() -> None:
    assert [line[10:] for line in written(LogConfig(quiet=True), INFO, WARNING)[0].splitlines()] == [
        "peer X left"
    ]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_file_takes_every_line_with_its_date_and_streams_that_nobody_bounds_take_none(
    tmp_path: Path, format_: Literal["text", "json"]
) -> None:
    file = LogFile(tmp_path / "node.log", 1.0, 2)
    out, err = io.StringIO(), io.StringIO()
    with Terminal(LogConfig(format=format_, quiet=True), out, err, file) as terminal:
        terminal.show([INFO, WARNING], make_status())
        record = logging.LogRecord("a.b", logging.WARNING, "", 0, "slow", None, None)
        TerminalHandler(terminal).handle(record)
    file.close()
    assert out.getvalue() == err.getvalue() == ""
    lines = (tmp_path / "node.log").read_text().splitlines()
    if format_ == "json":
        assert [json.loads(line)["event"] for line in lines] == ["peer-joined", "peer-left", "log"]
        assert all(json.loads(line)["at"] for line in lines)
    else:
        assert lines == [f"{stamp(0.0)} INFO peer X joined", f"{stamp(0.0)} WARNING peer X left", "slow"]


def test_json_is_an_object_per_line_on_both() -> None:
    hostile = Event(time=1.5, event="problem", text=HOSTILE, fields={"event": "no", "loss": float("nan")})
    out, err = written(LogConfig(format="json"), INFO, hostile, record="slow")
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "peer": "X",
        "at": stamp(0.0),
        "time": 0.0,
        "level": "info",
        "event": "peer-joined",
        "text": "peer X joined",
    }
    assert (second["event"], second["text"], second["loss"]) == ("problem", HOSTILE, None)
    assert json.loads(err)["logger"] == "a.b"


class Halted(io.StringIO):
    """A terminal that takes nothing until it is let go, as after Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.is_held, self.caught_up = threading.Event(), threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.is_held.set()
        self.go.wait()
        if "left out" in text:
            self.caught_up.set()
        return super().write(text)


def test_a_halted_terminal_holds_nobody_up_and_says_what_it_missed() -> None:
    out = Halted()
    with Terminal(LogConfig(), out, io.StringIO()) as terminal:
        terminal.show([INFO], None)
        assert out.is_held.wait(60)
        for _ in range(MAX_WAITING + 5):
            terminal.show([INFO], None)  # returns, whatever the terminal does
        out.go.set()
        assert out.caught_up.wait(60)
    assert "5 lines were left out" in out.getvalue()


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = os.fdopen(writer, "w")
    with Terminal(LogConfig(), out, io.StringIO()) as terminal:
        terminal.show([INFO, WARNING], None)
    terminal.show([INFO], None)
    assert not terminal._thread.is_alive()
    # What is in the buffer cannot be written any more.
    with pytest.raises(BrokenPipeError):
        out.close()


def shown_on_a_terminal() -> str:
    """What the live view writes to a pseudo-terminal, from its first byte to its last."""
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as out, Terminal(LogConfig(), out, io.StringIO()) as terminal:
        terminal.show([INFO], make_status())
    # The kernel hands the bytes over in pieces, and Linux ends a terminal that is closed with EIO.
    shown = b""
    with os.fdopen(leader, "rb", buffering=0) as reader, suppress(OSError):
        while piece := reader.read(1 << 16):
            shown += piece
    return shown.decode()


def test_on_a_terminal_there_is_a_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = shown_on_a_terminal()
    assert "peer X joined" in shown
    assert "round 2 of 40" in shown
    monkeypatch.setenv("TERM", "dumb")
    assert "round 2" not in shown_on_a_terminal()


@pytest.mark.parametrize("width", [20, 44, 80, 200])
def test_the_live_view_has_the_same_few_lines_in_every_width(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(live_view(make_status(problems=["x" * 300]), width))
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= width
    assert "working" in lines[1]
