"""Whom a member goes by: what it remembers, what it refuses, and when it says that nobody anchors it."""

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Notify, PeerFound, Received
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member import commands
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.gossip.membership.foreign_lineages import NOT_FOLLOWED, REMEMBERED
from shoal.gossip.membership.lineages import Basis
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.movement import GAVE_NOT_FINITE

ME, A, B, C = (PeerId(name) for name in ("me", "a", "b", "c"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),))
RUN = bytes(32)
OURS, THEIRS = b"\1" * 32, b"\2" * 32
DATA = np.zeros(4, np.float32).data


class Node:
    """A member that has finished its eighth round, linked with A, B and C."""

    def __init__(self, *colleagues: PeerId, **attach: Any) -> None:
        self.member = Member(ME, MemberConfig(), Random(1), 1)
        self.now, self.sequence = 0.0, 0
        known = tuple(Acquaintance(peer, 20, 600.0, 8) for peer in colleagues)
        self.tell(commands.Attach(RUN, SPEC, True, True, known, **attach))
        self.tell(commands.NewState(7, b"\7" * 32, b"", DATA))
        self.tell(commands.NewState(8, OURS, b"\7" * 32, DATA))
        for peer in (A, B, C):
            self.tell(PeerFound(peer))

    def tell(self, event: Any) -> Effects:
        self.now += 0.1
        return self.member.handle(event, self.now)

    def hear(self, peer: PeerId, round_: int, state: bytes, **changes: Any) -> list[Any]:
        """Return the notices after a record of a peer."""
        self.sequence += 1
        said = Presence(RUN, "run", round_, state, b"", "working", 12.0, (), has_finished_round=True)
        record = Record(peer, self.sequence, msgspec.structs.replace(said, **changes))
        effects = self.tell(Received(peer, Records(((record, 0.0),))))
        return [effect.notice for effect in effects if isinstance(effect, Notify)]


def test_colleagues_of_before_are_gone_by_and_strangers_are_not() -> None:
    node = Node(A, B)
    assert node.hear(C, 90, b"\3" * 32) == []
    assert node.hear(B, 8, OURS) == []
    assert node.hear(A, 9, THEIRS) == []
    assert node.hear(B, 9, THEIRS) == [commands.Behind(9)]
    assert not node.member.view.follows_the_most(node.now)


def test_a_round_makes_acquaintances_and_what_is_known_is_told() -> None:
    node = Node()
    effects = node.tell(commands.NewState(9, THEIRS, OURS, DATA, contributors=(ME, A)))
    told = [effect.notice for effect in effects if isinstance(effect, Notify)]
    assert commands.Acquainted((Acquaintance(A, 1, 0.0, 9),), False) in told
    effects = node.tell(commands.NewState(10, b"\3" * 32, THEIRS, DATA, contributors=(ME,)))
    assert not [e for e in effects if isinstance(e, Notify) and isinstance(e.notice, commands.Acquainted)]


def test_a_state_that_the_node_refused_is_not_fetched_again_and_its_holders_are_not_believed() -> None:
    node = Node(A)
    assert node.hear(A, 12, THEIRS) == [commands.Behind(12)]
    node.tell(commands.RefuseState(THEIRS))
    assert node.member.phase is Phase.WORKING
    assert node.hear(A, 13, THEIRS) == []
    assert node.hear(A, 14, b"\3" * 32) == []
    node.now += 3.0
    assert node.hear(A, 15, b"\4" * 32) == [commands.Behind(15)]


@pytest.mark.parametrize(("fault", "named"), [(GAVE_NOT_FINITE, [(A, GAVE_NOT_FINITE)]), ("", [])])
def test_who_gave_a_state_that_was_refused_is_named_with_what_was_wrong_with_it(
    fault: str, named: list[tuple[PeerId, str]]
) -> None:
    node = Node(A)
    node.hear(A, 12, THEIRS)
    node.member.state_sync._served = (A,)
    node.tell(commands.RefuseState(THEIRS, fault))
    found = node.member.admission.named_faults.newest_first()
    assert [(each.peer, each.reason) for each in found] == named


def claims(node: Node) -> list[tuple[int, bytes, int, tuple[PeerId, ...]]]:
    """Return what the node does not follow, after another beat."""
    node.member.foreign_lineages.beat(node.now)
    found = node.member.foreign_lineages.found(node.now)
    return [(each.round, each.state, each.n_peers, each.peers) for each in found]


