"""GroupSearch: what a node learns of how long others take."""

import random

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.matchmaking import Matchmaking
from shoal.gossip.member.commands import Attach, NewState
from shoal.gossip.member.group_search import GroupSearch
from shoal.gossip.member.member import Member, MemberConfig
from shoal.gossip.messages import Ready
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id

ME, A, B = (PeerId(name) for name in ("me", "a", "b"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),))


def seeker() -> GroupSearch:
    """Return the searches of a node that is linked to both others, and waits a second for an answer."""
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    member.handle(NewState(5, b"s" * 32, b"p" * 32, memoryview(b"")), 0.0)
    member.table.connected |= {A, B}
    for _ in range(6):
        member.group_search.answer_wait.observe(0.5)
    return member.group_search


def ended(one: GroupSearch, members: tuple[PeerId, ...]) -> Matchmaking:
    """Return a search that ended at once, in a group of these; all were ready."""
    view = one._view
    search = Matchmaking(ME, view.run, view.round, view.base, one._config(), 7, view.reach)
    search.ready |= dict.fromkeys((A, B), Ready(view.round, view.base))
    search.group = Group(b"g" * 16, view.round, members, (1,) * len(members))
    search.answered_in = 0.5
    return search


def test_who_stays_silent_is_waited_for_longer_until_nobody_is_left_out() -> None:
    one = seeker()
    missed = ended(one, (ME, A))
    missed.silent = {B}
    one.search = missed
    one.learn(0.0, 0.0)
    assert one.answer_wait.seconds() == 2.0
    one.search = ended(one, (ME, A))
    one.learn(0.0, 1.0)
    assert one.answer_wait.seconds() == 2.0, (
        "another convener left it out: that the two are fast says nothing"
    )
    one.search = ended(one, (ME, A, B))
    one.learn(0.0, 2.0)
    assert one.answer_wait.seconds() == 1.0


@pytest.mark.parametrize("is_with_us", [False, True])
def test_a_convener_that_we_did_not_wait_for_is_waited_for_longer(is_with_us: bool) -> None:
    one = seeker()
    search = ended(one, (ME, A, B) if is_with_us else (ME, A))
    search.mute = {B}
    one.search = search
    one.learn(0.0, 0.0)
    assert one.answer_wait.seconds() == (1.0 if is_with_us else 2.0)
