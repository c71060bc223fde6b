"""AskQueue: the asks of a round one after the other, and what comes early or late for them."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from shoal.crypto.keys import PeerId, short
from shoal.gossip.admission.admission import LONGEST_SHUT_OUT, SHUT_OUT
from shoal.gossip.admission.marks import SHORTEST_MARK
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announced import digest_of, pack_norms
from shoal.gossip.averaging.attendance import ask_name
from shoal.gossip.averaging.gather import Gather
from shoal.gossip.averaging.origin import Kind, Origin
from shoal.gossip.averaging.push_sum import TOO_HEAVY
from shoal.gossip.events import Drop, Effects, Notify, ProbeLink, Received, Send, Timer
from shoal.gossip.group import Group
from shoal.gossip.lifecycle import Lifecycle, Phase, Trigger
from shoal.gossip.member.ask_queue import LEFT_OUT, MAX_KEPT, AskQueue
from shoal.gossip.member.commands import Averaged, Contribute, ContributeBody, Failed, Gathered
from shoal.gossip.member.pairwise_rounds import PARTIAL, PairwiseRounds
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import (
    Abandon,
    Alive,
    Announce,
    Applied,
    Cut,
    Digest,
    Done,
    Part,
    Push,
    Record,
    Reduced,
    Settle,
)
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.sequence import Sequence

ME, A, B, C = (PeerId(name) for name in ("me", "a", "b", "c"))
GROUP = Group(b"g" * 16, 4, (ME, A), (1, 0))
"""In which we reduce everything."""
ALONE = Group(b"l" * 16, 5, (ME,), (1,))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),), group_size=3)


class Asks(AskQueue):
    """An ask queue, and what its member does with an answer."""

    def settled(self, effects: Effects, now: float) -> Effects:
        if not self.is_answered:
            return effects
        self._view.lifecycle.enter(Trigger.ASK_ENDED)
        return [*effects, *self.answer(now)]

    def begin(self, group: Group, now: float) -> Effects:
        self._view.lifecycle.enter(Trigger.EXCHANGE_BEGUN)
        return self.settled(super().begin(group, now), now)

    def receive(self, event: Received, now: float) -> Effects:
        return self.settled(super().receive(event, now), now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        return self.settled(super().lost(peer, now), now)

    def timer(self, name: Timer, now: float) -> Effects:
        return self.settled(super().timer(name, now), now)


def exchanges(spec: RunSpec = SPEC) -> Asks:
    view = SwarmView(ME, 12.0)
    view.lifecycle = Lifecycle(ME, Phase.WORKING)
    view.run, view.spec, view.round, view.state = b"run", spec, 5, b"s" * 32
    view.table.connected |= {A, B}
    return Asks(view, 15.0, Dissemination(view, Random(1), Sequence(1), 3.0))


def record(view: SwarmView) -> tuple[Record, float]:
    return Record(ME, 1, view.presence()), 0.0


def contribute(index: int = 0) -> Contribute:
    return Contribute(index, np.full(4, 2.0, np.float32), 1.0, tag="params")


def part(index: int = 0, value: float = 2.4) -> Received:
    data = np.full(4, value, np.float32).tobytes()
    return Received(A, Part(GROUP.id, index, 0, 0, 0), data)


def announce(index: int = 0, value: float = 2.4) -> Received:
    norms = pack_norms([[2 * value, 0.0], [0.0, 0.0]] * 2)
    return Received(A, Announce(GROUP.id, index, 1.0, b"", True, norms, ask_name("all_reduce", "params")))


def done_like_ours(one: AskQueue, index: int = 0) -> Received:
    assert isinstance(one.current, AllReduce)
    return Received(A, Done(GROUP.id, index, one.current._outcome))


def notices(effects: Effects) -> list[Any]:
    return [effect.notice for effect in effects if isinstance(effect, Notify)]


def sent(effects: Effects) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def averaged(one: AskQueue, index: int = 0) -> list[Any]:
    """Go through one ask with A; return what the trainer is told."""
    one.receive(announce(index), 1.1)
    one.receive(part(index), 1.1)
    return notices(one.receive(done_like_ours(one, index), 1.2))


SCOPED = Group(b"h" * 16, 4, (ME, A, B, C), (1, 1, 1, 1))
"""In which the second ask is among us and A."""


def scoped_ask() -> Asks:
    """Return a queue whose first ask is answered, with A gone on to the scope before us."""
    one = exchanges()
    one._view.table.connected |= {C}
    one.ask(ContributeBody(0, b"body"), 0.0)
    one.begin(SCOPED, 1.0)
    return one


def test_what_comes_of_a_scope_before_this_node_asks_in_it_is_kept() -> None:
    one = scoped_ask()
    scope = SCOPED.among((ME, A))
    assert scope.members == (ME, A)
    assert scope.id not in (SCOPED.id, SCOPED.among((B, C)).id)
    effects = one.receive(Received(A, Abandon(scope.id, 1)), 1.1)
    assert not sent(effects)  # nobody is told that the round is over
    assert [event.message for event in one._kept] == [Abandon(scope.id, 1)]
    stranger = one.receive(Received(PeerId("x"), Abandon(scope.id, 1)), 1.1)
    assert not stranger
    assert len(one._kept) == 1


def test_an_ask_in_a_scope_is_of_its_holders_alone_and_the_next_of_all() -> None:
    one = scoped_ask()
    assert one.current is not None
    one.lost(C, 1.1)
    lost = list(one.current.lost_members)
    one._pending = Contribute(1, np.full(4, 2.0, np.float32), 1.0, "delta", among=(ME, A))
    told = one.go_on(1.2)
    assert one.current.group.members == (ME, A)
    assert {effect.peer for effect in told if isinstance(effect, Send)} == {A}
    one._pending = Contribute(2, np.full(4, 2.0, np.float32), 1.0)
    one.go_on(1.3)
    assert one.current.group == SCOPED
    assert one.current.lost_members == lost == [C]


def test_a_scope_of_all_is_the_group_of_the_round() -> None:
    assert SCOPED.among((C, B, A, ME, PeerId("x"))) is SCOPED
    assert SCOPED.among((ME,)).members == (ME,)


def test_the_trainer_is_told_the_mean_once_all_are_done() -> None:
    one = exchanges()
    ask = contribute()
    one.ask(ask, 0.0)
    one.begin(GROUP, 1.0)
    told = averaged(one)
    assert isinstance(told[0], Averaged)
    assert told[0].matchmaking_seconds == 1.0
    assert np.allclose(ask.vector, 2.2)
    assert one._view.phase is Phase.APPLYING


def test_who_is_in_a_mean_with_us_is_no_longer_shut_out_for_what_it_did_before() -> None:
    one = exchanges()
    one._view.admission.ban(A, 0.0)
    one._view.admission.ban(A, 0.0)
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    averaged(one)
    assert one._view.admission.may_group(A, 1.2)
    one._view.admission.ban(A, 2.0)
    assert not one._view.admission.may_group(A, 2.0 + 4 * SHORTEST_MARK - 0.1), (
        "it counts on, if it does it again"
    )


def test_who_was_lost_from_a_mean_is_shut_out_as_long_as_before() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    one._view.admission.ban(A, 1.0)
    assert isinstance(notices(one.lost(A, 1.1))[0], Averaged)
    assert not one._view.admission.may_group(A, 1.2)


def test_a_further_ask_of_the_round_uses_the_group_of_the_last() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    assert not one.can_go_on(0)
    one.begin(GROUP, 1.0)
    averaged(one)
    assert one.can_go_on(1)
    one.ask(contribute(1), 2.0)
    one.go_on(2.0)
    told = averaged(one, 1)
    assert isinstance(told[0], Averaged)
    assert (told[0].index, told[0].matchmaking_seconds) == (1, 0.0)


def test_who_was_lost_in_the_last_ask_is_not_waited_for_in_the_next_though_it_is_linked_again() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    one.lost(A, 1.1)
    one.ask(contribute(1), 2.0)
    assert isinstance(notices(one.go_on(2.0))[0], Averaged)


def test_what_comes_early_for_the_next_ask_is_kept_for_it() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    one.receive(announce(0), 1.1)
    one.receive(part(0), 1.1)
    one.receive(announce(1), 1.15)
    one.receive(part(1), 1.15)  # A is done with the first ask; its word of that was lost.
    assert one.can_go_on(1)
    ask = contribute(1)
    one.ask(ask, 2.0)
    effects = one.go_on(2.0)
    assert any(isinstance(message, Reduced) and message.index == 1 for message in sent(effects))
    assert np.allclose(ask.vector, 2.2)


def test_what_is_kept_is_bounded() -> None:
    one = exchanges()
    for _ in range(MAX_KEPT + 10):
        one.keep(part())
    assert len(one._kept) == MAX_KEPT


def test_who_waits_in_a_group_that_went_on_without_it_is_told_once_a_second() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    one.lost(A, 1.1)
    one.end(finished=True)
    late = Received(A, Alive(GROUP.id, 0))
    assert isinstance(sent(one.receive(late, 3.0))[0], Cut)
    assert not one.receive(late, 3.5)
    assert one.receive(late, 4.0)


def test_who_waits_in_a_group_that_we_left_is_told_that_we_are_gone() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    assert any(isinstance(message, Abandon) for message in sent(one.abandon()))
    one.end()
    assert isinstance(sent(one.receive(Received(A, Alive(GROUP.id, 0)), 3.0))[0], Abandon)


def test_last_words_of_a_round_that_all_finished_need_no_answer() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    averaged(one)
    one.end(finished=True)
    assert not one.receive(Received(A, Alive(GROUP.id, 0)), 3.0)
    assert not one.receive(Received(B, Cut(b"x" * 16, 0, ME)), 3.0)


def test_a_member_without_a_link_is_lost_from_the_start() -> None:
    one = exchanges()
    one._view.table.connected.discard(A)
    one.ask(contribute(), 0.0)
    effects = one.begin(GROUP, 1.0)
    assert isinstance(notices(effects)[0], Averaged)


def test_a_member_that_fell_silent_is_lost_from_the_start_of_the_next_exchange() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    for now in range(2, 18):
        one.timer(Timer.ALL_REDUCE, float(now))
    assert one._view.unresponsive == {A}
    one.end(finished=True)
    one.ask(contribute(), 20.0)
    effects = one.begin(replace(GROUP, id=b"n" * 16), 20.0)
    assert isinstance(notices(effects)[0], Averaged)


def test_too_few_contributors_are_a_failure() -> None:
    one = exchanges(RunSpec(method="m", task="t", tensors=SPEC.tensors, quorum=2))
    one.ask(contribute(), 0.0)
    told = notices(one.begin(ALONE, 1.0))
    assert told == [Failed("TooFew", "1 of at least 2 peers contributed")]


def test_members_that_do_not_count_make_no_quorum() -> None:
    """Where a group is made of peers of somebody's making, all of them contribute."""
    one = exchanges(RunSpec(method="m", task="t", tensors=SPEC.tensors, quorum=2))
    one._view.colleagues.restore([Acquaintance(B, 100, 1e6)])
    one.ask(contribute(), 0.0)
    one.begin(GROUP, 1.0)
    told = [each for each in averaged(one) if isinstance(each, Failed)]
    assert told == [Failed("TooFew", "1 of at least 2 peers that count for the quorum contributed")]


