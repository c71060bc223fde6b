"""Quorum: whose contributions count for it."""

import random

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.group import Bodies, Exchanged, Group
from shoal.gossip.member.commands import Attach, NewState
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.member.quorum import counting, fewest_of, is_in_all, is_meaningful
from shoal.gossip.membership.colleagues import LEAST_ROUNDS, LEAST_SECONDS, Acquaintance
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id

ME, A, B, GHOST = (PeerId(name) for name in ("me", "a", "b", "ghost"))
GROUP = Group(b"g" * 16, 0, (ME, A, B, GHOST), (1, 1, 1, 1))
MEMBERS = frozenset(GROUP.members)


def view(*known: Acquaintance, quorum: int = 3) -> SwarmView:
    spec = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),), quorum=quorum)
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.handle(Attach(run_id(spec), spec, True, known=known), 0.0)
    member.handle(NewState(5, b"s" * 32, b"p" * 32, memoryview(b"")), 0.0)
    return member.view


def colleague(peer: PeerId, share: float = 1.0) -> Acquaintance:
    return Acquaintance(peer, int(share * LEAST_ROUNDS), share * LEAST_SECONDS)


def test_a_node_without_colleagues_counts_linked_members() -> None:
    assert counting(view(), GROUP, frozenset((A, B))) == {ME, A, B}


def test_a_node_with_colleagues_counts_them_and_those_that_are_nearly_so_and_those_that_its_user_named() -> (
    None
):
    known = (colleague(A), colleague(B, 0.8), colleague(GHOST, 0.5))
    assert counting(view(*known), GROUP, MEMBERS) == {ME, A, B}
    one = view(colleague(A))
    one.colleagues.named = frozenset((GHOST,))
    assert counting(one, GROUP, MEMBERS) == {ME, A, GHOST}


def test_newcomers_count_for_nothing() -> None:
    group = Group(b"g" * 16, 0, GROUP.members, GROUP.shares, newcomers=frozenset((B, GHOST)))
    assert counting(view(), group, MEMBERS) == {ME, A}


@pytest.mark.parametrize(
    ("masks", "fewest", "is_in"),
    [(((0b1111,),), 2, True), (((0b1111,), (0b1101,)), 1, True), (((0b1110,),), 1, False), ((), 2, True)],
)
def test_the_chunk_with_the_fewest_contributions_that_count_decides(
    masks: tuple[tuple[int, ...], ...], fewest: int, is_in: bool
) -> None:
    outcome = Exchanged(masks, (), 0)
    assert fewest_of({ME, A}, GROUP, outcome) == fewest
    assert is_in_all(ME, GROUP, outcome) == is_in


def test_bodies_count_by_whose_they_are() -> None:
    outcome = Bodies(((A, b"x"), (GHOST, b"y")))
    assert fewest_of({ME, A}, GROUP, outcome) == 1
    assert not is_in_all(ME, GROUP, outcome)
    assert is_in_all(A, GROUP, outcome)


@pytest.mark.parametrize(
    ("known", "quorum", "meaningful"),
    [((), 1, True), ((), 3, False), ((colleague(A),), 3, True), ((colleague(A, 0.9),), 3, False)],
)
def test_a_quorum_of_peers_that_this_node_does_not_know_says_little(
    known: tuple[Acquaintance, ...], quorum: int, meaningful: bool
) -> None:
    assert is_meaningful(view(*known, quorum=quorum)) == meaningful
