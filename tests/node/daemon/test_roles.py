"""What a status says of roles and calls."""

import pytest
from call_net import LATENCY, PATIENCE, CallNet

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import Count, Next
from shoal.gossip.calls.tally import MAX_COUNTED, MAX_HANDED, MAX_HANDOVERS, PERIOD, Tally
from shoal.node.cli.show import calls_facts
from shoal.node.daemon.roles import status_of
from shoal.node.status import CallPartStatus

A, H, J = PeerId("a"), PeerId("h"), PeerId("j")
WORK = 1.5


def served() -> CallNet:
    """Return two nodes of which one has called the other, which took its time."""
    net = CallNet(A, H)
    net.attach(A, is_willing=False)
    net.attach(H, takes=True)
    net.run(1)
    net.want(H, Next(("ask",), Count(1)))
    net.call(A, 7, (H,), b"1")
    net.run(LATENCY + WORK)
    net.answer(H)
    net.run(1)
    return net


def test_the_status_says_who_hosts_how_often_and_how_long() -> None:
    net = served()
    caller, host = (status_of(net.nodes[peer].calls, net.now) for peer in (A, H))
    assert caller is not None
    assert host is not None
    assert caller.hosts == host.hosts == {"host": ["h"]}
    assert caller.per_second == host.per_second == 1 / PERIOD
    assert [(each.verb, each.part) for each in caller.parts] == [("ask", "answer")]
    assert caller.parts[0].seconds == pytest.approx(WORK + 2 * LATENCY)
    assert host.parts == [CallPartStatus("ask", "queue", 0.0), CallPartStatus("ask", "work", WORK)]
    assert (caller.unanswered, host.waiting) == (0, 0)
    net.call(A, 8, (H,), b"2")
    net.run(0.5)
    assert status_of(net.nodes[A].calls, net.now).unanswered == 1  # type: ignore[union-attr]
    assert status_of(net.nodes[H].calls, net.now).waiting == 1  # type: ignore[union-attr]


def test_a_method_without_roles_has_no_calls() -> None:
    net = CallNet(A, H, roles=())
    net.attach(A)
    assert status_of(net.nodes[A].calls, 0.0) is None


def test_it_is_shown_in_a_line_per_role_and_verb() -> None:
    host = status_of(served().nodes[H].calls, 3.0)
    assert host is not None
    assert calls_facts(host, "h") == [
        ("hosts", "host: this node"),
        ("calls", "0.1 a second, 0 not answered, 0 of peers wait"),
        ("", "ask: queue 0.000 s, work 1.500 s"),
    ]


def test_who_took_over_from_whom_is_told_with_what_it_took() -> None:
    net = CallNet(A, H, J)
    net.attach(A, is_willing=False)
    for host in (H, J):
        net.attach(host, takes=True)
    net.run(1)
    net.want(J, Next(("ask",), Count(1)))
    net.call(A, 7, (H, J), b"1")
    net.run(PATIENCE + LATENCY)
    net.answer(J)
    net.run(1)
    told = status_of(net.nodes[A].calls, net.now)
    assert told is not None
    (went_on,) = told.handovers
    assert (went_on.verb, went_on.left, went_on.to, went_on.why) == ("ask", H, J, "silent")
    assert went_on.seconds == pytest.approx(PATIENCE + 2 * LATENCY)
    assert went_on.age_seconds == pytest.approx(1 - LATENCY)
    assert calls_facts(told, A)[-1] == (
        "went on", "with j 0.9 s ago, 10.2 s after h did not answer ask (silent)"
    )  # fmt: skip
    net.cut(A, H)
    net.want(J, Next(("ask",), Count(1)))
    net.call(A, 8, (H, J), b"2")
    net.run(LATENCY)
    net.answer(J)
    net.run(1)
    told = status_of(net.nodes[A].calls, net.now)
    assert told is not None
    assert [each.why for each in told.handovers] == ["silent", "gone"]


def test_a_host_that_answers_after_all_was_not_left() -> None:
    net = served()
    net.call(A, 8, (H,), b"2")
    net.run(PATIENCE + 1)
    assert len(net.nodes[A].ended) == 2
    net.call(A, 9, (H,), b"3")
    for _ in range(2):
        net.want(H, Next(("ask",), Count(1)))
        net.run(LATENCY)
        net.answer(H)
    net.run(1)
    assert net.nodes[A].ended[-1].peer == H
    assert status_of(net.nodes[A].calls, net.now).handovers == []  # type: ignore[union-attr]


def test_a_call_while_nobody_hosts_leaves_nobody() -> None:
    net = CallNet(A, H)
    net.attach(A, is_willing=False)
    net.call(A, 7, "", b"1")
    net.run(PATIENCE + 1)
    assert not net.nodes[A].ended[0].peer
    net.attach(H, takes=True)
    net.run(1)
    net.want(H, Next(("ask",), Count(1)))
    net.call(A, 8, (H,), b"2")
    net.run(LATENCY)
    net.answer(H)
    net.run(1)
    assert net.nodes[A].ended[-1].peer == H
    assert status_of(net.nodes[A].calls, net.now).handovers == []  # type: ignore[union-attr]


def test_what_is_kept_for_watching_is_bounded() -> None:
    tally = Tally()
    for number in range(2 * MAX_COUNTED):
        tally.handed(("a", "ask", b"%d" % number), 0.0, 1.0)
    assert (len(tally._times), len(tally._handed)) == (MAX_COUNTED, MAX_HANDED)
    assert tally.per_second(1.0) == MAX_COUNTED / PERIOD
    assert tally.per_second(100.0) == 0.0
    for number in range(2 * MAX_HANDOVERS):
        tally.left("ask", H, "silent", 0.0)
        tally.answered("ask", J, 1.0, float(number))
    assert [each.at for each in tally.handovers] == [*range(MAX_HANDOVERS, 2 * MAX_HANDOVERS)]
    tally.clear()
    assert tally.medians() == []
    assert not tally.handovers
