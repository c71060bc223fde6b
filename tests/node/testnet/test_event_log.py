"""What was done to nodes is remembered in order, and a wished end is known from a fault."""

from pathlib import Path

from shoal.node.testnet.event_log import Event, note, read_events, was_wished


def test_events_are_read_as_they_were_noted(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    noted = [note(tmp_path, "start", [1]), note(tmp_path, "kill", [1, 2], "hand"), note(tmp_path, "running")]
    assert read_events(tmp_path) == noted
    assert [event.by for event in noted] == ["launcher", "hand", "launcher"]


def test_an_end_is_wished_only_if_a_kill_was_the_last_thing_that_befell_the_node() -> None:
    events = [Event(1.0, "start", (1,)), Event(2.0, "start", (2,)), Event(3.0, "kill", (1,))]
    assert was_wished(events, 1)
    assert not was_wished(events, 2)
    assert not was_wished([*events, Event(4.0, "restart", (1,))], 1)
    assert was_wished([*events, Event(4.0, "died", (1,))], 1)
    assert not was_wished([], 1)