def shown_without_ours(one: Asks, ballot: int) -> Effects:
    """Begin an exchange in which the other owns all; its mean of this ballot lacks our contribution."""
    one.ask(contribute(), 0.0)
    group = replace(GROUP, shares=(0, 1))
    one.begin(group, 1.0)
    norms = pack_norms([[0.0, 4.8], [0.0, 0.0]] * 2)
    ask = ask_name("all_reduce", "params")
    one.receive(Received(A, Announce(group.id, 0, 1.0, b"", True, norms, ask)), 1.05)
    assert isinstance(one.current, AllReduce)
    digest = digest_of(one.current._announced.first([1]))
    mean = Reduced(group.id, 0, 1, 0, ballot, (0b10).to_bytes(8, "big"), digest)
    return one.receive(Received(A, mean, np.full(4, 2.4, np.float32).tobytes()), 1.1)


def test_a_mean_without_our_own_contribution_is_counted() -> None:
    one = exchanges()
    # From a later owner: the first one had our contribution, and is not believed.
    shown_without_ours(one, ballot=2)
    assert isinstance(notices(one.receive(done_like_ours(one), 1.2))[0], Averaged)
    assert one._view.admission.counts[LEFT_OUT] == 1


def test_a_mean_of_the_first_owner_without_our_contribution_is_refused() -> None:
    one = exchanges()
    effects = shown_without_ours(one, ballot=0)
    assert isinstance(one.current, AllReduce)
    assert Drop(A, "mean outside its bound") in effects
    assert one.current.result is not None
    assert one.current.result.contributors == (ME,)


