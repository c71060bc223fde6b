"""Planted bugs: small changes of the shipped code, each of which the simulator must find.

A check that has never caught anything may be a check of nothing. Each `Mutation` takes one rule out of the
protocol; tests/sim/test_mutations.py runs seeds until the simulator objects, and counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from sim.checks import ALIKE, COUNTED, CROWDED, IN_TURN, SCOPED
from sim.node import Around
from sim.parts import AGREE, HOME, PINNED
from sim.progress import MOVING, PUSH_MOVES, PUSH_TRICKLES, PUSH_WASTED, TRICKLE, WASTED
from sim.rosters import SAME as ROSTER
from sim.rosters import UNSIGNED, WIDER
from sim.runs import CLASSES, EVERYTHING
from sim.split import ASKED, MEAN, ONCE, PASS, TAKEN
from sim.split_bugs import (
    answers_all_alike,
    answers_without_a_step,
    counts_the_gone,
    divides_by_clients,
    takes_steps_twice,
)

import shoal.gossip.admission.grants
import shoal.gossip.averaging.gather
import shoal.gossip.member.ask_queue
import shoal.gossip.membership.dial_plan
from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import Founders
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.errors import BadEdict
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announced import Announced
from shoal.gossip.averaging.attendance import Attendance
from shoal.gossip.averaging.bounds import Terms, clipped_terms
from shoal.gossip.averaging.chunks import Chunks
from shoal.gossip.averaging.gather import Gather
from shoal.gossip.averaging.ledger import Ledger, Verdict
from shoal.gossip.averaging.origin import weighted_sum
from shoal.gossip.averaging.push_sum import PushSum, Stage
from shoal.gossip.deadlines import Deadline, Progress
from shoal.gossip.events import Effects, Send
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.accepted import Accepted
from shoal.gossip.matchmaking.matchmaking import Matchmaking
from shoal.gossip.member.ask_queue import AskQueue
from shoal.gossip.member.base_sync import BaseSync
from shoal.gossip.member.group_search import GroupSearch
from shoal.gossip.member.member import Member
from shoal.gossip.membership.dial_plan import DialPlan
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.lineages import Voters, swarm_state
from shoal.gossip.membership.nearby import Nearby
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.membership.tellers import Tellers
from shoal.gossip.messages import Offer, Part, Presence, Records
from shoal.gossip.state.base_blocks import BaseBlocks
from shoal.gossip.state.serve import Serving
from shoal.gossip.state.tree_hash import StateTree, leaves
from shoal.node.daemon.rounds import Rounds


@dataclass(frozen=True)
class Mutation:
    """A bug, and which invariants may object to it."""

    bug: str
    caught_by: tuple[str, ...]
    plant: Callable[[pytest.MonkeyPatch], None]
    kinds: tuple[str, ...] = EVERYTHING
    """The faults among which it is looked for."""

    def __str__(self) -> str:
        """Print as the bug."""
        return self.bug


SURVIVORS: Final = "survivors of an exchange hold the same bytes"
EXACT: Final = "a mean is the exact weighted mean of its contributors"
WEIGHTS: Final = "no weight is above twice the median"
BOUND: Final = "a mean outside its bound is never applied"
INVENTED: Final = "nothing is invented"
ONE_SWARM: Final = "the swarm is one again within a bounded time"
CAUSELESS: Final = "nobody is lost without a cause"
STARVED: Final = "nobody is starved"
LOST: Final = "nothing acknowledged is lost"
COMPANY: Final = "nothing is made alone by who had company"
FORBIDDEN: Final = "nobody dials what it may not"
TWICE: Final = "a group is formed once"
MASS_TWICE: Final = "no mass is counted twice"
MASS_LOST: Final = "no mass is lost while all live"
LINKS: Final = ("split", "oneway", "break", "slow", "lossy")
COLLEAGUES: Final = "no number of identities moves an honest node from its colleagues"
FETCHED: Final = "a fetched state is the state that was asked for"


def _compares_no_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attendance, "_is_other_ask", lambda self, message: False)


def _asks_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Group, "among", lambda self, peers: self)


def _knows_no_scopes_to_come(patch: pytest.MonkeyPatch) -> None:
    honest = AskQueue._is_of_round

    def is_of_round(self: AskQueue, peer: PeerId, message: Any) -> bool:
        is_known = self._group is not None and message.group in (self._group.id, *self._asked_in)
        return is_known and honest(self, peer, message)

    patch.setattr(AskQueue, "_is_of_round", is_of_round)


def _counts_twice(patch: pytest.MonkeyPatch) -> None:
    def twice(vectors: list[Any], shares: list[float], out: Any) -> None:
        weighted_sum([*vectors, vectors[0]], [*shares, shares[0]], out)
        np.multiply(out, np.float32(1 / (1 + shares[0])), out=out)

    patch.setattr("shoal.gossip.averaging.chunks.weighted_sum", twice)


def _trims_only_the_largest(patch: pytest.MonkeyPatch) -> None:
    def one_sided(vectors: list[Any], factors: list[float], origin: Any, trim: int, out: Any) -> None:
        smallest = np.sort(np.array(vectors), axis=0)[: len(vectors) - 2 * trim]
        np.copyto(out, smallest.mean(axis=0))

    patch.setattr("shoal.gossip.averaging.chunks.trimmed_mean", one_sided)


def _clips_around_nothing(patch: pytest.MonkeyPatch) -> None:
    honest = clipped_terms

    def around_nothing(*arguments: Any) -> Terms:
        return replace(honest(*arguments), last=0.0)

    patch.setattr("shoal.gossip.averaging.bounds.clipped_terms", around_nothing)


def _forgets_weights(patch: pytest.MonkeyPatch) -> None:
    honest = Announced._claims

    def claims(self: Announced, *arguments: Any) -> Any:
        return [replace(each, weight=1.0) for each in honest(self, *arguments)]

    patch.setattr(Announced, "_claims", claims)


def _forgets_discounts(patch: pytest.MonkeyPatch) -> None:
    honest = Announced._claims

    def claims(self: Announced, *arguments: Any) -> Any:
        return [replace(each, discount=1.0) for each in honest(self, *arguments)]

    patch.setattr(Announced, "_claims", claims)


def _caps_no_weight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shoal.gossip.averaging.bounds.WEIGHT_CAP", 1e30)


def _takes_any_mean(patch: pytest.MonkeyPatch) -> None:
    honest = Ledger.judge

    def judge(self: Ledger, *arguments: Any) -> Verdict:
        verdict = honest(self, *arguments)
        return Verdict.FINE if verdict is Verdict.OUTSIDE else verdict

    patch.setattr(Ledger, "judge", judge)


def _believes_norms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "is_given", lambda *_: True)
    _takes_any_mean(patch)


def _claims_everybody(patch: pytest.MonkeyPatch) -> None:
    honest = AllReduce._note_mean

    def note(
        self: AllReduce, part: int, chunk: int, ballot: int, mask: int, by: bytes, now: float
    ) -> Effects:
        return honest(self, part, chunk, ballot, (1 << len(self._members)) - 1, by, now)

    patch.setattr(AllReduce, "_note_mean", note)


def _answers_with_parts(patch: pytest.MonkeyPatch) -> None:
    def contribute(self: AllReduce, part: int) -> Effects:
        ballot = self._ballot[part]
        owner = self._members[self._owner(part, ballot)]
        return [
            Send(
                owner,
                Part(self.group.id, self.index, part, chunk, ballot),
                self._chunks.view(part, chunk).data.cast("B"),
            )
            for chunk in range(len(self._masks[part]))
        ]

    patch.setattr(AllReduce, "_contribute", contribute)


def _leaves_early(patch: pytest.MonkeyPatch) -> None:
    honest = AllReduce._finish_if_all_done

    def finish(self: AllReduce) -> Effects:
        for member in self._alive - {self._mine}:
            self._done.setdefault(member, self._outcome)
        return honest(self)

    patch.setattr(AllReduce, "_finish_if_all_done", finish)


def _reuses_nonces(patch: pytest.MonkeyPatch) -> None:
    class Whatever(Accepted):
        def has(self, commit: Any) -> bool:
            return True

    honest: Any = Matchmaking.__init__

    def init(self: Matchmaking, *arguments: Any) -> None:
        honest(self, *arguments[:5], 0, *arguments[6:])
        self._accepted = Whatever(self.round, self.base)
        self._past = ()

    patch.setattr(Matchmaking, "__init__", init)


def _ignores_the_quorum(patch: pytest.MonkeyPatch) -> None:
    honest = Member._attach

    def attach(self: Member, event: Any, now: float) -> Effects:
        return honest(self, replace(event, spec=msgspec.structs.replace(event.spec, quorum=1)), now)

    patch.setattr(Member, "_attach", attach)


def _goes_on_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SwarmView, "least", property(lambda self: self.spec.quorum))


def _lets_newcomers_lead(patch: pytest.MonkeyPatch) -> None:
    def state(peers: Any, me: Any, ours: Presence, linked: Any, *voters: Any, **more: Any) -> Any:
        made = [
            (peer, msgspec.structs.replace(presence, has_finished_round=True)) for peer, presence in peers
        ]
        ours = msgspec.structs.replace(ours, has_finished_round=True)
        return swarm_state(made, me, ours, linked, *voters, **more)

    patch.setattr("shoal.gossip.membership.swarm_view.swarm_state", state)


def _counts_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shoal.gossip.membership.swarm_view.voters_of", lambda colleagues, peers: Voters())


def _carries_no_age(patch: pytest.MonkeyPatch) -> None:
    honest = Dissemination.sample

    def sample(self: Dissemination, now: float, count: int, *, reply: bool) -> Records:
        records = tuple((record, 0.0) for record, _ in honest(self, now, count, reply=reply).records)
        return Records(records, reply)

    patch.setattr(Dissemination, "sample", sample)
    patch.setattr(PresenceTable, "forget", lambda self, peer, now: None)
    patch.setattr(PresenceTable, "_is_of_the_dead", lambda self, record, now: False)


def _hands_nothing_on(patch: pytest.MonkeyPatch) -> None:
    def sample(self: Dissemination, now: float, count: int, *, reply: bool) -> Records:
        return Records(((self.record(), 0.0),), reply)

    patch.setattr(Dissemination, "sample", sample)
    patch.setattr(Dissemination, "introduce", lambda self, record, age: [])


def _never_redials(patch: pytest.MonkeyPatch) -> None:
    honest = DialPlan.lost

    def lost(self: DialPlan, peer: Any, now: float) -> Effects:
        effects = honest(self, peer, now)
        for target in self.targets.values():
            if target.peer == peer:
                target.due = float("inf")
        return effects

    patch.setattr(DialPlan, "lost", lost)


class Whatever:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        """Say so."""
        return True

    __hash__ = None  # type: ignore[assignment]


def _believes_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StateTree, "leaf", lambda self, data: Whatever())


def _believes_blocks(patch: pytest.MonkeyPatch) -> None:
    honest = BaseSync.begin

    def begin(self: BaseSync, base: BaseBlocks, now: float) -> Effects:
        return honest(self, replace(base, have=base.have | {0}), now)

    patch.setattr(BaseSync, "begin", begin)


def _names_states_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shoal.node.daemon.rounds.leaves", lambda data: leaves(memoryview(bytes(data.nbytes))))


def _hands_over_all_memory(patch: pytest.MonkeyPatch) -> None:
    honest = Rounds._ask

    def ask(self: Rounds, message: Any) -> None:
        assert self._segment is not None
        honest(self, msgspec.structs.replace(message, numel=self._segment.exchange.size))

    patch.setattr(Rounds, "_ask", ask)


def _offers_another_state(patch: pytest.MonkeyPatch) -> None:
    def want(self: Serving, peer: Any, message: Any, now: float) -> Effects:
        held = self._held[0]
        offer = Offer(message.state, held.previous, held.round, held.data.nbytes)
        return [Send(peer, offer, leaves(held.data))]

    patch.setattr(Serving, "want", want)


def _drops_what_comes_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AskQueue, "keep", lambda self, event: None)


def _forgives_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AllReduce, "_forgive", lambda self, seconds: None)


def _takes_chunks_of_any_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Chunks, "fits", lambda *_: True)


def _remembers_all_addresses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shoal.gossip.membership.dial_plan, "MAX_ADDRESSES", 1 << 30)
    patch.setattr(Tellers, "charge", lambda *_, **__: True)


def _dials_what_it_hears(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shoal.gossip.membership.dial_plan, "may_dial", lambda address, teller, here: True)


def _charges_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tellers, "charge", lambda *_, **__: True)
    patch.setattr(shoal.gossip.membership.dial_plan, "NEW_AT_ONCE", 1 << 20)
    patch.setattr(shoal.gossip.membership.dial_plan, "AT_ONCE", 64)


def _answers_every_record(patch: pytest.MonkeyPatch) -> None:
    honest = Member._records

    def records(self: Member, peer: Any, message: Records, now: float) -> Effects:
        return honest(self, peer, Records(message.records, reply=True), now)

    patch.setattr(Member, "_records", records)


def _waits_for_nobody_slow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GroupSearch, "_hurry", lambda self, ready, until, now: [])
    patch.setattr(Deadline, "miss", lambda self: None)


def _forgets_its_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Around, "load", lambda *_, **__: None)


def _skips_rounds(patch: pytest.MonkeyPatch) -> None:
    honest = Member._new_state

    def new_state(self: Member, event: Any, now: float) -> Effects:
        return honest(self, replace(event, round=event.round + (event.round == 3)), now)

    patch.setattr(Member, "_new_state", new_state)


def _agrees_with_itself(patch: pytest.MonkeyPatch) -> None:
    honest = Gather._after_inner

    def after(self: Gather, effects: Effects, now: float) -> Effects:
        # Each believes that its neighbour was lost.
        lost = (self._number[self._me] + 1) % len(self._members) if len(self._members) > 2 else -1
        held = {member: self._digests[member] for member in self._held if member != lost}
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(shoal.gossip.averaging.gather, "decode_holding", lambda mean: held)
            return honest(self, effects, now)

    def finish(self: Gather) -> Effects:
        self._done = dict.fromkeys(self._done, self._outcome)
        return agree(self)

    agree = Gather._finish_if_all_done
    patch.setattr(Gather, "_after_inner", after)
    patch.setattr(Gather, "_finish_if_all_done", finish)


def _reveals_what_it_likes(patch: pytest.MonkeyPatch) -> None:
    honest = Gather._finish_if_all_done

    def finish(self: Gather) -> Effects:
        effects = honest(self)
        self.bodies = tuple((peer, body[::-1] + b"!") for peer, body in self.bodies)
        return effects

    patch.setattr(Gather, "_finish_if_all_done", finish)


def _follows_no_majority(patch: pytest.MonkeyPatch) -> None:
    honest = SwarmView._is_behind

    def is_behind(self: SwarmView, target: Any, now: float) -> bool:
        return bool(target.includes_us and honest(self, target, now))

    patch.setattr(SwarmView, "_is_behind", is_behind)


def _keeps_two_outcomes(patch: pytest.MonkeyPatch) -> None:
    honest = SwarmView._is_behind

    def is_behind(self: SwarmView, target: Any, now: float) -> bool:
        return bool(target.round != self.round and honest(self, target, now))

    patch.setattr(SwarmView, "_is_behind", is_behind)


def _writes_into_what_it_sent(patch: pytest.MonkeyPatch) -> None:
    honest = AllReduce.begin

    def begin(self: AllReduce, now: float) -> Effects:
        effects = honest(self, now)
        for step in range(len(self._members)):
            for chunk in range(self._chunks.count(step)):
                view = self._chunks.view(step, chunk)
                np.add(view, np.float32(0.5), out=view)
        return effects

    patch.setattr(AllReduce, "begin", begin)


def _takes_any_push(patch: pytest.MonkeyPatch) -> None:
    honest = PushSum._handle_push

    def handle(self: PushSum, peer: Any, message: Any, data: Any, now: float) -> Effects:
        self._applied[peer] = (message.epoch, message.id - 1)
        return honest(self, peer, message, data, now)

    patch.setattr(PushSum, "_handle_push", handle)


def _takes_nothing_back(patch: pytest.MonkeyPatch) -> None:
    honest = PushSum._handle_applied

    def handle(self: PushSum, peer: Any, message: Any, now: float) -> Effects:
        given = self._given.get(peer)
        if given is not None and given.stage is Stage.ASKING:
            given.sent = {}
        return honest(self, peer, message, now)

    patch.setattr(PushSum, "_handle_applied", handle)


def _lets_anybody_convene(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Matchmaking, "_is_turn_of", lambda self, peer, members: True)


def _misses_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shoal.gossip.member.ask_queue, "is_in_all", lambda me, group, outcome: True)


def _lets_arrival_win_ties(patch: pytest.MonkeyPatch) -> None:
    def rank(self: Edict, generation: int, id_: bytes) -> tuple[int, int, bool, bytes]:
        return generation, self.epoch, False, b""

    patch.setattr(Edict, "rank", rank)


def _counts_signatures(patch: pytest.MonkeyPatch) -> None:
    def check(self: Edict, founders: Founders) -> None:
        if len(self.signatures) < founders.threshold:
            raise BadEdict("too few")

    patch.setattr(Edict, "check", check)


def _compares_no_depth(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shoal.gossip.admission.grants, "_check_against_parent", lambda grant, parent: None)


def _keeps_no_uses_in_the_hash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Roster, "buckets", lambda self: bytes(128))


def _lets_one_founder_change_the_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rotation, "check", lambda self, founders: None)


def _counts_no_prefix(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Nearby, "prefix_of", lambda self, peer: "")


def _earns_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Progress, "moved", lambda self, n_bytes, now: None)


def _renews_all_patience(patch: pytest.MonkeyPatch) -> None:
    def moved(self: Progress, n_bytes: int, now: float) -> None:
        self.due = now + self._patience

    patch.setattr(Progress, "moved", moved)


def _sends_to_the_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AllReduce, "_stop_sending", lambda self, member: None)
    patch.setattr(AllReduce, "_take_back", lambda self: None)


def _hears_of_no_push(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PushSum, "_handle_coming", lambda self, peer, message, now: [])


def _believes_any_word_of_a_push(patch: pytest.MonkeyPatch) -> None:
    def handle(self: PushSum, peer: Any, message: Any, now: float) -> Effects:
        given = self._given.get(peer)
        if given is not None and given.stage is Stage.PUSHING:
            given.due = now + self.wait
        return self._set_timer()

    patch.setattr(PushSum, "_handle_coming", handle)


def _sends_void_pushes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shoal.gossip.averaging.push_sum._Given.take_back", lambda self: None)


MUTATIONS: Final = (
    Mutation("a body takes each step twice", (ONCE,), takes_steps_twice),
    Mutation("a step is divided by its clients", (MEAN,), divides_by_clients, CLASSES),
    Mutation("who is gone counts in a step's mean", (MEAN,), counts_the_gone, CLASSES),
    Mutation("a host answers without a step", (TAKEN,), answers_without_a_step, CLASSES),
    Mutation("all are answered with the first one's outputs", (ASKED, PASS), answers_all_alike, CLASSES),
    Mutation("a push that moves earns no time", (PUSH_MOVES,), _hears_of_no_push, ("slow",)),
    Mutation(
        "any word of a push renews all patience", (PUSH_TRICKLES,), _believes_any_word_of_a_push, ("slow",)
    ),
    Mutation("a push that is void is sent on", (PUSH_WASTED,), _sends_void_pushes, ("slow",)),
    Mutation("bulk that moves earns no time", (MOVING,), _earns_nothing, ("slow",)),
    Mutation("any byte renews all patience", (TRICKLE,), _renews_all_patience, ("slow",)),
    Mutation("who is given up is sent the rest", (WASTED,), _sends_to_the_lost, ("slow",)),
    Mutation("the edict that was heard first wins a tie", (ROSTER,), _lets_arrival_win_ties),
    Mutation("signatures are counted, not signers", (UNSIGNED,), _counts_signatures),
    Mutation("one founder changes the key", (UNSIGNED,), _lets_one_founder_change_the_key),
    Mutation("a grant may be wider than its parent", (WIDER,), _compares_no_depth),
    Mutation("rosters are never compared", (ONE_SWARM,), _keeps_no_uses_in_the_hash),
    Mutation("unlike asks are answered together", (ALIKE,), _compares_no_asks, ("unlike",)),
    Mutation("a scope is averaged among all", (SCOPED,), _asks_everybody),
    Mutation("what overtook the scope that it is of is dropped", (CAUSELESS,), _knows_no_scopes_to_come),
    Mutation("a sum counts a member twice", (EXACT,), _counts_twice),
    Mutation("only the largest are left out of a median", (EXACT,), _trims_only_the_largest),
    Mutation("what clipping takes away is lost", (EXACT,), _clips_around_nothing),
    Mutation("weights are forgotten", (EXACT,), _forgets_weights),
    Mutation("discounts are forgotten", (EXACT,), _forgets_discounts),
    Mutation("no weight is capped", (WEIGHTS,), _caps_no_weight, ("lie",)),
    Mutation("any mean is taken", (BOUND,), _takes_any_mean, ("lie",)),
    Mutation("any norm is believed", (BOUND,), _believes_norms, ("lie",)),
    Mutation("every mean claims all members", (EXACT, INVENTED), _claims_everybody),
    Mutation("contributions are overwritten before they are sent", (EXACT,), _writes_into_what_it_sent),
    Mutation(
        "a claim is answered with a part where a mean is held",
        (EXACT, SURVIVORS),
        _answers_with_parts,
        ("slow",),
    ),
    Mutation("a member leaves before the others are done", (SURVIVORS, ONE_SWARM), _leaves_early),
    Mutation("a group of an earlier search is joined again", (TWICE,), _reuses_nonces, ("lie",)),
    Mutation("anybody convenes at any time", (IN_TURN,), _lets_anybody_convene),
    Mutation("newcomers of one prefix get all seats", (CROWDED,), _counts_no_prefix),
    Mutation("nobody looks whether it is in the mean", (COUNTED,), _misses_nothing),
    Mutation("the quorum is ignored", ("a mean has its quorum",), _ignores_the_quorum),
    Mutation("who lost its company goes on alone", (COMPANY,), _goes_on_alone, ("crash", "split", "outage")),
    Mutation(
        "who comes back counts as much as who went on",
        (LOST,),
        _lets_newcomers_lead,
        ("crash", "outage", "trainer"),
    ),
    Mutation("everybody counts, colleague or not", (COLLEAGUES,), _counts_everybody, ("lie",)),
    Mutation("records are handed on without their age", ("the dead are forgotten",), _carries_no_age),
    Mutation("records are not handed on", (ONE_SWARM,), _hands_nothing_on),
    Mutation("a lost peer is never dialled again", (ONE_SWARM,), _never_redials),
    Mutation("the chunks of a state are not verified", (FETCHED,), _believes_chunks, ("lie",)),
    Mutation("a block of a base is believed unseen", (PINNED, AGREE), _believes_blocks),
    Mutation("a state is named without a look at it", (AGREE,), _names_states_unseen),
    Mutation("all shared memory is handed over", (HOME,), _hands_over_all_memory),
    Mutation(
        "a donor offers whatever it holds", ("no honest peer is dropped",), _offers_another_state, CLASSES
    ),
    Mutation("what overtook its commit is dropped", (CAUSELESS, STARVED), _drops_what_comes_early, ()),
    Mutation("our own sleep counts as others' silence", (CAUSELESS,), _forgives_nobody, ("jump",)),
    Mutation("chunks of any size are taken", ("handle never raises",), _takes_chunks_of_any_size, ("lie",)),
    Mutation("all addresses are remembered", ("memory is bounded",), _remembers_all_addresses, ("lie",)),
    Mutation("private addresses are dialled on any word", (FORBIDDEN,), _dials_what_it_hears, ("lie",)),
    Mutation("untried addresses are charged to nobody", (FORBIDDEN,), _charges_nobody, ("lie",)),
    Mutation("every record is answered", ("messages are bounded",), _answers_every_record),
    Mutation(
        "nobody hurries, and who was missed is missed again", (STARVED,), _waits_for_nobody_slow, ("tired",)
    ),
    Mutation(
        "a restarted node forgets its disk", ("a restarted node goes on from its disk",), _forgets_its_disk
    ),
    Mutation("a round is skipped", ("states follow each other",), _skips_rounds),
    Mutation("every member gathers its own set", (SURVIVORS,), _agrees_with_itself),
    Mutation("bodies are changed after the commitment", (INVENTED,), _reveals_what_it_likes),
    Mutation("a lineage never follows another", (ONE_SWARM,), _follows_no_majority),
    Mutation("a push counts whenever it comes", (MASS_TWICE,), _takes_any_push),
    Mutation("what was not applied is not taken back", (MASS_LOST,), _takes_nothing_back, LINKS),
    Mutation("two outcomes of one round live side by side", (ONE_SWARM, STARVED), _keeps_two_outcomes),
)
