"""Quantities and links are read as people write them; schedules are the same for the same seed."""

from itertools import islice, pairwise

import msgspec
import pytest

from shoal.node.testnet.fault_injection.schedule import AFTER, DOWN_SECONDS, Action, actions
from shoal.node.testnet.faults import BadQuantity, Fault, Link, quantity
from shoal.node.testnet.plan import Plan


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("80ms", "seconds", 0.08),
        ("0.08", "seconds", 0.08),
        ("2 s", "seconds", 2.0),
        ("1%", "share", 0.01),
        (".5", "share", 0.5),
        ("20mbit", "mbit", 20.0),
        ("512kbit", "mbit", 0.512),
        ("1Gbit", "mbit", 1000.0),
    ],
)
def test_a_quantity_is_read_with_its_unit(text: str, kind: str, value: float) -> None:
    assert quantity(text, kind) == pytest.approx(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("fast", "seconds"), ("80%", "seconds"), ("-1ms", "seconds"), ("", "share"), ("20ms", "mbit")],
)
def test_what_is_no_quantity_of_its_kind_is_refused_with_an_example(text: str, kind: str) -> None:
    with pytest.raises(BadQuantity, match="write "):
        quantity(text, kind)  # type: ignore[arg-type]


def test_a_link_is_printed_for_people() -> None:
    link = Link(latency=0.08, jitter=0.02, loss=0.01, bandwidth_mbit=20)
    assert str(link) == "80 ms ± 20 ms, 1 % loss, 20 Mbit/s"
    assert str(Link()) == "bare"
    assert link.is_shaped
    assert not Link().is_shaped


@pytest.mark.parametrize("field", [{"loss": 0.6}, {"latency": -1.0}, {"bandwith": 1.0}])
def test_a_link_on_which_nothing_lives_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(field, Link)


def first(plan: Plan, count: int) -> list[Action]:
    return list(islice(actions(plan), count))


def test_churn_kills_its_share_of_the_nodes_per_minute_without_end() -> None:
    plan = Plan(nodes=8, churn=0.2, seed=7)
    kills = [action for action in first(plan, 400) if action.kind == "kill"]
    assert len(kills) == 200
    assert kills[-1].at / len(kills) == pytest.approx(60 / (0.2 * 8), rel=0.01)
    gaps = [late.at - early.at for early, late in pairwise(kills)]
    assert min(gaps) >= 0.5 * 37.5
    assert max(gaps) <= 1.5 * 37.5
    assert kills[0].at <= 0.75 * 37.5
    assert {node for kill in kills for node in kill.nodes} == set(range(1, 9))


def test_the_same_seed_gives_the_same_schedule_and_another_gives_another() -> None:
    plan = Plan(nodes=5, churn=0.5, seed=3, faults=(Fault(kind="pause", at=5, every=7),))
    assert first(plan, 60) == first(plan, 60)
    assert first(plan, 60) != first(msgspec.structs.replace(plan, seed=4), 60)


def test_actions_come_in_order_and_every_fault_is_ended() -> None:
    faults = (
        Fault(kind="split", at=12, nodes=(1, 2), seconds=20),
        Fault(kind="slow", at=3, nodes=(4,), seconds=40, link=Link(latency=0.5)),
        Fault(kind="pause", at=20, pick=2, seconds=1),
    )
    found = list(actions(Plan(nodes=5, faults=faults)))
    assert [action.at for action in found] == sorted(action.at for action in found)
    assert [(action.kind, action.at) for action in found] == [
        ("slow", 3),
        ("split", 12),
        ("pause", 20),
        ("resume", 21),
        ("heal", 32),
        ("restore", 43),
    ]
    assert found[0].link == Link(latency=0.5)
    assert len(found[2].nodes) == 2
    assert all(action.lasts for action in found if action.kind in AFTER)


def test_a_fault_that_lasts_to_the_end_is_not_ended() -> None:
    [action] = actions(Plan(nodes=2, faults=(Fault(kind="kill", at=1, nodes=(2,), seconds=0),)))
    assert (action.kind, action.lasts) == ("kill", False)


def test_who_is_away_is_not_drawn_again() -> None:
    away: set[int] = set()
    for action in first(Plan(nodes=3, faults=(Fault(kind="kill", at=0, every=2, seconds=5),)), 200):
        if action.kind == "kill":
            assert not away & set(action.nodes)
            away |= set(action.nodes)
        else:
            away -= set(action.nodes)


def test_where_all_are_away_nobody_is_drawn() -> None:
    found = list(actions(Plan(nodes=1, faults=(Fault(kind="kill", at=0, every=1, until=3, seconds=10),))))
    assert [action.kind for action in found] == ["kill", "restart"]


@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_repeated_faults_leave_the_end_of_a_timed_run_in_quiet(churn: float) -> None:
    faults = (Fault(kind="kill", at=5, every=10, seconds=2),)
    plan = Plan(nodes=4, churn=churn, faults=faults, rounds=0, seconds=100, quiet_end=30)
    found = list(actions(plan))
    assert max(action.at for action in found if action.kind == "kill") <= 70
    assert max(action.at for action in found) <= 70 + DOWN_SECONDS
