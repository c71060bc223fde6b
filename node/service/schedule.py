"""Schedule: when a node trains, by what its owner said and how the machine is. Pure: no clock, no battery.

    hours 22-7      trains from 22:00 to 07:00 by the clock on the wall; several, as in 12-13,22-6:30
    on_battery      help: it does not train while the machine runs on its battery
    pause           by hand, for a time or until `shoal resume`

A node that does not train still helps: it answers, hands out the state and carries links. It leaves no round
that others have begun with it, so nobody's round fails for it (node/daemon/rounds.py).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from shoal.node.text import duration, size

DAY: Final = 24 * 60
"""Minutes."""
FOREVER: Final = float("inf")
OnBattery = Literal["train", "help"]
_SPAN: Final = re.compile(r"(\d{1,2})(?::(\d{2}))?-(\d{1,2})(?::(\d{2}))?")
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class BadSchedule(ValueError):
    """A text is no hours of a day, or no length of time; the message says how one is written."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the owner said."""

    hours: tuple[tuple[int, int], ...] = ()
    """Spans of minutes of a day; one that ends before it begins goes over midnight. None: always."""
    on_battery: OnBattery = "train"
    memory_bytes: int = 0
    """That node and trainer may have; 0: as many as there are."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How things are."""

    now: float
    """Seconds since 1970."""
    minute: int
    """Of the day, where the node is; 0 to 1439."""
    is_on_battery: bool = False
    used_bytes: int = 0
    """Of memory, by node and trainer."""


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """Read hours such as ``22-7`` or ``12-13,22-6:30``; an empty text is always.

    Raises:
        BadSchedule: they are none.
    """
    return tuple(_span(part.strip()) for part in text.split(",")) if text.strip() else ()


def _span(text: str) -> tuple[int, int]:
    found = _SPAN.fullmatch(text)
    if found is not None:
        begin, end = (int(found[i]) * 60 + int(found[i + 1] or 0) for i in (1, 3))
        is_minute = all(int(found[i] or 0) < 60 for i in (2, 4))
        if begin < DAY and end <= DAY and begin != end and is_minute:
            return begin, end % DAY
    raise BadSchedule(f"{text!r} are no hours; write 22-7, or 12-13,22-6:30")


def parse_duration(text: str) -> float:
    """Read a length of time such as ``90s``, ``30m``, ``2h`` or ``1d``; returns seconds.

    Raises:
        BadSchedule: it is none.
    """
    found = _TIME.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found is not None else 0.0
    if not 0 < seconds < 1e9:
        raise BadSchedule(f"{text!r} is no time; write 90s, 30m, 2h or 1d")
    return seconds


def is_within(hours: tuple[tuple[int, int], ...], minute: int) -> bool:
    """Tell whether a minute of the day lies in one of these spans; the end is not part of one."""
    return not hours or any(
        begin <= minute < end if begin < end else minute >= begin or minute < end for begin, end in hours
    )


def too_much(rules: Rules, moment: Moment) -> str:
    """Return that a node has more memory than it may, in words for its owner; empty: it has not."""
    if not 0 < rules.memory_bytes < moment.used_bytes:
        return ""
    return (
        f"node and trainer took {size(moment.used_bytes)} of memory, and run.memory_gb allows"
        f" {size(rules.memory_bytes)}; raise it or lower --option batch_size, then restart; or: shoal resume"
    )


def why_not(rules: Rules, moment: Moment, paused_until: float = 0.0) -> str:
    """Return why a node does not train now, in words for its owner; empty: it trains.

    `paused_until`: seconds since 1970; 0: nobody paused it.
    """
    left = paused_until - moment.now
    if left > 0:
        how_long = "" if paused_until == FOREVER else f" for {duration(left)} more"
        return f"paused{how_long}; to go on: shoal resume"
    if rules.on_battery == "help" and moment.is_on_battery:
        return "the machine runs on its battery: schedule.on_battery"
    if not is_within(rules.hours, moment.minute):
        return f"it is not between {shown(rules.hours)}: schedule.hours"
    return ""


def shown(hours: tuple[tuple[int, int], ...]) -> str:
    """Return hours for people."""
    return " or ".join(f"{_clock(begin)} and {_clock(end)}" for begin, end in hours)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
