"""Matchmaking: cores over queues, rule by rule."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from core_net import Net, peers

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send
from shoal.gossip.matchmaking.grid import deal
from shoal.gossip.matchmaking.matchmaking import Matchmaking
from shoal.gossip.matchmaking.proposals import group_id
from shoal.gossip.matchmaking.search import MatchmakingConfig, State, place
from shoal.gossip.matchmaking.standing import Standing
from shoal.gossip.matchmaking.turns import rank
from shoal.gossip.messages import Abandon, Accept, Commit, Decline, Propose, Ready, Shown, Signed, Unheard

RUN, BASE, ROUND = b"r" * 32, b"b" * 32, 7
READY = Ready(ROUND, BASE)
CONFIG = MatchmakingConfig(ready_wait=4.0, answer_wait=1.0, patience=10.0)


def known(names: Iterable[PeerId]) -> Standing:
    """Return what a node of a young run knows of peers that were there before the round."""
    return Standing(linked_before=frozenset(names))


class Seekers:
    """Cores that seek a group in the same round."""

    def __init__(self, names: list[PeerId], config: MatchmakingConfig = CONFIG, seed: int = 0) -> None:
        self.net = Net(seed)
        self.everyone = set(names)
        self.cores = {name: self._core(name, number, config) for number, name in enumerate(names)}
        for name, core in self.cores.items():
            self.net.join(name, self._handler(core), core.timer)

    def _core(self, name: PeerId, number: int, config: MatchmakingConfig) -> Matchmaking:
        return Matchmaking(
            name, RUN, ROUND, BASE, config, number, self.everyone, standing=known(self.everyone)
        )

    def _handler(self, core: Matchmaking) -> Any:
        kinds: dict[Any, Any] = {
            Ready: core.handle_ready,
            Propose: core.handle_propose,
            Accept: core.handle_accept,
            Decline: core.handle_decline,
            Commit: core.handle_commit,
            Unheard: lambda peer, message, _: core.handle_unheard(peer, message),
            Shown: lambda peer, message, _: core.handle_shown(peer, message),
        }

        def handle(peer: PeerId, message: Any, data: Any, now: float) -> Effects:
            # Of an exchange nothing is played here.
            return kinds[type(message)](peer, message, now) if type(message) in kinds else []

        return handle

    def begin(self, *names: PeerId) -> None:
        for name in names or self.cores:
            expected = self.everyone - {name}
            self.net.carry_out(name, self.cores[name].begin(expected, [], self.net.now))

    def groups(self) -> set[tuple[PeerId, ...]]:
        return {core.group.members for core in self.cores.values() if core.group is not None}


def in_order(count: int) -> list[PeerId]:
    """Return peers in the order in which they convene this round."""
    return sorted(peers(count), key=lambda peer: rank(RUN, ROUND, peer))


def dealt(names: list[PeerId]) -> tuple[PeerId, ...]:
    """Return a group of these peers as it stands: in the order of the grid."""
    return tuple(sorted(names, key=lambda peer: place(RUN, peer)))


def one(names: list[PeerId], me: int, **changes: Any) -> Matchmaking:
    config = MatchmakingConfig(ready_wait=4.0, answer_wait=1.0, patience=10.0, **changes)
    return Matchmaking(names[me], RUN, ROUND, BASE, config, 99, set(names), standing=known(names))


def propose(names: list[PeerId], ballot: int = 0, nonce: int = 5) -> Propose:
    return Propose(ROUND, BASE, ballot, nonce, tuple(names), (1,) * len(names))


def ready(names: Iterable[PeerId]) -> list[tuple[PeerId, Ready]]:
    return [(name, READY) for name in names]


def sent(effects: Effects, kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


@pytest.mark.parametrize("seed", range(20))
def test_all_that_are_ready_end_in_one_group(seed: int) -> None:
    seekers = Seekers(peers(6), seed=seed)
    seekers.begin()
    seekers.net.run()
    assert seekers.groups() == {dealt(peers(6))}


@pytest.mark.parametrize("seed", range(10))
def test_more_than_fit_in_a_group_are_dealt_into_several(seed: int) -> None:
    config = MatchmakingConfig(group_size=4, several=True, ready_wait=4.0, answer_wait=1.0, patience=10.0)
    seekers = Seekers(peers(10), config, seed)
    seekers.begin()
    seekers.net.wait(12.0)
    groups = seekers.groups()
    assert sorted(peer for group in groups for peer in group) == sorted(peers(10))
    assert max(map(len, groups)) <= 4


def test_groups_of_another_round_are_others() -> None:
    ordered = dealt(peers(9))
    assert deal(ordered, 0, 3) != deal(ordered, 1, 3)
    conveners = {min(ordered, key=lambda peer: rank(RUN, round_, peer)) for round_ in range(40)}
    assert len(conveners) > 5


@pytest.mark.parametrize("seed", range(10))
def test_who_is_not_ready_is_waited_for_and_then_left_out(seed: int) -> None:
    names = in_order(4)
    seekers = Seekers(names, seed=seed)
    seekers.net.dead.add(names[3])
    seekers.begin(*names[:3])
    seekers.net.wait(3.9)
    assert not seekers.groups()
    seekers.net.wait(2.0)
    assert seekers.groups() == {dealt(names[:3])}


def test_where_there_are_many_groups_most_of_the_expected_are_enough() -> None:
    names = in_order(5)
    core = one(names, 0, share=0.75)
    core.begin(names[1:], [], 0.0)
    for name in names[1:3]:
        assert not sent(core.handle_ready(name, Ready(ROUND, BASE), 0.1), Propose)
    assert len(sent(core.handle_ready(names[3], Ready(ROUND, BASE), 0.2), Propose)) == 3


@pytest.mark.parametrize("seed", range(10))
def test_a_convener_that_dies_is_replaced_by_the_next_hash(seed: int) -> None:
    names = in_order(4)
    seekers = Seekers(names, seed=seed)
    seekers.net.kill(names[0])
    seekers.begin()
    seekers.net.wait(8.0)
    assert seekers.groups() == {dealt(names[1:])}


@pytest.mark.parametrize("dies", range(1, 4))
def test_a_member_that_dies_in_the_middle_is_left_out(dies: int) -> None:
    names = in_order(4)
    seekers = Seekers(names)
    seekers.begin()
    while not any(core.state is State.PROPOSING for core in seekers.cores.values()):
        assert seekers.net.step()
    seekers.net.kill(names[dies])
    seekers.net.wait(3.0)
    left = [name for name in names if name != names[dies]]
    assert {seekers.cores[name].group.members for name in left} == {dealt(left)}  # type: ignore[union-attr]


def test_a_peer_promises_itself_to_whoever_has_its_turn_before_the_other() -> None:
    names = in_order(4)
    core = one(names, 3)
    core.begin(names[:3], ready(names[1:3]), 0.0)
    assert sent(core.handle_propose(names[1], propose(names[1:]), 0.0), Accept)
    assert sent(core.handle_propose(names[2], propose(names[1:], ballot=1), 0.0), Decline)
    core.handle_ready(names[0], READY, 0.1)
    assert sent(core.handle_propose(names[0], propose(names), 0.1), Accept)
    assert sent(core.handle_propose(names[1], propose(names, ballot=9), 0.1), Decline)


@pytest.mark.parametrize(
    "lie", [{"nonce": 6}, {"halvings": 1}, {"members": tuple(in_order(3)[:2]), "shares": (1, 1)}]
)
def test_a_commit_of_another_group_than_was_offered_is_no_commit(lie: dict[str, Any]) -> None:
    names = in_order(3)
    core = one(names, 2)
    core.begin(names[:2], ready(names[:2]), 0.0)
    core.handle_propose(names[0], propose(names), 0.1)
    true = Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1, 1))
    assert not core.handle_commit(names[0], msgspec.structs.replace(true, **lie), 0.2)
    assert core.state is State.PROMISED
    assert set(core.ready) == set(names)
    core.handle_commit(names[0], true, 0.3)
    assert core.group is not None


@pytest.mark.parametrize("halvings", range(4))
def test_the_chunk_of_a_group_follows_from_its_commit_and_the_run(halvings: int) -> None:
    names = in_order(2)
    core = one(names, 1, max_chunk_numel=1 << 17)
    core.begin(names[:1], ready(names[:1]), 0.0)
    core.handle_propose(names[0], msgspec.structs.replace(propose(names), halvings=halvings), 0.1)
    commit = Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1), halvings)
    core.handle_commit(names[0], commit, 0.2)
    assert core.group is not None
    assert core.group.chunk_numel == 1 << 17 - halvings


def test_a_convener_halves_chunks_for_the_slowest_line_that_its_group_knows() -> None:
    names = in_order(2)
    core = one(names, 0, max_chunk_numel=1 << 17)
    slow = msgspec.structs.replace(READY, uplink=1024)
    effects = core.begin(names[1:], [(names[1], slow)], 0.0)
    assert [effect.message.halvings for effect in sent(effects, Propose)] == [3]
    core.handle_accept(names[1], Accept(ROUND, 0, 99, (3).to_bytes(8, "big")), 0.1)
    assert core.group is not None
    assert core.group.chunk_numel == 1 << 14


def test_groups_of_other_chunks_have_other_names() -> None:
    """A convener that tells two members other chunks makes two groups: neither drops the other's numbers."""
    names = in_order(2)
    commits = [Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1), halvings) for halvings in range(4)]
    assert len({group_id(RUN, commit) for commit in commits}) == 4


