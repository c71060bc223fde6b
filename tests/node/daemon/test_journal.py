"""The journal tells what happened between two looks at a status, once each, in words for a person."""

from typing import Any

import msgspec
import pytest
from fake_node import HOSTILE, OTHER, a_round, make_status

from shoal.node.daemon.journal import Event, Journal, merged
from shoal.node.status import BootstrapStatus, PeerStatus, PortMappingStatus, RoundStatus, Status

QUIET: dict[str, Any] = {"peers": [], "bootstrap": [], "refusals": [], "history": [], "trainer": "none"}
PEER = make_status().peers[0]


def told(*statuses: Status) -> list[Event]:
    """Return what is told of the last of these statuses."""
    journal, found = Journal(), []
    for number, status in enumerate(statuses):
        found = journal.look(status, 1000.0 + number)
    return found


def quiet(**changes: Any) -> Status:
    """Return a status in which nothing is new."""
    return make_status(**{**QUIET, **changes})


def peers(count: int) -> list[PeerStatus]:
    return [msgspec.structs.replace(PEER, peer=f"{OTHER}{number}") for number in range(count)]


def mapping(state: str, text: str, fix: str = "") -> PortMappingStatus:
    return PortMappingStatus(state=state, text=text, fix=fix, is_unreachable=bool(fix))


def lost(reason: str, number: int = 2) -> RoundStatus:
    return msgspec.structs.replace(
        a_round(number, loss=float("nan")), outcome="failed", contributors=0, metrics={}, reason=reason
    )


@pytest.mark.parametrize(
    ("before", "after", "event", "level", "words"),
    [
        (
            {},
            {"peers": peers(1)},
            "peer-joined",
            "info",
            "joined at /ip4/192.0.2.9/tcp/4710 (direct, trainer)",
        ),
        ({}, {"peers": peers(9)}, "peers-joined", "info", "9 peers joined; 9 linked"),
        ({"peers": peers(2)}, {"peers": peers(1)}, "peer-left", "warning", "left; 1 linked"),
        ({"peers": peers(9)}, {}, "peers-left", "warning", "9 peers left; 0 linked"),
        ({"peers": peers(1)}, {}, "alone", "warning", "no peer is linked any more"),
        ({"peers_met": 2}, {"peers": peers(1), "peers_met": 2}, "in-company", "info", "in company again"),
        (
            {},
            {"history": [a_round(1)]},
            "round",
            "info",
            "round 2 of 40: the mean of 2, accuracy 0.75, loss 0.5",
        ),
        (
            {},
            {"history": [lost("LeftOut: too few")]},
            "round-lost",
            "warning",
            "round 3 of 40 lost, and begun again: LeftOut: too few",
        ),
        (
            {},
            {"history": [msgspec.structs.replace(a_round(4), outcome="synced")]},
            "state-fetched",
            "info",
            "state after round 5",
        ),
        (
            {},
            {"history": [msgspec.structs.replace(a_round(4), outcome="alone")]},
            "round-alone",
            "info",
            "round 5 of 40: alone",
        ),
        ({}, {"phase": "syncing"}, "fetching", "info", "fetching its state"),
        ({}, {"trainer": "running"}, "trainer-started", "info", "the trainer is started"),
        (
            {"trainer": "running"},
            {"trainer": "killed by signal 9"},
            "trainer-ended",
            "error",
            "killed by signal 9; it is started again",
        ),
        ({"trainer": "attached"}, {}, "trainer-detached", "warning", "is gone"),
        ({}, {"problems": ["disk full"]}, "problem", "error", "disk full"),
        (
            {},
            {"refusals": ["X: lr: 0.1 here, 0.2 there"]},
            "refused",
            "warning",
            "not averaging with X: lr: 0.1",
        ),
        (
            {"port_mapping": mapping("looking", "the router is being asked")},
            {"port_mapping": mapping("silent", "the router answers nothing", fix="switch UPnP on")},
            "unreachable",
            "info",
            "cannot dial this node: the router answers nothing; to be dialled, switch UPnP on",
        ),
        (
            {},
            {"port_mapping": mapping("mapped", "the router leads 8.9.10.11:4710 here")},
            "port-mapped",
            "info",
            "the router leads 8.9.10.11:4710 here",
        ),
        ({}, {"phase": "finished", "round": 40}, "finished", "info", "over after 40 rounds, accuracy 0.75"),
        ({}, {"phase": "stopping"}, "leaving", "info", "leaving the swarm"),
    ],
)
def test_what_is_new_is_told_once(
    before: dict[str, Any], after: dict[str, Any], event: str, level: str, words: str
) -> None:
    first, second = quiet(**before), quiet(**after)
    found = {each.event: each for each in told(first, second)}
    assert found[event].level == level
    assert words in found[event].text
    assert told(first, second, second) == []


