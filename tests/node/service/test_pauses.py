"""Pauses: that the loop of rounds is told once, and that a pause outlives a restart."""

from pathlib import Path

import pytest

from shoal.node.service.machine import Memory
from shoal.node.service.pauses import Pauses
from shoal.node.service.schedule import Moment, Rules, parse_hours
from shoal.node.storage.database import Store

GB = 10**9
NOON, NIGHT = 12 * 60, 23 * 60


class Told:
    """A loop of rounds that notes what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def pause(self) -> None:
        self.words.append("pause")

    def resume(self) -> None:
        self.words.append("resume")


class Used(Memory):
    """Memory that is as a test says."""

    def __init__(self, n_bytes: int) -> None:
        self.bytes = n_bytes

    def used_bytes(self) -> int:
        return self.bytes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "shoal.db")


def test_rounds_are_told_at_the_turn_and_not_again(store: Store) -> None:
    told = Told()
    pauses = Pauses(Rules(parse_hours("22-7"), "help"), told, store)
    for minute, is_on_battery in [(NIGHT, False), (NOON, False), (NOON, True), (NIGHT, True), (NIGHT, False)]:
        pauses.decide(Moment(1000.0, minute, is_on_battery))
    assert told.words == ["pause", "resume"]
    assert pauses.reason == ""
    store.close()


def test_a_pause_outlives_a_restart_until_it_is_ended(store: Store) -> None:
    told = Told()
    first = Pauses(Rules(), told, store)
    first.pause(None)()
    assert "shoal resume" in first.reason
    again = Pauses(Rules(), told, store)
    again.look()
    assert told.words == ["pause", "pause"]
    again.resume()()
    assert told.words[-1] == "resume"
    last = Pauses(Rules(), told, store)
    last.look()
    assert last.reason == ""
    store.close()


def test_a_pause_of_some_time_is_over_after_it(store: Store) -> None:
    told = Told()
    pauses = Pauses(Rules(), told, store)
    store.put("paused until", b"1000.0")
    again = Pauses(Rules(), told, store)
    again.decide(Moment(999.0, NOON))
    again.decide(Moment(1000.0, NOON))
    assert told.words == ["pause", "resume"]
    store.put("paused until", b"not a number")
    assert Pauses(Rules(), told, store).reason == ""
    assert pauses.reason == ""
    store.close()


def test_too_much_memory_pauses_until_the_owner_lets_it_go_on(store: Store) -> None:
    told, used = Told(), Used(3 * GB)
    pauses = Pauses(Rules(memory_bytes=4 * GB), told, store, used)
    pauses.look()
    assert pauses.reason == ""
    pauses.decide(Moment(1000.0, NOON, used_bytes=5 * GB))
    assert pauses.reason.startswith(
        "node and trainer took 5 GB of memory, and run.memory_gb allows 4 GB; raise it"
    )
    # What the trainer gave back is no sign that the next round takes less.
    pauses.decide(Moment(1001.0, NOON, used_bytes=3 * GB))
    assert told.words == ["pause"]
    pauses.resume()()
    assert (pauses.reason, told.words) == ("", ["pause", "resume"])
    used.bytes = 5 * GB
    pauses.resume()()
    assert "run.memory_gb" in pauses.reason
    store.close()