def test_whoever_reaches_most_convenes_so_that_nobody_is_left_out() -> None:
    names = in_order(4)
    core = one(names, 1)
    ready = [(names[0], Ready(ROUND, BASE, unreached=1)), (names[2], READY), (names[3], READY)]
    effects = core.begin([name for name, _ in ready], ready, 0.0)
    assert {effect.peer for effect in sent(effects, Propose)} == {names[0], names[2], names[3]}


def test_who_reaches_fewer_waits_for_the_convener_as_long_as_that_may_wait_for_others() -> None:
    names = in_order(2)
    config = MatchmakingConfig(ready_wait=4.0, answer_wait=1.0, patience=10.0)
    core = Matchmaking(names[0], RUN, ROUND, BASE, config, 99, set(names), unreached=1)
    assert not sent(core.begin(names[1:], [(names[1], READY)], 0.0), Propose)
    assert not sent(core.timer(3.9), Propose)
    assert sent(core.timer(4.0), Propose)


def test_the_others_are_told_how_many_a_peer_does_not_reach() -> None:
    names = in_order(2)
    core = Matchmaking(names[0], RUN, ROUND, BASE, CONFIG, 99, set(names), unreached=3)
    assert [effect.message.unreached for effect in sent(core.begin(names[1:], [], 0.0), Ready)] == [3]