def test_who_is_left_out_is_told_so() -> None:
    one = exchanges()
    group = Group(b"g" * 16, 5, (ME, A, B), (1, 1, 1))
    one.ask(contribute(), 0.0)
    one.begin(group, 1.0)
    assert notices(one.receive(Received(A, Cut(group.id, 0, ME)), 1.1)) == []
    told = notices(one.receive(Received(B, Cut(group.id, 0, ME)), 1.1))
    assert [notice.kind for notice in told] == ["LeftOut"]


def test_who_cuts_this_node_at_once_three_times_in_a_row_is_shut_out_of_its_groups() -> None:
    one = exchanges()
    admission = one._view.admission
    for number in range(3):
        assert admission.may_group(A, 1.0)
        group = Group(bytes([number]) * 16, 5, (ME, A, B), (1, 1, 1))
        one.ask(contribute(), 0.0)
        one.begin(group, 1.0)
        one.receive(Received(A, Cut(group.id, 0, ME)), 1.1)
        one.end()
    assert not admission.may_group(A, 2.0)
    assert admission.may_group(B, 2.0)
    assert admission.counts["cut out too early"] == 3
    assert admission.may_group(A, 2.0 + SHUT_OUT)
    admission.note_unfair_cut(A, 100.0)
    assert not admission.may_group(A, 99.0 + 2 * SHUT_OUT)
    for _ in range(50):
        admission.note_unfair_cut(A, 100.0)
    assert admission.may_group(A, 101.0 + LONGEST_SHUT_OUT)
    admission.note_unfair_cut(A, 5000.0)
    admission.pardon(A, 5001.0)
    assert admission.may_group(A, 5001.0)


