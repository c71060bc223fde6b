"""What a peer chose is escaped before a person sees it: in a text, a status, a log."""

import io
import logging

import msgspec
import pytest

from shoal.node.status import RunStatus
from shoal.node.text import LineFormatter, escaped, printable

NASTY = "digits\n2026-01-01 ERROR all is lost\x1b[2J\u202e\x9b\x7f\r"
SHOWN = r"digits\n2026-01-01 ERROR all is lost\x1b[2J\u202e\x9b\x7f\r"


def test_what_moves_a_cursor_or_turns_a_line_is_shown_as_an_escape() -> None:
    assert printable(NASTY) == SHOWN
    assert printable("grüße, 東京 ✓") == "grüße, 東京 ✓"
    assert printable(printable(NASTY)) == SHOWN
    assert printable("\ud800") == r"\ud800"


class Inner(msgspec.Struct, frozen=True):
    """A part."""

    name: str
    counts: dict[str, int]


class Outer(msgspec.Struct, frozen=True):
    """A whole."""

    parts: list[Inner]
    words: tuple[str, ...]
    none: str | None = None
    number: float = float("nan")


def test_every_text_of_a_status_is_escaped_however_deep() -> None:
    found = escaped(Outer([Inner(NASTY, {NASTY: 1})], ("fine", NASTY)))
    assert found.parts == [Inner(SHOWN, {SHOWN: 1})]
    assert found.words == ("fine", SHOWN)
    assert found.none is None


def test_a_status_without_such_words_stays_as_it_is() -> None:
    run = RunStatus("digits", "ab", "fedavg", "digits", 3, 10, {"lr": 0.1})
    assert escaped(run) == run


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """Make a log that is written as a node writes its own."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    made = logging.Logger("made")
    made.addHandler(handler)
    return made, out


def test_a_record_of_the_log_is_one_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    log[0].warning("the run is %s", NASTY)
    assert log[1].getvalue() == f"WARNING made: the run is {SHOWN}\n"


def test_a_traceback_cannot_pretend_to_be_a_record(log: tuple[logging.Logger, io.StringIO]) -> None:
    try:
        raise ValueError(NASTY)
    except ValueError:
        log[0].exception("failed")
    first, *rest = log[1].getvalue().splitlines()
    assert first == "ERROR made: failed"
    assert all(line.startswith("    | ") and line.isprintable() for line in rest)
    assert any("2026-01-01 ERROR all is lost" in line for line in rest)
