"""The timeline shows what was the matter with whom, and is drawn whatever happened."""

from pathlib import Path

import pytest
from testnet_shaken import EVENTS, PLAN, SHAKEN, swarm

from shoal.node.testnet.event_log import Event
from shoal.node.testnet.faults import Link
from shoal.node.testnet.invariants import Shaken
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.plots import Band, bands, draw_timeline, loading, subtitle
from shoal.node.testnet.verdict import judge
from shoal.node.testnet.watch import Observed


def test_a_band_lasts_from_a_fault_to_what_ends_it() -> None:
    events = [
        Event(1.0, "start", (1, 2)),
        Event(2.0, "pause", (1,)),
        Event(3.0, "kill", (2,)),
        Event(4.0, "resume", (1,)),
        Event(5.0, "split", (1,)),
        Event(6.0, "kill", (1,)),
        Event(7.0, "restart", (1,)),
    ]
    assert bands(1, events, 9.0) == [Band("pause", 2.0, 4.0), Band("split", 5.0, 9.0), Band("kill", 6.0, 7.0)]
    assert bands(2, events, 9.0) == [Band("kill", 3.0, 9.0)]
    assert bands(3, events, 9.0) == []


def test_a_node_loads_from_its_restart_to_its_first_word_of_a_round() -> None:
    fourth = swarm()[3]
    [band] = loading(4, fourth, EVENTS, 300.0)
    assert (band.begin, band.end) == (141.0, 170.5)
    assert loading(1, fourth, EVENTS, 300.0) == []
    assert loading(4, Observed("node-4"), EVENTS, 300.0) == [Band("loading", 141.0, 300.0)]


def test_the_title_says_what_they_were_put_through_and_how_it_ended() -> None:
    plan = Plan(nodes=4, rounds=20, link=Link(latency=0.08))
    result = judge(plan, swarm(), local_only=None, seconds=1.0, shaken=SHAKEN)
    assert subtitle(plan, result) == "80 ms, 1 kill; the verdict holds"
    peace = judge(PLAN, swarm(), local_only=None, seconds=1.0)
    assert subtitle(PLAN, peace).startswith("in peace; ")


@pytest.mark.parametrize(
    ("nodes", "shaken"),
    [
        (swarm(), SHAKEN),
        ([Observed(f"node-{i}") for i in range(4)], Shaken(began=1.0, ended=2.0)),
        (swarm()[:1], Shaken(EVENTS, 90.0, 300.0)),
    ],
)
def test_whatever_happened_makes_a_picture(tmp_path: Path, nodes: list[Observed], shaken: Shaken) -> None:
    result = judge(PLAN, nodes, local_only=None, seconds=1.0, shaken=shaken)
    draw_timeline(tmp_path / "t.png", PLAN, nodes, result, shaken, title="a title")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
