"""Each invariant of a shaken testnet holds where it should, and is broken by the one thing it watches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from testnet_shaken import BACK_AT, EVENTS, PLAN, ROUND, SHAKEN, a_round, contributors, ended, node, swarm

from shoal.node.status import RoundStatus
from shoal.node.testnet.event_log import Event
from shoal.node.testnet.faults import Holds
from shoal.node.testnet.invariants import (
    LOADING_SECONDS,
    Check,
    Shaken,
    costs,
    durations,
    invariants,
    spans,
    swarm_rounds,
)
from shoal.node.testnet.network.link_model import ShaperReport
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.verdict import judge
from shoal.node.testnet.watch import Observed


def failing(nodes: Sequence[Observed], shaken: Shaken = SHAKEN, plan: Plan = PLAN) -> dict[str, str]:
    return {check.name: check.detail for check in invariants(plan, nodes, shaken) if not check.ok}


def with_(**changes: Any) -> Shaken:
    return dataclasses.replace(SHAKEN, **changes)


def replace(nodes: list[Observed], index: int, rounds: Sequence[RoundStatus]) -> list[Observed]:
    nodes[index - 1] = node(index, rounds)
    return nodes


def of(nodes: Sequence[Observed], index: int) -> list[RoundStatus]:
    return list(nodes[index - 1].tries.values())


def test_a_swarm_that_lost_a_node_and_got_it_back_passes() -> None:
    assert failing(swarm()) == {}
    assert judge(PLAN, swarm(), local_only=(), seconds=1.0, shaken=SHAKEN).verdict


def test_lives_are_cut_where_something_happened() -> None:
    found = [span for span in spans(PLAN, swarm(), EVENTS, SHAKEN.ended) if span.node == 4]
    assert [(s.after, s.begins, s.ends, s.to_the_end) for s in found] == [
        ("start", 90.0, 121.0, False),
        ("restart", 141.0, 300.0, True),
    ]
    assert found[0].averaged == [0, 1, 2]
    assert found[1].averaged == list(range(BACK_AT + 1, 20))
    assert found[1].ready is not None
    assert found[1].ready.outcome == "synced"


def test_those_who_were_left_with_a_quorum_are_not_cut_by_a_split() -> None:
    events = [*EVENTS[:5], Event(110.0, "split", (1,)), Event(120.0, "heal", (1,))]
    found = spans(PLAN, swarm(), events, 300.0)
    assert [(s.node, s.after) for s in found] == [
        (1, "start"),
        (1, "heal"),
        (2, "start"),
        (3, "start"),
        (4, "start"),
    ]
    halves = [*EVENTS[:5], Event(110.0, "split", (1, 2))]
    assert all(not s.to_the_end for s in spans(PLAN, swarm(), halves, 300.0))


def test_a_survivor_that_skipped_a_round_has_lost_it() -> None:
    nodes = swarm()
    kept = [r for r in of(nodes, 1) if r.round != 3]
    nodes = replace(nodes, 1, [*kept, a_round(3, outcome="synced", contributors=0)])
    assert failing(nodes) == {"no node lost a round by what befell others": "node-1 lost 1: 3 missed"}


def test_a_survivor_whose_try_failed_has_lost_it_even_if_the_next_try_worked() -> None:
    nodes = swarm()
    nodes = replace(nodes, 1, [*of(nodes, 1), a_round(3, outcome="failed", contributors=0, late=-3.0)])
    assert failing(nodes) == {"no node lost a round by what befell others": "node-1 lost 1: 3 failed"}


def test_a_scenario_may_allow_a_loss() -> None:
    nodes = swarm()
    nodes = replace(nodes, 1, [*of(nodes, 1), a_round(3, outcome="failed", contributors=0, late=-3.0)])
    assert failing(nodes, plan=msgspec.structs.replace(PLAN, holds=Holds(lost_rounds=1))) == {}


@pytest.mark.parametrize(("lost", "holds"), [((3,), True), ((3, 5, 7, 9, 11), False)])
def test_in_a_swarm_of_several_groups_a_round_in_twenty_may_be_lost(lost: Sequence[int], holds: bool) -> None:
    nodes, plan = swarm(), msgspec.structs.replace(PLAN, group_size=2)
    kept = [r for r in of(nodes, 1) if r.round not in lost]
    nodes = replace(nodes, 1, [*kept, *(a_round(r, outcome="synced", contributors=0) for r in lost)])
    check = next(c for c in invariants(plan, nodes, SHAKEN) if c.name.startswith("no node lost"))
    assert check.ok == holds, check.detail
    assert "1 lost: groups do not wait for the last" in check.detail if holds else "3 missed" in check.detail


def test_tries_before_a_node_was_in_the_swarm_are_not_lost() -> None:
    nodes = swarm()
    early = a_round(0, outcome="failed", contributors=0, late=-5.0)
    assert failing(replace(nodes, 2, [*of(nodes, 2), early])) == {}


def test_the_last_rounds_count_too() -> None:
    nodes = swarm()
    kept = [r for r in of(nodes, 2) if r.round < 19]
    nodes = replace(nodes, 2, [*kept, a_round(19, outcome="synced", contributors=0, late=1.0)])
    assert list(failing(nodes)) == ["no node lost a round by what befell others"]


def test_a_node_that_chases_the_swarm_is_starved_and_not_back() -> None:
    nodes = swarm()
    before = [r for r in of(nodes, 4) if r.round <= 2]
    chase = [a_round(r, outcome="synced", contributors=0, late=0.5) for r in range(BACK_AT, 20)]
    found = failing(replace(nodes, 4, [*before, *chase]))
    assert found["no live node was starved"] == "node-4 missed 12 rounds in a row"
    assert found["a node that came back took part within 2 rounds"] == (
        "node-4 took part 12 rounds after it had the state"
    )


@pytest.mark.parametrize(("missed", "ok"), [(2, True), (3, False)])
def test_who_came_back_may_miss_a_few_rounds(missed: int, ok: bool) -> None:
    nodes = swarm()
    away = range(BACK_AT + 1, BACK_AT + 1 + missed)
    kept = [r for r in of(nodes, 4) if r.round not in away]
    assert ("a node that came back took part within 2 rounds" not in failing(replace(nodes, 4, kept))) is ok


def test_who_never_came_back_is_told_once_it_had_time_to() -> None:
    nodes = swarm()
    nodes = replace(nodes, 4, [r for r in of(nodes, 4) if r.round <= 2])
    assert "node-4 was not back 30 s after its restart" in failing(nodes).values()
    unloaded = EVENTS[:-1]
    long_ago = with_(events=unloaded, ended=ended(4, 1.0) + LOADING_SECONDS + 1)
    assert "node-4 was not back 180 s after its restart" in failing(nodes, long_ago).values()
    soon = with_(events=unloaded, ended=ended(4, 1.0) + LOADING_SECONDS - 1)
    assert failing(nodes, soon) == {}


@pytest.mark.parametrize(("late", "ok"), [(25.0, True), (35.0, False)])
def test_who_was_cut_off_is_back_in_time_after_the_cut_is_mended(late: float, ok: bool) -> None:
    events = [*EVENTS[:5], Event(ended(2, 1.0), "split", (4,)), Event(ended(8) - late, "heal", (4,))]
    nodes = swarm()
    kept = [r for r in of(nodes, 4) if r.round <= 2 or r.round >= 8]
    found = failing(replace(nodes, 4, kept), with_(events=events))
    assert ("node-4 was not back 30 s after its heal" not in found.values()) is ok


def test_an_old_round_that_ends_as_a_frozen_node_wakes_does_not_make_the_next_one_lost() -> None:
    woken = ended(3, 8.0)
    events = [*EVENTS[:5], Event(ended(2, 1.0), "pause", (4,)), Event(woken, "resume", (4,))]
    nodes = swarm()
    old = a_round(3, contributors=3, late=8.5)
    synced = a_round(4, outcome="synced", contributors=0, late=0.5)
    later = [a_round(r, contributors=contributors(r)) for r in range(5, 20)]
    nodes = replace(nodes, 4, [*(a_round(r) for r in range(3)), old, synced, *later])
    assert failing(nodes, with_(events=events)) == {}


def test_a_live_node_that_never_took_part_is_starved() -> None:
    nodes = swarm()
    nodes[1] = Observed("node-2")
    assert failing(nodes)["no live node was starved"].startswith("node-2 missed ")


def test_one_state_with_two_lists_of_contributors_is_found() -> None:
    nodes = swarm()
    others = [r for r in of(nodes, 3) if r.round != 5]
    nodes = replace(nodes, 3, [*others, a_round(5, contributors=2)])
    assert failing(nodes) == {
        "one state, one list of contributors": "round 5: 2 and 3 contributors for one state"
    }


def test_what_is_left_running_is_named() -> None:
    assert failing(swarm(), with_(left=["12: python -P -m shoal.node start"])) == {
        "nothing is left running": "12: python -P -m shoal.node start"
    }


def report(sent: dict[int, int]) -> ShaperReport:
    return ShaperReport(pid=1, connections=9, open=0, strangers=0, stalls=3, sent_bytes=sent)


def test_a_node_that_went_around_the_proxy_is_found() -> None:
    whole = dict.fromkeys((1, 2, 3, 4), 1000)
    assert failing(swarm(), with_(proxied=True, report=report(whole))) == {}
    found = failing(swarm(), with_(proxied=True, report=report(whole | {2: 0})))
    assert found == {"all traffic passed the proxy": "node-2 sent nothing through it"}
    assert "all traffic passed the proxy" in failing(swarm(), with_(proxied=True, report=None))


def test_a_fault_is_told_with_what_it_cost() -> None:
    nodes = swarm()
    for i in (1, 2, 3):
        late = [a_round(r, contributors=contributors(r), late=4.0 if r >= 3 else 0.0) for r in range(20)]
        nodes = replace(nodes, i, late)
    [cost] = costs(PLAN, nodes, SHAKEN)
    assert (cost.kind, cost.nodes, cost.by, cost.at) == ("kill", (4,), "schedule", 31.0)
    assert (cost.round, cost.round_seconds, cost.extra_seconds) == (3, 14.0, 4.0)
    assert cost.back_seconds == ended(BACK_AT + 1) - ended(4, 1.0)


def test_rounds_of_the_swarm_are_timed_by_the_median_and_gaps_have_no_time() -> None:
    nodes = [
        node(i, [a_round(r, late=late) for r in (0, 1, 3)]) for i, late in ((1, 0.0), (2, 1.0), (3, 9.0))
    ]
    rounds = swarm_rounds(nodes)
    assert rounds == {0: ended(0, 1.0), 1: ended(1, 1.0), 3: ended(3, 1.0)}
    assert durations(rounds) == {1: ROUND}


def calm(**changes: Any) -> Check:
    result = judge(PLAN, swarm(), seconds=1.0, shaken=with_(**changes))
    return next(check for check in result.invariants if "calm run" in check.name)


@pytest.mark.parametrize(("peace", "ok"), [(0.96, True), (0.969, True), (0.98, False)])
def test_the_accuracy_is_held_against_that_of_the_run_in_peace(peace: float, ok: bool) -> None:
    check = calm(calm_accuracy=peace)
    assert check.ok is ok
    assert check.name == "accuracy within 2 points of the calm run"


def test_a_calm_run_that_failed_itself_proves_nothing() -> None:
    assert (
        calm(calm_accuracy=0.5, calm_faults=["some: thing"]).detail
        == "the calm run itself failed: some: thing"
    )


def test_a_method_that_shares_nothing_is_only_asked_what_is_left_running() -> None:
    found = invariants(Plan(method="local", rounds=3), swarm(), SHAKEN)
    assert [check.name for check in found] == ["nothing is left running"]