def test_who_promises_itself_to_a_better_convener_tells_the_former() -> None:
    names = in_order(3)
    core = one(names, 2)
    core.begin(names[:2], ready(names[1:2]), 0.0)
    core.handle_propose(names[1], propose(names[1:]), 0.0)
    core.handle_ready(names[0], READY, 0.0)
    declined = sent(core.handle_propose(names[0], propose(names), 0.0), Decline)
    assert [effect.peer for effect in declined] == [names[1]]


def test_a_convener_that_steps_down_tells_its_members() -> None:
    names = in_order(4)
    core = one(names, 1)
    core.begin(names[2:], ready(names[2:]), 0.0)
    core.handle_ready(names[0], READY, 0.1)
    effects = core.handle_propose(names[0], propose(names), 0.1)
    assert core.state is State.PROMISED
    assert {effect.peer for effect in sent(effects, Decline)} == set(names[2:])


def test_a_convener_goes_on_without_who_declines_as_soon_as_all_have_answered() -> None:
    names = in_order(4)
    core = one(names, 0, share=0.75)
    core.begin(names[1:], ready(names[1:]), 0.0)
    core.handle_accept(names[1], Accept(ROUND, 0, 99, bytes(8)), 0.1)
    assert not core.handle_decline(names[2], Decline(ROUND, 0, 99), 0.1)
    again = sent(core.handle_accept(names[3], Accept(ROUND, 0, 99, bytes(8)), 0.1), Propose)
    assert {effect.peer for effect in again} == {names[1], names[3]}


def test_where_all_see_all_a_convener_waits_for_the_better_proposal() -> None:
    names = in_order(4)
    core = one(names, 0)
    core.begin(names[1:], ready(names[1:]), 0.0)
    assert not core.handle_decline(names[2], Decline(ROUND, 0, 99), 0.1)
    for name in (names[1], names[3]):
        assert not core.handle_accept(name, Accept(ROUND, 0, 99, bytes(8)), 0.1)
    assert core.state is State.PROPOSING


def test_a_word_about_another_ballot_changes_nothing() -> None:
    names = in_order(3)
    core = one(names, 0)
    core.begin(names[1:], ready(names[1:]), 0.0)
    assert not core.handle_decline(names[1], Decline(ROUND, 3, 99), 0.1)
    assert not core.handle_accept(names[1], Accept(ROUND, 0, 98, bytes(8)), 0.1)
    assert core.state is State.PROPOSING


def test_a_peer_whose_convener_steps_down_convenes_or_waits_for_the_next() -> None:
    names = in_order(3)
    core = one(names, 1, share=0.75)
    core.begin((names[0], names[2]), [(names[0], READY), (names[2], READY)], 0.0)
    core.handle_propose(names[0], propose(names), 0.1)
    effects = core.handle_decline(names[0], Decline(ROUND, 0, 5), 0.2)
    assert {effect.peer for effect in sent(effects, Propose)} == {names[0], names[2]}