def test_a_trainer_that_was_started_again_is_told_from_the_first() -> None:
    running, dead = quiet(trainer="running"), quiet(trainer="killed")
    assert [each.text for each in told(quiet(), running, dead, running)] == ["the trainer is started again"]


def test_a_dead_bootstrap_is_told_once_per_reason_with_what_to_do_and_when_it_answers() -> None:
    def status(state: str, reason: str = "", attempts: int = 1) -> Status:
        return quiet(bootstrap=[BootstrapStatus("/dns/a.example/tcp/1", state, reason, attempts, 1.0)])

    dead, again, other = (
        status("failed", "refused"),
        status("failed", "refused", 2),
        status("failed", "timeout"),
    )
    found = told(dead)
    assert [(each.event, each.level) for each in found[:1]] == [("bootstrap-failed", "warning")]
    assert "/dns/a.example/tcp/1 failed: refused (nothing listens there" in found[0].text
    assert told(dead, again) == told(dead, status("dialling"), again) == []
    assert "timeout" in told(dead, other)[0].text
    assert [each.event for each in told(dead, status("connected"))] == ["bootstrap-answers"]
    assert [each.event for each in told(dead, status("connected"), again)] == ["bootstrap-failed"]
    assert "is this node itself" in told(status("own", "own address"))[0].text


def test_many_rounds_between_two_looks_are_one_line_for_people_and_all_for_programs() -> None:
    events = told(quiet(), quiet(history=[a_round(number) for number in range(3, 8)]))
    assert [each.fields["round"] for each in events] == [4, 5, 6, 7, 8]
    assert [each.text.split(":")[0] for each in merged(events)] == ["rounds 4 to 8 of 40"]
    mixed = told(quiet(), quiet(history=[a_round(3), lost("x", 4), a_round(5)]))
    assert len(merged(mixed)) == 3


def test_what_a_peer_sends_moves_no_cursor() -> None:
    peer = PeerStatus(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, 0.0, 0, 0)
    status = quiet(peers=[peer], refusals=[HOSTILE], problems=[HOSTILE], history=[lost(HOSTILE)])
    for each in told(quiet(), status):
        assert "\x1b" not in each.text


def test_metrics_of_any_name_are_told_and_take_the_place_of_nothing() -> None:
    metrics = {"level": 1.0, "event": 2.0, "text": 3.0, "self": 4.0, "round": 5.0}
    done = msgspec.structs.replace(a_round(1), metrics=metrics)
    (event,) = told(quiet(), quiet(history=[done]))
    assert (event.event, event.level) == ("round", "info")
    assert event.fields["level"] == 1.0
    assert event.fields["round"] == 2


def test_a_pause_and_its_end_are_told_once_with_the_reason() -> None:
    journal = Journal()
    reasons = ["", "it is not between 22:00 and 07:00", "the machine runs on its battery", "", ""]
    told = [journal.look(make_status(pause=reason), 1.0) for reason in reasons]
    kinds = [[each.event for each in events if each.event in ("paused", "resumed")] for events in told]
    assert kinds == [[], ["paused"], [], ["resumed"], []]
    assert "22:00" in next(each.text for each in told[1] if each.event == "paused")
