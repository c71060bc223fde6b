"""The table and the lines tell what the statuses say."""

import io

import msgspec
import pytest
from rich.console import Console
from testnet_fakes import peer_status, round_status, status

from shoal.node.status import CallsStatus
from shoal.node.testnet.invariants import Cost
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.tables import (
    Display,
    cost_line,
    line_of,
    links_of,
    live_view,
    problems,
    roles_line,
    row_of,
    rows,
    size,
    styles_of_hashes,
    verdict_panel,
)
from shoal.node.testnet.verdict import judge
from shoal.node.testnet.watch import HostCost, Observed

PLAN = Plan(nodes=3, rounds=40)


def node(index: int, round_: int = 3, *, state: str | None = None, phase: str = "working") -> Observed:
    observed = Observed(f"node-{index}")
    history = [round_status(i, accuracy=0.5 + index / 100) for i in range(1, round_ + 1)]
    peers = [peer_status("a"), peer_status("b"), peer_status("c", "relayed"), peer_status("d", "none")]
    observed.take(status(history=history, phase=phase, peers=peers, state=state, sent=1_234_567))
    return observed


def text_of(renderable: object, width: int = 140) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def test_a_row_tells_what_the_status_says() -> None:
    row = row_of(node(2), {})
    assert (row.name, row.phase, row.round, row.peers) == ("node-2", "working", "3", "4")
    assert (row.loss, row.accuracy, row.sent, row.received) == ("0.333", "0.520", "1.2 MB", "1.2 MB")
    assert (row.links, row.state) == ("direct 2, relayed 1", "00000000")


def test_a_node_that_has_not_answered_yet_is_starting() -> None:
    assert row_of(Observed("node-1"), {}).phase == "starting"


def test_a_node_that_fell_silent_or_died_is_told_apart() -> None:
    silent, killed, ended, gone = (node(i) for i in range(1, 5))
    silent.take(None)
    killed.exit_code, ended.exit_code = -9, 2
    gone.process, gone.answers = "not running", False
    phases = [row_of(observed, {}).phase for observed in (silent, killed, ended, gone)]
    assert phases == ["does not answer", "was killed by signal 9", "ended with code 2", "not running"]


def test_a_node_that_died_before_it_answered_says_so() -> None:
    dead = Observed("node-1", exit_code=2)
    assert row_of(dead, {}).phase == "ended with code 2"


def test_a_finished_node_stays_finished_after_it_left() -> None:
    done = node(1, phase="finished")
    done.exit_code = 0
    done.answers = False
    assert row_of(done, {}).phase == "finished"


def test_equal_states_have_one_colour_and_the_most_common_is_green() -> None:
    nodes = [node(1, state="bb"), node(2, state="aa"), node(3, state="bb"), Observed("node-4")]
    assert styles_of_hashes(nodes) == {"bb": "green", "aa": "yellow"}
    assert [row.state_style for row in rows(nodes)] == ["green", "yellow", "green", ""]


def test_more_states_than_colours_are_no_fault() -> None:
    styles = styles_of_hashes([node(i, state=f"{i:02}") for i in range(9)])
    assert len(styles) == 9


