"""Calls between cores: each acts once, waits end by learned deadlines, and what is kept is bounded."""

from typing import Any

import pytest
from call_net import PATIENCE, RUN, CallNet, packed

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.calls.answering import (
    BUSY,
    FORGOTTEN,
    MAX_KEPT_BYTES,
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    MAX_STEPS,
    NO_ROLE,
    Answering,
)
from shoal.gossip.calls.asks import Count, Everyone, Next
from shoal.gossip.calls.forms import Form, TensorForm
from shoal.gossip.messages import Answer, Call, RoleOffer, Roles, Unserved

A, B, H, J = (PeerId(name) for name in ("a", "b", "h", "j"))
ASK = Next(("ask",), Count(1))
ALL = Next(("ask",), Everyone())


@pytest.fixture
def net() -> CallNet:
    """Two that call, two that host."""
    net = CallNet(A, B, H, J)
    for name in (A, B):
        net.attach(name, is_willing=False)
    for name in (H, J):
        net.attach(name, takes=True)
    net.run(1)
    return net


def steps(net: CallNet, name: PeerId) -> list[tuple[str, bytes]]:
    return [(each.peer, each.step) for handed in net.nodes[name].handed for each in handed.calls]


def test_a_call_is_answered(net: CallNet) -> None:
    net.want(H, ASK)
    net.call(A, 7, (H,), b"1", 5.0)
    net.run(1)
    assert steps(net, H) == [(A, b"1")]
    net.answer(H, 3.0)
    net.run(1)
    (ended,) = net.nodes[A].ended
    assert (ended.id, ended.peer, ended.data) == (7, H, packed(3.0)[1])


def test_a_node_calls_itself(net: CallNet) -> None:
    net.want(H, ASK)
    net.call(H, 1, (H,), b"1")
    net.answer(H)
    assert net.nodes[H].ended[0].peer == H


def test_a_retry_never_acts_twice_and_is_answered_alike(net: CallNet) -> None:
    net.want(H, ASK)
    net.loses = lambda frm, to, message: isinstance(message, Answer)
    net.call(A, 1, (H,), b"1")
    net.run(1)
    net.answer(H)
    net.run(1)
    net.loses = lambda frm, to, message: False
    net.want(H, ASK)
    net.cut(A, H)
    net.link(A, H)
    net.run(1)
    assert steps(net, H) == [(A, b"1")]
    assert net.nodes[A].ended[0].peer == H


def test_a_retry_while_the_answer_is_made_adds_nothing(net: CallNet) -> None:
    net.call(A, 1, (H,), b"1")
    net.run(1)
    net.send(A, H, Call(RUN, "ask", b"1", *packed(1.0)[:1]), packed(1.0)[1])
    net.want(H, ASK)
    net.send(A, H, Call(RUN, "ask", b"1", *packed(1.0)[:1]), packed(1.0)[1])
    net.want(H, ASK)
    net.run(1)
    assert steps(net, H) == [(A, b"1")]


def test_a_step_whose_answer_is_no_longer_kept_is_refused(net: CallNet) -> None:
    for number in range(3):
        net.want(H, ASK)
        net.call(A, number, (H,), b"%d" % number)
        net.run(1)
        net.answer(H)
        net.run(1)
    net.nodes[H].calls.answering._forget_answer((A, "ask", b"0"))
    net.want(H, ASK)
    net.call(A, 9, (H,), b"0")
    net.run(1)
    assert FORGOTTEN in net.nodes[A].ended[-1].failure
    assert len(steps(net, H)) == 3


def test_who_is_silent_is_followed_by_the_second_choice_within_a_deadline(net: CallNet) -> None:
    net.want(J, ASK)
    net.call(A, 1, (H, J), b"1")
    net.run(PATIENCE + 1)
    net.answer(J)
    net.run(1)
    assert net.nodes[A].ended[0].peer == J
    # Who was silent is asked last from now on.
    assert [each.peer for each in net.nodes[A].calls.holders("host", net.now)] == [J, H]


def test_deadlines_are_learned(net: CallNet) -> None:
    for number in range(4):
        net.want(H, ASK)
        net.call(A, number, (H,), b"%d" % number)
        net.run(0.5)
        net.answer(H)
        net.run(0.5)
    net.call(A, 9, (H, J), b"9")
    net.want(J, ASK)
    net.run(2.5)
    assert steps(net, J) == [(A, b"9")]