def test_a_group_is_committed_only_after_every_member_has_accepted() -> None:
    names = in_order(3)
    core = one(names, 0)
    core.begin(names[1:], ready(names[1:]), 0.0)
    assert not sent(core.handle_accept(names[1], Accept(ROUND, 0, 99, bytes(8)), 0.1), Commit)
    effects = core.handle_accept(names[2], Accept(ROUND, 0, 99, bytes(8)), 0.1)
    assert {effect.peer for effect in sent(effects, Commit)} == set(names[1:])


def test_the_ready_that_are_not_in_a_group_are_told_whom_it_has_taken() -> None:
    names = in_order(4)
    core = one(names, 0, group_size=2)
    core.begin(names[1:], ready(names[1:]), 0.0)
    group = next(group for group in deal(dealt(names), ROUND, 2) if names[0] in group)
    partner = next(peer for peer in group if peer != names[0])
    effects = core.handle_accept(partner, Accept(ROUND, 0, 99, bytes(8)), 0.1)
    assert {effect.peer for effect in sent(effects, Commit)} == set(names[1:])
    free = next(number for number in range(1, 4) if names[number] != partner)
    other = one(names, free, group_size=2)
    other.begin(set(names) - {names[free]}, [(names[0], READY), (partner, READY)], 0.0)
    other.handle_commit(names[0], sent(effects, Commit)[0].message, 0.2)
    assert not set(group) & (other.ready.keys() | other.expected)


def test_a_member_that_finds_itself_committed_twice_abandons_the_second_group_aloud() -> None:
    names = in_order(3)
    core = one(names, 2)
    core.begin(names[:2], ready(names[1:2]), 0.0)
    commits = {}
    for convener, ballot in ((names[1], 0), (names[0], 0)):
        core.handle_ready(convener, READY, 0.0)
        for _ in range(2):
            core.handle_propose(convener, propose(names, ballot), 0.0)
            core.handle_shown(convener, Shown(ROUND, tuple(Signed(name, READY) for name in names)))
        commits[convener] = Commit(ROUND, BASE, ballot, 5, convener, tuple(names), (1, 1, 1))
    core.handle_commit(names[1], commits[names[1]], 0.1)
    assert core.group is not None
    effects = core.handle_commit(names[0], commits[names[0]], 0.2)
    assert {effect.peer for effect in sent(effects, Abandon)} == set(names[:2])


def test_a_group_that_was_never_accepted_is_abandoned() -> None:
    names = in_order(3)
    core = one(names, 2)
    core.begin(names[:2], ready(names[:2]), 0.0)
    commit = Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1, 1))
    assert sent(core.handle_commit(names[0], commit, 0.1), Abandon)
    assert core.group is None


def test_a_group_of_an_earlier_search_is_not_formed_again() -> None:
    """Its convener replays its offer and its commit, or the first part of its exchange."""
    names = in_order(2)
    commit = Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1))
    past = {group_id(RUN, commit)}
    core = Matchmaking(names[1], RUN, ROUND, BASE, CONFIG, 99, set(names), past=past)
    core.begin(names[:1], ready(names[:1]), 0.0)
    core.handle_propose(names[0], propose(names), 0.0)
    assert not core.matches(group_id(RUN, commit))
    assert sent(core.handle_commit(names[0], commit, 0.1), Abandon)
    assert core.group is None


def test_who_has_lost_its_convener_learns_of_its_group_from_a_member_that_is_at_the_exchange() -> None:
    names = in_order(3)
    convener, member, core = names[0], one(names, 1), one(names, 2)
    for each, others in ((member, (names[0], names[2])), (core, names[:2])):
        each.begin(others, ready(others), 0.0)
        each.handle_propose(convener, propose(names), 0.0)
    member.handle_commit(convener, Commit(ROUND, BASE, 0, 5, convener, tuple(names), (1, 1, 1)), 0.1)
    assert core.ask_about_group(names[1], 0.1) == [], "its convener lives, and the commit is on its way"
    core.lost(convener, 0.2)
    (asked,) = core.ask_about_group(names[1], 0.3)
    assert isinstance(asked, Send)
    assert isinstance(asked.message, Ready)
    assert core.ask_about_group(names[1], 0.3) == []
    (told,) = member.handle_ready(names[2], asked.message, 0.4)
    assert isinstance(told, Send)
    assert isinstance(told.message, Commit)
    core.handle_commit(names[1], told.message, 0.5)
    assert core.group == member.group


