"""Gather: cores over queues; the same bodies for everyone, fixed before anything is seen."""

from functools import partial

import msgspec
import pytest
from core_net import Net, peers

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.gather import Gather, Step, body_digest, decode_holding, encode_holding
from shoal.gossip.events import Drop, Effects, Send
from shoal.gossip.group import Group
from shoal.gossip.messages import Abandon, Cut, Digest, Reveal

CONFIG = ExchangeConfig(silence_timeout=3.0, slow_timeout=9.0, chunk_numel=1 << 18)
GROUP = b"g" * 16


class Members:
    """The members of one gathering; each gives a body of its own length."""

    def __init__(self, count: int, seed: int = 0, shares: tuple[int, ...] | None = None) -> None:
        self.net = Net(seed)
        self.names = peers(count)
        group = Group(GROUP, 3, tuple(self.names), shares or (1,) * count)
        self.given = {name: bytes([i + 1]) * (i + 1) for i, name in enumerate(self.names)}
        self.cores = {name: Gather(name, group, 0, self.given[name], CONFIG) for name in self.names}
        for name, core in self.cores.items():
            self.net.join(name, core.handle, partial(both_timers, core))

    def run(self) -> None:
        for name, core in self.cores.items():
            self.net.carry_out(name, core.begin(self.net.now))
        self.net.wait(40.0)

    def lose(self, dead: PeerId) -> None:
        self.net.kill(dead)
        for name, core in self.cores.items():
            if name != dead:
                self.net.carry_out(name, core.lost(dead, self.net.now))

    def sets(self) -> list[dict[PeerId, bytes]]:
        return [dict(core.bodies) for name, core in self.cores.items() if name not in self.net.dead]


def both_timers(core: Gather, now: float) -> Effects:
    return [*core.inner_timer(now), *core.timer(now)]


@pytest.mark.parametrize("seed", range(10))
def test_all_end_with_every_body_sorted_by_peer(seed: int) -> None:
    members = Members(4, seed)
    members.run()
    assert all(core.step is Step.DONE for core in members.cores.values())
    assert {core.bodies for core in members.cores.values()} == {tuple(sorted(members.given.items()))}


@pytest.mark.parametrize("seed", range(10))
def test_members_without_a_link_to_each_other_agree_by_the_one_that_has_links_to_both(seed: int) -> None:
    members = Members(3, seed, shares=(0, 0, 1))
    one, other, _ = members.names
    members.net.bend = lambda sender, effect: [effect] if {sender, effect.peer} != {one, other} else []
    for name, core in members.cores.items():
        members.net.carry_out(name, core.begin(0.0))
    for name, lost in ((one, other), (other, one)):
        members.net.carry_out(name, members.cores[name].lost(lost, 0.0))
    members.net.wait(40.0)
    assert all(core.step is Step.DONE for core in members.cores.values())
    assert {core.bodies for core in members.cores.values()} == {tuple(sorted(members.given.items()))}
    inner = [core.inner for core in members.cores.values()]
    assert all(each is not None and each.result is not None and not each.result.takeovers for each in inner)


def test_nobody_reveals_its_body_before_all_have_committed_to_theirs() -> None:
    members = Members(3)
    name = members.names[0]
    core = members.cores[name]
    effects = core.begin(0.0)
    assert not any(isinstance(e, Send) and isinstance(e.message, Reveal) for e in effects)
    assert not core.handle(members.names[1], Digest(GROUP, 0, b"d" * 32), b"", 0.1)
    effects = core.handle(members.names[2], Digest(GROUP, 0, b"e" * 32), b"", 0.2)
    assert any(isinstance(e, Send) and isinstance(e.message, Reveal) for e in effects)


def test_a_body_that_is_not_what_was_committed_drops_its_peer() -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    core.handle(members.names[1], Digest(GROUP, 0, b"d" * 32), b"", 0.1)
    effects = core.handle(members.names[1], Reveal(GROUP, 0, 1), b"other", 0.2)
    assert Drop(members.names[1], "body is not what was committed") in effects


def test_a_body_may_overtake_its_digest() -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    assert not core.handle(members.names[1], Reveal(GROUP, 0, 1), b"body", 0.1)
    core.handle(members.names[1], Digest(GROUP, 0, body_digest(GROUP, 0, 1, b"body")), b"", 0.2)
    assert core.step is Step.AGREEING


@pytest.mark.parametrize("steps", [0, 5, 12, 20, 30, 45])
def test_whoever_dies_at_any_step_the_others_end_with_one_set(steps: int) -> None:
    for dead in range(4):
        members = Members(4, seed=steps)
        for name, core in members.cores.items():
            members.net.carry_out(name, core.begin(0.0))
        for _ in range(steps):
            members.net.step()
        members.lose(members.names[dead])
        members.net.wait(40.0)
        sets = members.sets()
        assert all(one == sets[0] for one in sets)
        assert all(
            sets[0][name] == members.given[name] for name in members.names if name != members.names[dead]
        )