@pytest.mark.parametrize("how", ["lost", "refused", "busy"])
def test_who_cannot_answer_is_followed_at_once(net: CallNet, how: str) -> None:
    net.want(J, ASK)
    if how == "refused":
        net.want(H, ASK)
    if how == "busy":
        for number in range(MAX_QUEUED):
            net.call(A, 100 + number, (H,), b"first %d" % number)
    net.call(A, 1, (H, J), b"1")
    net.run(0.5)
    if how == "lost":
        net.cut(A, H)
    elif how == "refused":
        net.answer(H, refusal="not now")
    net.run(0.5)
    assert steps(net, J) == [(A, b"1")]


def test_nobody_answers(net: CallNet) -> None:
    net.call(A, 1, (H, J), b"1")
    net.run(2 * PATIENCE + 1)
    (ended,) = net.nodes[A].ended
    assert ended.peer is None
    assert "silent" in ended.failure


def test_a_push_is_not_answered(net: CallNet) -> None:
    net.want(H, Next(("tell",), Count(1)))
    net.call(A, 1, (H,), b"1", verb="tell")
    assert net.nodes[A].ended[0].failure == ""
    net.run(1)
    net.answer(H)
    assert steps(net, H) == [(A, b"1")]
    assert net.nodes[H].calls.answering.n_bytes == 0


def test_a_host_waits_for_those_that_called_before(net: CallNet) -> None:
    for number, names in enumerate([(A,), (A, B), (A, B)]):
        net.want(H, ALL)
        for name in names:
            net.call(name, number, (H,), b"%d" % number)
            net.run(0.3)
        net.answer(H)
        net.run(1)
    sizes = [len(each.calls) for each in net.nodes[H].handed]
    # B was not known when A called alone for the first time, nor expected the second.
    assert sizes[:2] == [1, 1]
    assert all(each.is_complete for each in net.nodes[H].handed)


def test_a_host_waits_no_longer_than_a_deadline_for_who_is_late(net: CallNet) -> None:
    net.call(A, 1, (H,), b"1")
    net.call(B, 1, (H,), b"1")
    net.run(1)
    net.want(H, Next(("ask",), Everyone((A, B, J))))
    net.run(PATIENCE + 1)
    (handed,) = net.nodes[H].handed
    assert ([each.peer for each in handed.calls], handed.is_complete) == ([A, B], False)


def test_who_is_gone_is_not_waited_for(net: CallNet) -> None:
    net.want(H, Next(("ask",), Everyone((A,))))
    net.run(1)
    assert not net.nodes[H].handed
    net.cut(A, H)
    assert [(each.calls, each.is_complete) for each in net.nodes[H].handed] == [((), True)]


def test_the_last_call_of_a_peer_is_waited_for_no_further(net: CallNet) -> None:
    core, (shapes, data) = net.nodes[A].calls, packed(1.0)
    net.want(H, ALL)
    net.do(A, core.call(1, (H,), "ask", b"1", shapes, data, net.now, is_last=True))
    net.run(1)
    net.answer(H)
    net.want(H, ALL)
    net.call(B, 1, (H,), b"1")
    net.run(1)
    assert [each.is_complete for each in net.nodes[H].handed] == [True, True]


def test_calls_of_one_peer_and_verb_are_few_and_those_of_others_wait_beside(net: CallNet) -> None:
    for number in range(10):
        net.call(A, number, (H,), b"%d" % number)
    net.call(B, 1, (H,), b"1")
    net.run(1)
    assert net.nodes[H].calls.answering.n_queued == MAX_QUEUED + 1
    assert net.nodes[H].counts[f"call refused: {BUSY}"] == 10 - MAX_QUEUED


def test_a_flood_leaves_memory_bounded(net: CallNet) -> None:
    answering = net.nodes[H].calls.answering
    shapes, data = packed(1.0)
    for number in range(3 * MAX_STEPS):
        net.send(A, H, Call(RUN, "ask", b"%d" % number, shapes), data)
        net.want(H, ASK)
        net.answer(H)
    assert len(answering._peers[A].steps) == MAX_STEPS
    assert answering.n_bytes <= MAX_QUEUED_BYTES
    assert len(answering._kept) <= MAX_STEPS