def test_a_member_that_most_found_silent_is_not_counted_on() -> None:
    one = exchanges()
    one._view.table.connected |= {B, C}
    group = Group(b"g" * 16, 5, (ME, A, B, C), (1, 1, 1, 1))
    one.ask(contribute(), 0.0)
    one.begin(group, 1.0)
    assert not one.receive(Received(B, Cut(group.id, 0, A)), 1.1)
    assert ProbeLink(A) in one.receive(Received(C, Cut(group.id, 0, A)), 1.2)
    assert one._view.unresponsive == {A}


def test_bodies_are_gathered_in_the_same_way() -> None:
    one = exchanges()
    one.ask(ContributeBody(0, b"body"), 0.0)
    told = notices(one.begin(ALONE, 1.0))
    assert isinstance(one.current, Gather)
    assert isinstance(told[0], Gathered)
    assert told[0].bodies == ((ME, b"body"),)


def test_alone_everything_is_quick_and_nothing_is_learned() -> None:
    one = exchanges()
    for _ in range(5):
        one.ask(contribute(), 0.0)
        one.begin(ALONE, 0.1)
        one.end(finished=True)
    assert one.wait.seconds() == 15.0


def test_feedback_is_kept_by_ask_and_only_for_codecs_that_owe() -> None:
    one = exchanges()
    one.ask(contribute(), 0.0)
    one.begin(ALONE, 0.1)
    assert not one.feedback
    lossy = exchanges(RunSpec(method="m", task="t", tensors=SPEC.tensors, codec="int8"))
    lossy.ask(contribute(), 0.0)
    lossy.begin(ALONE, 0.1)
    assert list(lossy.feedback) == [0]