def test_a_body_shown_to_one_member_only_is_fetched_from_it_or_counts_for_none() -> None:
    members = Members(4)
    partial, favoured = members.names[3], members.names[0]

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        hides = sender == partial and isinstance(effect.message, Reveal) and effect.peer != favoured
        return [] if hides else [effect]

    members.net.bend = bend
    members.run()
    sets = members.sets()[:3]
    assert all(one == sets[0] for one in sets)
    assert sets[0].get(partial) in (None, members.given[partial])


def test_a_member_that_tells_different_peers_different_things_counts_for_none() -> None:
    members = Members(4)
    liar, deceived = members.names[3], members.names[0]
    digest = body_digest(GROUP, 0, 3, b"another")

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender == liar and effect.peer == deceived:
            match effect.message:
                case Digest():
                    return [Send(effect.peer, Digest(GROUP, 0, digest))]
                case Reveal():
                    return [msgspec.structs.replace(effect, data=b"another")]
        return [effect]

    members.net.bend = bend
    members.run()
    honest = [dict(members.cores[name].bodies) for name in members.names[:3]]
    assert all(liar not in one and len(one) == 3 for one in honest)


def test_who_is_silent_is_cut_and_told() -> None:
    members = Members(3)
    members.net.dead.add(members.names[2])
    members.run()
    assert all(set(one) == set(members.names[:2]) for one in members.sets())
    assert any(isinstance(m, Cut) and to == members.names[2] for _, to, m in members.net.sent)


def with_a_newcomer() -> tuple[Gather, PeerId]:
    """Return a member of three that has committed, and the third, which is a newcomer."""
    names = peers(3)
    group = Group(GROUP, 3, tuple(names), (1, 1, 0), newcomers=frozenset(names[2:]))
    core = Gather(names[0], group, 0, b"mine", CONFIG)
    core.begin(0.0)
    core.handle(names[1], Digest(GROUP, 0, body_digest(GROUP, 0, 1, b"its")), b"", 0.1)
    return core, names[2]


def test_a_newcomer_that_gives_no_body_is_waited_for_half_as_long() -> None:
    core, newcomer = with_a_newcomer()
    lost = []
    for beat in range(6):
        core.timer(0.5 * beat)
        lost.append(list(core.lost_members))
    assert lost == [[], [], [], [newcomer], [newcomer], [newcomer]]


def test_what_newcomers_alone_took_is_told() -> None:
    core, newcomer = with_a_newcomer()
    core.handle(newcomer, Digest(GROUP, 0, body_digest(GROUP, 0, 2, b"new")), b"", 0.6)
    assert core.newcomers_took == pytest.approx(0.5)
    core.handle(newcomer, Reveal(GROUP, 0, 2), b"new", 0.7)
    core.handle(peers(3)[1], Reveal(GROUP, 0, 1), b"its", 1.0)
    assert core.newcomers_took == pytest.approx(0.5), "the others took longer"


def test_a_member_cut_by_more_than_half_of_those_it_hears_gives_up() -> None:
    members = Members(5)
    me, *others = members.names
    core = members.cores[me]
    core.begin(0.0)
    for cutter in others[:2]:
        core.handle(cutter, Cut(GROUP, 0, me), b"", 1.0)
        assert core.step is Step.COMMITTING
    effects = core.handle(others[2], Cut(GROUP, 0, me), b"", 1.0)
    assert core.step is Step.FAILED
    assert core.unfair_cuts == others[:3]
    assert any(isinstance(effect, Send) and isinstance(effect.message, Abandon) for effect in effects)


def test_one_of_three_that_cuts_everybody_ends_no_gathering() -> None:
    members = Members(3)
    *honest, cutter = members.names

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender != cutter or not isinstance(effect.message, Digest):
            return [effect]
        return [Send(effect.peer, Cut(GROUP, 0, effect.peer)), effect]

    members.net.bend = bend
    members.run()
    for name in honest:
        assert set(dict(members.cores[name].bodies)) == set(honest)
        assert members.cores[name].unfair_cuts == [cutter]


def test_of_two_a_cut_ends_the_gathering_for_both() -> None:
    members = Members(2)
    me, other = members.names
    core = members.cores[me]
    core.begin(0.0)
    core.handle(other, Cut(GROUP, 0, me), b"", 1.0)
    assert core.step is Step.FAILED


def test_a_body_that_is_too_large_drops_its_peer() -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    effects = core.handle(members.names[1], Reveal(GROUP, 0, 1), bytes((4 << 20) + 1), 0.1)
    assert Drop(members.names[1], "body is too large") in effects


def test_the_agreed_digests_come_out_of_the_mean_exactly() -> None:
    digests = {0: bytes(range(32)), 2: b"\xff" * 32}
    vectors = [encode_holding(digests, 3), encode_holding({0: digests[0]}, 3)]
    mean = (vectors[0] + vectors[1]) / 2
    assert decode_holding(mean.astype("float32")) == digests