def test_a_lost_commit_does_not_matter_once_the_exchange_has_begun() -> None:
    names = in_order(2)
    core = one(names, 1)
    core.begin(names[:1], ready(names[:1]), 0.0)
    core.handle_propose(names[0], propose(names), 0.0)
    other = one(names, 1)
    other.begin(names[:1], ready(names[:1]), 0.0)
    other.handle_propose(names[0], propose(names), 0.0)
    other.handle_commit(names[0], Commit(ROUND, BASE, 0, 5, names[0], tuple(names), (1, 1)), 0.1)
    assert other.group is not None
    assert core.matches(other.group.id)
    core.form_promised(0.2)
    assert core.group == other.group


def test_parts_are_sized_by_the_lines_of_the_members() -> None:
    names = in_order(4)
    core = one(names, 0)
    core.begin(names[1:], [], 0.0)
    effects = []
    for name, uplink in zip(names[1:], (1024, 0, 64), strict=True):
        effects = core.handle_ready(name, Ready(ROUND, BASE, uplink=uplink), 0.1)
    offer = next(each.message for each in effects if isinstance(each, Send))
    assert isinstance(offer, Propose)
    # Two do not know their line: as the median of those who do.
    by_name = dict(zip(offer.members, offer.shares, strict=True))
    assert by_name == {
        names[0]: by_name[names[2]],
        names[1]: by_name[names[1]],
        names[2]: by_name[names[0]],
        names[3]: 0,
    }
    assert by_name[names[1]] > by_name[names[0]] > 0


def test_who_lacks_a_link_to_a_member_gets_no_part_to_reduce() -> None:
    names = in_order(3)
    core = one(names, 0)
    core.begin(names[1:], ready(names[1:]), 0.0)
    members = dealt(names)
    everyone, lacking = 0b111, 0b111 & ~(1 << members.index(names[2]))
    core.handle_accept(names[1], Accept(ROUND, 0, 99, lacking.to_bytes(8, "big")), 0.1)
    core.handle_accept(names[2], Accept(ROUND, 0, 99, everyone.to_bytes(8, "big")), 0.1)
    assert core.group is not None
    assert core.group.members == members
    assert [share > 0 for share in core.group.shares] == [peer == names[0] for peer in members]


def test_a_convener_with_a_slow_line_reduces_what_nobody_else_can() -> None:
    names = in_order(3)
    core = Matchmaking(names[0], RUN, ROUND, BASE, CONFIG, 99, set(names), 1)
    fast = Ready(ROUND, BASE, uplink=1024)
    core.begin(names[1:], [(name, fast) for name in names[1:]], 0.0)
    assert core._offering is not None
    assert (
        dict(zip(core._offering.proposal.members, core._offering.proposal.shares, strict=True))[names[0]] == 0
    )
    for name in names[1:]:
        linked = sum(
            1 << i for i, peer in enumerate(core._offering.proposal.members) if peer in (name, names[0])
        )
        core.handle_accept(name, Accept(ROUND, 0, 99, linked.to_bytes(8, "big")), 0.1)
    assert core.group is not None
    assert [share > 0 for share in core.group.shares] == [peer == names[0] for peer in core.group.members]


def test_peers_that_started_from_another_state_are_not_counted() -> None:
    names = in_order(2)
    core = one(names, 0)
    core.begin(names[1:], [], 0.0)
    assert not core.handle_ready(names[1], Ready(ROUND, b"o" * 32), 0.1)
    assert not core.handle_propose(names[1], Propose(ROUND, b"o" * 32, 9, 5, tuple(names), (1, 1)), 0.1)


@pytest.mark.parametrize(
    "members", [("peer0", "peer1"), ("peer0", "peer0", "peer2"), tuple(f"peer{i}" for i in range(20))]
)
def test_an_unsound_proposal_is_ignored(members: tuple[str, ...]) -> None:
    core = Matchmaking(PeerId("peer2"), RUN, ROUND, BASE, CONFIG, 99, set())
    core.begin([PeerId("peer0")], [], 0.0)
    names = tuple(PeerId(member) for member in members)
    assert not core.handle_propose(PeerId("peer0"), Propose(ROUND, BASE, 9, 5, names, (1,) * len(names)), 0.0)


def test_nobody_waits_longer_than_its_patience() -> None:
    names = in_order(2)
    core = one(names, 0, quorum=2)
    core.begin(names[1:], [], 0.0)
    assert not core.timer(4.0) or core.group is None
    core.timer(10.0)
    assert core.group is not None
    assert core.group.members == (names[0],)