def test_what_is_as_long_as_the_params_ends_in_buffers_that_travel_as_they_are() -> None:
    spec = RunSpec(method="m", task="t", tensors=SPEC.tensors, codec="int8", buffers=1)
    for numel, exact in ((4, 1), (3, 0)):
        one = exchanges(spec)
        one.ask(Contribute(0, np.full(numel, 2.0, np.float32), 1.0), 0.0)
        one.begin(GROUP, 0.1)
        assert isinstance(one.current, AllReduce)
        assert one.current.config.exact == exact


def test_a_push_that_counts_in_part_is_counted_and_who_pushed_too_much_is_named() -> None:
    view = SwarmView(ME, 12.0)
    view.spec = RunSpec(method="m", task="t", tensors=SPEC.tensors, exchange="pairwise")
    pairwise = PairwiseRounds(view, 15.0, Sequence(0))
    pairwise.attach(0.0)
    assert pairwise.core is not None
    numel = pairwise.core.sums.size
    pairwise.core.mint(np.ones(numel, np.float32), 1.0)
    view.link_up(A)
    pairwise.found(A, 0.0)
    (answer,) = pairwise.handle(A, Settle(1), b"", 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Applied)
    numbers = np.full(numel, 0.1, np.float32)
    pairwise.handle(A, Push(1, answer.message.id + 1, 0, 0.1), numbers.tobytes(), 0.0)
    assert not view.admission.counts
    heavy = (numbers * 1e11).tobytes()
    for number in (2, 3):
        pairwise.handle(A, Push(1, answer.message.id + number, 0, 1e10), heavy, 0.0)
    assert view.admission.counts == {PARTIAL: 2}
    (fault,) = view.admission.named_faults.newest_first()
    assert (fault.peer, fault.reason, fault.count) == (A, TOO_HEAVY, 2)


def test_a_pairwise_run_knows_its_buffers_too() -> None:
    view = SwarmView(ME, 12.0)
    view.run = b"run"
    view.spec = RunSpec(method="m", task="t", tensors=SPEC.tensors, exchange="pairwise", buffers=1)
    pairwise = PairwiseRounds(view, 15.0, Sequence(0))
    pairwise.attach(0.0)
    assert pairwise.core is not None
    assert pairwise.core.config.exact == 1


@pytest.mark.parametrize("theirs", [("all_reduce", "delta"), ("gather", "params")])
def test_unlike_asks_end_the_exchange_at_once_and_the_trainer_is_told_why(theirs: tuple[str, str]) -> None:
    one = exchanges()
    ask = contribute()
    one.ask(ask, 0.0)
    one.begin(GROUP, 1.0)
    name = ask_name(*theirs)
    opening = Announce(GROUP.id, 0, 1.0, b"", True, pack_norms([[0.0] * 2] * 4), name)
    said = opening if theirs[0] == "all_reduce" else Digest(GROUP.id, 0, b"d" * 32, name)
    effects = one.receive(Received(A, said), 1.1)
    assert one.current is not None
    assert one.current.is_over
    (told,) = notices(effects)
    assert (told.kind, told.text.partition(":")[0]) == (
        "Mismatch",
        f"ask 0 of the round is all_reduce 'params' here and something else at {short(A)}",
    )
    assert Abandon(GROUP.id, 0) in sent(effects)
    assert np.array_equal(ask.vector, np.full(4, 2.0, np.float32))