MOST = 4 << 20
"""Bytes of a call at most."""
BIG = {"v": TensorForm((MOST // 4,))}
VERBS = {"one": Form(BIG, BIG), "two": Form(BIG, BIG)}


def full_of(peer: PeerId) -> tuple[Answering, Admission]:
    """Return the calls of a host whose queue one peer has filled, with two verbs."""
    admission = Admission()
    answering = Answering(H, PATIENCE, {A, B}, admission)
    answering.attach(RUN, VERBS)
    answering.roles.add("host")
    for number in range(MAX_QUEUED):
        for verb in VERBS:
            assert call_big(answering, peer, verb, b"%d" % number, MOST) == []
    assert answering.n_bytes == MAX_QUEUED_BYTES
    return answering, admission


def call_big(answering: Answering, peer: PeerId, verb: str, step: bytes, size: int) -> list[Any]:
    return answering.called(peer, Call(RUN, verb, step, (("v", (size // 4,)),)), bytes(size), 0.0)


def test_who_fills_the_queue_gives_way_to_the_others() -> None:
    answering, admission = full_of(A)
    assert call_big(answering, B, "one", b"1", MOST) == [(A, Unserved(RUN, "two", b"3", BUSY), b"")]
    assert admission.counts[f"call refused: {BUSY}"] == 1
    assert answering.n_bytes == MAX_QUEUED_BYTES
    answering.want("host", Next(("one", "two"), Everyone((A, B))), 0.0)
    (handed,) = answering.ready(0.0)
    assert {each.peer for each in handed.calls} == {A, B}


def test_nobody_gives_way_to_one_that_has_as_much() -> None:
    answering, _ = full_of(A)
    for number in range(MAX_QUEUED):
        assert call_big(answering, B, "one", b"%d" % number, MOST)[0][0] == A
    assert call_big(answering, B, "two", b"0", MOST) == [(B, Unserved(RUN, "two", b"0", BUSY), b"")]
    assert call_big(answering, A, "two", b"9", MOST) == [(A, Unserved(RUN, "two", b"9", BUSY), b"")]
    assert answering.n_bytes == MAX_QUEUED_BYTES


def test_who_asks_most_is_no_sooner_served_than_the_others(net: CallNet) -> None:
    both = Next(("ask", "tell"), Count(1))
    for number in range(MAX_QUEUED):
        for verb in both.verbs:
            net.call(A, 100 + number, (H,), b"%d" % number, verb=verb)
    net.run(1)
    net.call(B, 1, (H,), b"1")
    net.run(1)
    for _ in range(3):
        net.want(H, both)
    assert [peer for peer, _ in steps(net, H)] == [A, B, A]


def test_who_asks_most_does_not_push_out_the_answers_of_others() -> None:
    answering, _ = full_of(B)
    answering.detach()
    answering.roles.add("host")
    for peer, count in ((B, 1), (A, 12)):
        for number in range(count):
            call_big(answering, peer, "one", b"%d" % number, MOST)
            answering.want("host", Next(("one",)), 0.0)
            ((call,),) = (each.calls for each in answering.ready(0.0))
            answering.reply(call.name, call.shapes, call.data)
    assert answering.n_bytes == MAX_KEPT_BYTES
    assert call_big(answering, B, "one", b"0", MOST)[0][1] == Answer(RUN, "one", b"0", (("v", (MOST // 4,)),))
    assert call_big(answering, A, "one", b"0", MOST)[0][1] == Unserved(RUN, "one", b"0", FORGOTTEN)


BAD: list[tuple[str, Any, bytes]] = [
    ("call refused: unknown verb", Call(RUN, "other", b"1", packed(1.0)[0]), packed(1.0)[1]),
    ("call refused: call of another run", Call(bytes(31) + b"x", "ask", b"1", packed(1.0)[0]), b""),
    ("call with other tensors than its form", Call(RUN, "ask", b"1", (("w", (1,)),)), bytes(4)),
    ("call with a shape outside its form", Call(RUN, "ask", b"1", (("v", (5,)),)), bytes(20)),
    ("call with a shape outside its form", Call(RUN, "ask", b"1", (("v", (1, 1)),)), bytes(4)),
    ("call with other bytes than its shapes", Call(RUN, "ask", b"1", (("v", (4,)),)), bytes(15)),
    ("answer that nobody waits for", Answer(RUN, "ask", b"1", packed(1.0)[0]), packed(1.0)[1]),
]


@pytest.mark.parametrize(("reason", "message", "data"), BAD)
def test_what_does_not_fit_is_counted_and_not_kept(
    net: CallNet, reason: str, message: Any, data: bytes
) -> None:
    net.send(A, H, message, data)
    assert net.nodes[H].counts == {reason: 1}
    assert net.nodes[H].calls.answering.n_queued == 0


def test_who_breaks_forms_again_and_again_is_dropped(net: CallNet) -> None:
    for _ in range(32):
        net.send(A, H, BAD[2][1], BAD[2][2])
    assert net.dropped == {A}


def test_an_answer_outside_the_form_is_followed_by_the_second_choice(net: CallNet) -> None:
    net.want(J, ASK)
    net.call(A, 1, (H, J), b"1")
    net.send(H, A, Answer(RUN, "ask", b"1", (("v", (9,)),)), bytes(36))
    net.run(1)
    assert steps(net, J) == [(A, b"1")]
    assert net.nodes[A].counts == {"call with a shape outside its form": 1}


def test_without_a_trainer_callers_are_told(net: CallNet) -> None:
    net.call(A, 1, (H,), b"1")
    net.run(1)
    net.do(H, net.nodes[H].calls.detach(net.now))
    net.call(B, 1, (H,), b"1")
    net.run(1)
    assert NO_ROLE in net.nodes[A].ended[0].failure
    assert net.nodes[B].ended[0].peer is None
    assert net.nodes[H].calls.answering.n_queued == 0


def test_a_verb_that_the_method_lacks_fails(net: CallNet) -> None:
    net.call(A, 1, (H,), b"1", verb="other")
    assert "no verb" in net.nodes[A].ended[0].failure


# --- roles ----------------------------------------------------------------------------------------


def test_the_ablest_of_the_willing_takes_what_nobody_holds() -> None:
    net = CallNet(A, B, H)
    net.attach(A, ability=4)
    net.attach(B, ability=8)
    net.attach(H, ability=16, is_willing=False)
    net.run(10)
    assert [net.nodes[name].taken for name in (A, B, H)] == [[], ["host"], []]
    assert [each.peer for each in net.nodes[A].calls.holders("host", net.now)] == [B]


def test_a_role_whose_holder_is_gone_is_taken_after_two_deadlines() -> None:
    net = CallNet(A, B, H)
    net.attach(H, takes=True)
    net.attach(A, ability=4)
    net.attach(B, ability=8)
    net.run(10)
    assert not net.nodes[B].taken
    for name in (A, B):
        net.cut(name, H)
    net.run(2 * PATIENCE - 4)
    assert not net.nodes[B].taken
    net.run(11)
    assert net.nodes[B].taken == ["host"]


def test_stages_are_spread_over_the_willing() -> None:
    net = CallNet(A, B, roles=("stage-0", "stage-1"))
    net.attach(A, ability=4)
    net.attach(B, ability=8)
    net.run(20)
    assert sorted(net.nodes[A].taken + net.nodes[B].taken) == ["stage-0", "stage-1"]
    assert len(net.nodes[A].taken) == 1


def test_what_a_peer_said_of_roles_ends_with_its_lease() -> None:
    net = CallNet(A, H)
    net.attach(A, is_willing=False)
    net.send(H, A, Roles((RoleOffer("host", True),), 1.0, False, 5.0))
    assert net.nodes[A].calls.holders("host", 4.9)
    assert not net.nodes[A].calls.holders("host", 5.0)


def test_nobody_is_believed_for_longer_than_a_minute() -> None:
    net = CallNet(A, H)
    net.attach(A, is_willing=False)
    net.send(H, A, Roles((RoleOffer("host", True),), 1.0, False, 600.0))
    assert not net.nodes[A].calls.holders("host", 60.0)


def test_an_unserved_call_of_another_run_changes_nothing(net: CallNet) -> None:
    net.call(A, 1, (H,), b"1")
    net.send(H, A, Unserved(bytes(31) + b"x", "ask", b"1", "busy"))
    assert not net.nodes[A].ended
