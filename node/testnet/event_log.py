"""The log of a testnet: what was done to its nodes, and when, by the schedule or by hand.

One line of JSON per event in the testnet's folder, appended by the launcher and by the commands alike. The
verdict needs it: a node that was killed on purpose has not failed.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

EVENTS_NAME: Final = "events.jsonl"

EventKind: TypeAlias = Literal[
    "start",
    "loaded",
    "kill",
    "restart",
    "pause",
    "resume",
    "split",
    "heal",
    "slow",
    "restore",
    "died",
    "running",
    "lies",
]


class Event(msgspec.Struct, frozen=True):
    """Something that was done to nodes, or that the launcher saw."""

    at: float
    """Unix seconds."""
    kind: EventKind
    """start: its process was started for the first time; loaded: its trainer was seen to work, after a start
    or restart; running: the swarm's first round was seen (of no node); died: a process ended and nobody had
    wished it; lies: it lies from its start on."""
    nodes: tuple[int, ...] = ()
    by: str = "launcher"
    """launcher, schedule or hand."""
    lie: str = ""
    """Where it lies: about what."""


def note(
    directory: Path, kind: EventKind, nodes: Sequence[int] = (), by: str = "launcher", lie: str = ""
) -> Event:
    """Append an event that happens now."""
    event = Event(time.time(), kind, tuple(nodes), by, lie)
    # One write in append mode is not torn by another process's.
    with (directory / EVENTS_NAME).open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(event) + b"\n")
    return event


def read_events(directory: Path) -> list[Event]:
    """Return what happened, in order of time."""
    try:
        lines = (directory / EVENTS_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return sorted((msgspec.json.decode(line, type=Event) for line in lines), key=lambda event: event.at)


def was_wished(events: Sequence[Event], index: int) -> bool:
    """Return whether the last thing that befell a node was meant to end it."""
    seen = ("died", "loaded", "lies")
    about = [event.kind for event in events if index in event.nodes and event.kind not in seen]
    return bool(about) and about[-1] == "kill"