@pytest.mark.parametrize("discount", [1.0, 0.25])
def test_a_discount_is_announced_and_in_a_pairwise_run_it_lessens_the_mass(discount: float) -> None:
    one = exchanges()
    one.ask(Contribute(0, np.full(4, 2.0, np.float32), 8.0, "statistic", discount=discount), 0.0)
    said = [message for message in sent(one.begin(GROUP, 1.0)) if isinstance(message, Announce)]
    assert {(message.weight, message.discount) for message in said} == {(8.0, discount)}

    view = SwarmView(ME, 12.0)
    view.run = b"run"
    view.spec = RunSpec(method="m", task="t", tensors=SPEC.tensors, exchange="pairwise")
    pairwise = PairwiseRounds(view, 15.0, Sequence(0))
    pairwise.attach(0.0)
    given = Contribute(0, np.full(view.spec.params_numel, 2.0, np.float32), 8.0, "params", discount=discount)
    assert pairwise.close(given).weight == 8.0 * discount


CLIPPING = RunSpec(method="m", task="t", tensors=SPEC.tensors, combine="clip", buffers=1)


def clipping() -> Asks:
    """Return asks of a run that clips, after a round alone that moved the state by (1, 1, 1, 2)."""
    one = exchanges(CLIPPING)
    one.attach(CLIPPING)
    round_alone(one, [1, 1, 1, 1], [2, 2, 2, 3])
    return one


def round_alone(one: Asks, state: list[float], given: list[float]) -> None:
    one.note_state(np.array(state, np.float32).data.cast("B"))
    one.ask(Contribute(0, np.array(given, np.float32), 1.0, "params"), 0.0)
    one.begin(ALONE, 0.1)
    one.end(finished=True)
    one._view.lifecycle = Lifecycle(ME, Phase.WORKING)


def next_origin(one: Asks, kind: Kind = "params") -> Origin:
    one.ask(Contribute(0, np.full(4, 9.0, np.float32), 1.0, kind), 0.0)
    one.begin(GROUP, 0.1)
    assert isinstance(one.current, AllReduce)
    return one.current.origin


def moved_on(one: Asks, *, is_fetched: bool = False) -> None:
    one._view.state = b"t" * 32
    one.note_state(np.array([2, 2, 2, 3], np.float32).data.cast("B"), is_fetched=is_fetched)


def test_the_next_round_is_clipped_around_what_the_last_one_changed() -> None:
    one = clipping()
    moved_on(one)
    origin = next_origin(one)
    assert origin.last is not None
    assert origin.last[:].tolist() == [1, 1, 1, 2]
    assert len(origin.last_name) == 16


def test_of_a_delta_the_change_is_the_mean_itself_and_of_its_buffers_what_they_moved() -> None:
    one = exchanges(CLIPPING)
    one.note_state(np.array([1, 1, 1, 1], np.float32).data.cast("B"))
    one.ask(Contribute(0, np.array([2, 2, 2, 3], np.float32), 1.0, "delta"), 0.0)
    one.begin(ALONE, 0.1)
    one.end(finished=True)
    one._view.lifecycle = Lifecycle(ME, Phase.WORKING)
    moved_on(one)
    origin = next_origin(one, "delta")
    assert origin.last is not None
    assert origin.last[:].tolist() == [2, 2, 2, 2]


def test_a_change_that_did_not_lead_to_this_state_is_none() -> None:
    # The round failed after its mean: the state is what it was.
    assert next_origin(clipping()).last is None
    fetched = clipping()
    moved_on(fetched, is_fetched=True)
    assert next_origin(fetched).last is None
    restarted = clipping()
    moved_on(restarted)
    restarted.attach(CLIPPING)
    assert next_origin(restarted).last is None


def test_only_runs_that_clip_remember_changes_and_a_statistic_is_never_clipped() -> None:
    plain = exchanges(RunSpec(method="m", task="t", tensors=SPEC.tensors, combine="median"))
    round_alone(plain, [1, 1, 1, 1], [2, 2, 2, 3])
    moved_on(plain)
    assert next_origin(plain).last is None
    one = clipping()
    moved_on(one)
    one.ask(Contribute(0, np.full(4, 9.0, np.float32), 1.0, "statistic"), 0.0)
    one.begin(GROUP, 0.1)
    assert isinstance(one.current, AllReduce)
    assert one.current.config.combine == "mean"