def crowd(node: Node, round_: int) -> list[PeerId]:
    """Let a linked peer and ten that nobody is linked with claim a state."""
    made_up = [PeerId(f"made up {number:02}") for number in range(20)]
    for peer in (C, *made_up):
        node.hear(peer, round_, THEIRS)
    return made_up


def test_a_lineage_that_colleagues_do_not_hold_is_told_and_the_linked_ones_of_it_are_named() -> None:
    node = Node(A, B)
    node.hear(A, 8, OURS)
    node.hear(B, 9, b"\3" * 32, previous=OURS)
    made_up = crowd(node, 12)  # so many that there might be several groups
    assert claims(node) == [(12, THEIRS, 21, (C, *made_up[:7]))]
    (fault,) = node.member.admission.named_faults.newest_first()
    assert (fault.peer, fault.reason) == (C, NOT_FOLLOWED)
    node.now += REMEMBERED + 0.1
    assert not node.member.foreign_lineages.found(node.now), "it is told for a while"
    assert node.member.phase is not Phase.SYNCING


def test_what_one_round_explains_is_foreign_at_the_second_beat() -> None:
    node = Node(A, B)
    node.hear(A, 8, OURS)
    node.hear(C, 9, THEIRS)
    assert claims(node) == []
    assert [each[2] for each in claims(node)] == [1]


def test_a_claim_that_the_rounds_of_others_have_passed_by_the_next_beat_is_seen_when_it_comes() -> None:
    node = Node(A, B)
    node.hear(A, 8, OURS)
    node.now += 1.0
    node.hear(C, 12, THEIRS)
    node.hear(A, 14, b"\4" * 32, previous=OURS)
    assert [each.peers for each in node.member.foreign_lineages.found(node.now)] == [(C,)]


def test_what_a_colleague_holds_or_comes_from_our_own_state_is_not_foreign() -> None:
    node = Node(A, B)
    node.hear(A, 12, THEIRS, previous=OURS)
    crowd(node, 12)
    assert claims(node) == []
    alone = Node()
    crowd(alone, 12)
    assert claims(alone) == [], "who has nobody to go by follows the most"
    far = Node(PeerId("nobody that is linked"))
    crowd(far, 12)
    assert claims(far) == [], "nobody who is linked tells where the others are"


def test_trust_that_is_reset_forgets_colleagues_and_what_was_refused() -> None:
    node = Node(A, B)
    node.hear(A, 12, THEIRS)
    node.hear(B, 12, THEIRS)
    node.tell(commands.RefuseState(THEIRS))
    effects = node.tell(commands.ResetTrust())
    assert Notify(commands.Behind(12)) in effects
    assert node.member.view.colleagues.colleagues() == frozenset()


def test_who_knows_nobody_follows_the_most_and_says_so_in_its_record_until_it_has_colleagues() -> None:
    node = Node()
    assert not node.member.view.follows_the_most(node.now)  # nobody is there
    assert node.hear(A, 12, THEIRS) == [commands.Behind(12)]
    assert node.member.view.follows_the_most(node.now)
    assert node.member.view.voters(node.now).basis is Basis.MOST
    node.tell(commands.NewState(12, THEIRS, b"", DATA))
    assert node.member.view.presence().is_unanchored
    for round_ in range(20):
        node.now += 60.0
        state = bytes([round_ + 10]) * 32
        node.tell(commands.NewState(13 + round_, state, THEIRS, DATA, contributors=(ME, A, B)))
    assert not node.member.view.presence().is_unanchored


def test_a_state_from_the_most_stays_so_over_a_restart() -> None:
    assert Node(is_unanchored=True).member.view.presence().is_unanchored
    assert not Node(A).member.view.presence().is_unanchored


def test_rounds_apart_count_from_the_last_round_with_those_that_are_followed() -> None:
    node = Node(A, B)
    node.member.view.round = 30
    for peer in (A, B):
        node.hear(peer, 40, THEIRS)
    assert node.member.phase is Phase.SYNCING
    # The last round together was the eighth: both went on for themselves since.
    assert node.member.view.rounds_apart(40) == 32
    beside = Node(A, B)
    for peer in (A, B):
        beside.hear(peer, 9, THEIRS, previous=OURS)
    assert beside.member.view.rounds_apart(9) == 1