def test_links_count_only_peers_that_are_linked() -> None:
    assert links_of(status(peers=[peer_status("a", "none")])) == ""


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_read_well(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


def test_sizes_of_the_table_are_short() -> None:
    sizes = (999, 1_234_567, 98_765, 999_400_000)
    assert [size(each, is_short=True) for each in sizes] == ["999 B", "1.2 MB", "99 kB", "999 MB"]


def test_a_line_tells_the_slowest_round_and_the_phases() -> None:
    line = line_of(PLAN, [node(1), node(2, 5), Observed("node-3")], 12.0)
    assert "round  0/40" in line
    assert "accuracy 0.515 (lowest 0.510)" in line
    assert "1 starting, 2 working" in line
    assert "\n" not in line


def test_a_node_that_was_ended_on_purpose_holds_up_no_progress() -> None:
    away = node(1)
    away.wished, away.exit_code = True, -9
    line = line_of(PLAN, [away, node(2, 5), node(3, 6)], 12.0)
    assert "round  5/40" in line
    assert "1 ended on purpose, 2 working" in line


def test_who_holds_which_role_stands_under_the_table() -> None:
    nodes = [node(1), node(2)]
    assert roles_line(nodes) == ""
    calls = CallsStatus(
        hosts={"host": ["peer-2"], "spare": []}, per_second=0.0, waiting=0, unanswered=0, parts=[]
    )
    for number, observed in enumerate(nodes, start=1):
        assert observed.status is not None
        observed.status = msgspec.structs.replace(observed.status, peer_id=f"peer-{number}", calls=calls)
    assert roles_line(nodes) == "host: node-2; spare: nobody"
    assert "host: node-2; spare: nobody" in text_of(live_view(PLAN, nodes, 1.0))


def test_the_end_of_a_host_is_told_with_what_it_cost() -> None:
    hosting = HostCost(
        roles=("host", "spare2"), lost_steps=1, seconds=2.25, went_on_with=(4,), taken_by={"host": 2}
    )
    cost = Cost(at=65.9, kind="kill", nodes=(1,), by="hand", round=4, round_seconds=9.0, extra_seconds=0.7,
                back_seconds=None, hosting=hosting)  # fmt: skip
    assert cost_line(cost) == (
        "kill of node-1 (host, spare2) by hand in round 4, which took 0.7 s more than usual, 1 step of the"
        " others lost, they went on with node-4 after 2.2 s at most, node-2 is host now, nobody is spare2 now"
    )


def test_the_live_view_shows_every_node_and_the_progress() -> None:
    shown = text_of(live_view(PLAN, [node(1), node(2), node(3)], 12.0, "starting"))
    assert all(f"node-{i}" in shown for i in (1, 2, 3))
    assert "round 3 of 40" in shown
    assert "fedavg on digits, 3 nodes" in shown


def test_a_narrow_terminal_is_no_fault() -> None:
    assert "node-1" in text_of(live_view(PLAN, [node(1)], 1.0), width=60)


def test_a_problem_is_told_once_with_all_who_have_it() -> None:
    nodes = [node(1), node(2), node(3)]
    for observed in nodes[:2]:
        assert observed.status is not None
        observed.status = msgspec.structs.replace(observed.status, problems=["the disk is full"] * 2)
    assert problems(nodes) == ["node-1, node-2: the disk is full"]
    assert "node-1, node-2: the disk is full" in text_of(live_view(PLAN, nodes, 1.0))


def test_without_a_terminal_a_trainer_that_ends_again_and_again_is_told_once() -> None:
    observed, out = node(1), io.StringIO()
    assert observed.status is not None
    observed.status = msgspec.structs.replace(observed.status, trainer="the training diverged; lower lr = 9")
    with Display(Console(file=out, width=140, color_system=None)) as display:
        for seconds in (1.0, 2.0, 3.0):
            display.show(PLAN, [observed], seconds, "")
    assert out.getvalue().count("node-1: its trainer ended: the training diverged; lower lr = 9") == 1


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    shown = text_of(live_view(PLAN, [node(10, 40)], 1.0), width=80)
    assert all(
        text in shown for text in ("node-10", "working", "0.600", "87%", "1.2 MB", "direct 2", "00000000")
    )


def test_the_panel_tells_the_verdict_and_every_check() -> None:
    nodes = [node(i, 40, phase="finished") for i in (1, 2, 3)]
    result = judge(PLAN, nodes, local_only=[0.3, 0.4], seconds=99.0)
    shown = text_of(verdict_panel(result, ["/x/result.json"]))
    assert "the verdict does not hold" in shown
    assert "FAILS  accuracy of every node at least 0.90" in shown
    assert all(check.name in shown for check in result.invariants)
    assert "0.350 mean (0.300, 0.400)" in shown
    assert "/x/result.json" in shown
