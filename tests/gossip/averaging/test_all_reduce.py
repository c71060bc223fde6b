"""AllReduce: cores over queues; what a mean is, who takes a part over, and who is waited for."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from core_net import Net, peers

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig, is_sane
from shoal.gossip.averaging.bounds import LOOSE, Stated, terms
from shoal.gossip.averaging.chunks import bounds
from shoal.gossip.errors import LocalViolation
from shoal.gossip.events import Drop, Effects, Loan, Send, SetTimer, Timer, Vector
from shoal.gossip.group import Group
from shoal.gossip.messages import Abandon, Alive, Announce, Claim, Cut, Done, Part, Reduced, Yield

CONFIG = ExchangeConfig(silence_timeout=3.0, slow_timeout=9.0, chunk_numel=4)
NUMEL = 26


class Members:
    """The members of one all-reduce."""

    def __init__(
        self, count: int, seed: int = 0, shares: tuple[int, ...] | None = None, round_: int = 0
    ) -> None:
        self.net = Net(seed)
        self.names = peers(count)
        group = Group(b"g" * 16, round_, tuple(self.names), shares or (1,) * count)
        self.parts = group.parts
        rng = np.random.default_rng(5)
        self.given = [rng.normal(size=NUMEL).astype(np.float32) for _ in self.names]
        self.weights = [1.0 + number for number in range(count)]
        self.vectors: list[Vector] = [vector.copy() for vector in self.given]
        self.cores = {
            name: AllReduce(name, group, 0, self.vectors[i], self.weights[i], CONFIG)
            for i, name in enumerate(self.names)
        }
        for name, core in self.cores.items():
            self.net.join(name, core.handle, core.timer)

    def begin(self) -> None:
        for name, core in self.cores.items():
            self.net.carry_out(name, core.begin(self.net.now))

    def announce(self, sender: PeerId, to: PeerId) -> None:
        """Let a member hear another's announcement, and nothing else of it."""
        for effect in self.cores[sender].begin(0.0):
            if isinstance(effect, Send) and isinstance(effect.message, Announce) and effect.peer == to:
                self.cores[to].handle(sender, effect.message, b"", 0.0)

    def tell_lost(self, dead: PeerId) -> None:
        for name, core in self.cores.items():
            if name != dead:
                self.net.carry_out(name, core.lost(dead, self.net.now))

    def exact(self, contributors: list[int]) -> Vector:
        """Return the mean of these, bounded part by part."""
        edges = bounds(NUMEL, self.parts)
        mean = np.zeros(NUMEL, np.float64)
        for lo, hi in pairwise(edges):
            claims = [
                Stated(self.weights[i], float(np.linalg.norm(self.given[i][lo:hi]))) for i in contributors
            ]
            for i, share in zip(contributors, terms(claims, LOOSE).shares, strict=True):
                mean[lo:hi] += share * self.given[i][lo:hi].astype(np.float64)
        return mean.astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_end_with_the_same_exact_weighted_mean(count: int, seed: int) -> None:
    members = Members(count, seed)
    members.begin()
    members.net.run()
    assert all(core.result is not None for core in members.cores.values())
    assert len({vector.tobytes() for vector in members.vectors}) == 1
    assert np.allclose(members.vectors[0], members.exact(list(range(count))), atol=1e-5)


def test_sums_are_taken_in_member_order_so_that_the_order_of_arrival_changes_no_bit() -> None:
    results = set()
    for seed in range(20):
        members = Members(5, seed)
        members.begin()
        members.net.run()
        results.add(members.vectors[0].tobytes())
    assert len(results) == 1


def test_nobody_reduces_the_same_coordinates_in_every_round() -> None:
    first: list[PeerId] = []
    for round_ in range(3):
        members = Members(3, shares=(3, 2, 1), round_=round_)
        members.begin()
        members.net.run()
        assert np.allclose(members.vectors[0], members.exact([0, 1, 2]), atol=1e-5)
        first += {who for who, _, said in members.net.sent if isinstance(said, Reduced) and said.part == 0}
    assert first == members.names


def test_a_member_without_a_share_reduces_nothing() -> None:
    members = Members(3, shares=(1, 0, 1))
    members.begin()
    members.net.run()
    reducers = {who for who, _, message in members.net.sent if isinstance(message, Reduced)}
    assert reducers == {members.names[0], members.names[2]}


@pytest.mark.parametrize("steps", [0, 3, 10, 25, 40, 60])
@pytest.mark.parametrize("dead", range(4))
def test_whoever_dies_at_any_step_the_others_end_with_the_same_bytes(dead: int, steps: int) -> None:
    members = Members(4, seed=steps)
    members.begin()
    for _ in range(steps):
        members.net.step()
    members.net.kill(members.names[dead])
    members.tell_lost(members.names[dead])
    members.net.wait(60.0)
    left = [i for i in range(4) if i != dead]
    assert all(members.cores[members.names[i]].result is not None for i in left)
    assert len({members.vectors[i].tobytes() for i in left}) == 1


def test_a_member_that_dies_before_it_sent_anything_is_in_no_mean() -> None:
    members = Members(3)
    members.net.kill(members.names[1])
    members.begin()
    members.tell_lost(members.names[1])
    members.net.wait(5.0)
    result = members.cores[members.names[0]].result
    assert result is not None
    assert result.contributors == (members.names[0], members.names[2])
    assert result.takeovers == 1
    assert np.allclose(members.vectors[0], members.exact([0, 2]), atol=1e-5)


def test_who_is_silent_is_cut_and_told_and_the_round_goes_on() -> None:
    members = Members(3)
    members.net.dead.add(members.names[2])
    members.begin()
    members.net.wait(2.9)
    assert members.cores[members.names[0]].result is None
    members.net.wait(3.0)
    assert members.cores[members.names[0]].result is not None
    assert any(isinstance(m, Cut) and to == members.names[2] for _, to, m in members.net.sent)


def test_a_member_that_only_says_that_it_lives_is_cut_later() -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    cut_at = 0.0
    for tick in range(1, 60):
        now = tick / 2
        core.handle(members.names[1], Alive(b"g" * 16, 0), b"", now)
        if any(isinstance(e, Send) and isinstance(e.message, Cut) for e in core.timer(now)):
            cut_at = now
            break
    assert CONFIG.silence_timeout < cut_at == pytest.approx(CONFIG.slow_timeout, abs=0.6)


def test_a_member_cut_by_more_than_half_of_those_it_hears_gives_up() -> None:
    members = Members(5)
    me, *others = members.names
    core = members.cores[me]
    core.begin(0.0)
    for cutter in others[:2]:
        core.handle(cutter, Cut(b"g" * 16, 0, me), b"", 1.0)
        assert not core.is_left_out
    effects = core.handle(others[2], Cut(b"g" * 16, 0, me), b"", 1.0)
    assert core.is_left_out
    assert any(isinstance(effect, Send) and isinstance(effect.message, Abandon) for effect in effects)


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_who_is_cut_with_every_mean_in_hand_goes_by_them_only_if_somebody_has_the_same(
    is_confirmed: bool,
) -> None:
    members = Members(3)
    me, _, cutter = members.names

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        says = isinstance(effect.message, Done) and (not is_confirmed or sender == cutter)
        return [] if says and effect.peer == me else [effect]

    members.net.bend = bend
    members.begin()
    members.net.run()
    core = members.cores[me]
    assert not core.is_over
    # Who is cut late was slow, which is nobody's fault.
    for peer in members.names[1:]:
        core.handle(peer, Cut(b"g" * 16, 0, me), b"", 20.0)
    assert core.is_left_out != is_confirmed
    assert core.unfair_cuts == []
    assert (core.result is not None) == is_confirmed


def test_one_of_three_that_cuts_everybody_ends_no_round_and_is_counted_by_each() -> None:
    members = Members(3)
    *honest, cutter = members.names

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender != cutter or not isinstance(effect.message, Part):
            return [effect]
        return [Send(effect.peer, Cut(b"g" * 16, 0, effect.peer)), effect]

    members.net.bend = bend
    members.begin()
    members.net.run()
    for number, name in enumerate(honest):
        core = members.cores[name]
        assert core.result is not None
        assert core.result.contributors == tuple(sorted(honest))
        assert core.unfair_cuts == [cutter]
        # Parts that were made before the cut have its contribution too.
        for (lo, hi), masks in zip(pairwise(bounds(NUMEL, members.parts)), core.result.masks, strict=True):
            made_of = [i for i in range(3) if masks[0] >> i & 1]
            assert np.allclose(members.vectors[number][lo:hi], members.exact(made_of)[lo:hi], atol=1e-5)


def test_a_member_that_more_than_half_of_the_others_cut_is_waited_for_by_nobody() -> None:
    members = Members(5)
    me, cut, *others = members.names
    core = members.cores[me]
    core.begin(0.0)
    for number, cutter in enumerate(others):
        core.handle(cutter, Cut(b"g" * 16, 0, cut), b"", 1.0)
        assert (cut in core.lost_members) is (number == 2)
    assert core.unfair_cuts == []


def test_whoever_was_never_heard_has_no_weight_once_it_could_be_silence() -> None:
    members = Members(3)
    me, cutter, _ = members.names
    core = members.cores[me]
    core.begin(0.0)
    # The third may be dead, and its link not yet: two are left, of whom one cuts the other.
    core.handle(cutter, Cut(b"g" * 16, 0, me), b"", CONFIG.slow_timeout)
    assert core.is_left_out


def test_newcomers_have_no_voice_in_a_cut() -> None:
    members = Members(4)
    me, *others = members.names
    group = replace(members.cores[me].group, newcomers=frozenset(others[:2]))
    core = AllReduce(me, group, 0, members.vectors[0], 1.0, CONFIG)
    core.begin(0.0)
    for newcomer in others[:2]:
        core.handle(newcomer, Cut(b"g" * 16, 0, me), b"", 1.0)
    assert not core.is_left_out
    core.handle(others[2], Cut(b"g" * 16, 0, me), b"", 1.0)
    assert core.is_left_out


def test_of_two_a_cut_ends_the_exchange_for_both() -> None:
    for says_so in (True, False):
        members = Members(2)
        me, other = members.names
        core = members.cores[me]
        core.begin(0.0)
        if says_so:
            core.handle(other, Cut(b"g" * 16, 0, me), b"", 1.0)
        else:
            effects = [e for tick in range(1, 60) for e in core.timer(tick / 2)]
            assert Send(other, Cut(b"g" * 16, 0, other)) in effects
        assert core.is_left_out
        assert core.result is None


def test_nobody_leaves_before_all_that_live_are_done() -> None:
    members = Members(2)
    members.begin()
    core = members.cores[members.names[0]]
    while not any(isinstance(message, Done) for _, _, message in members.net.sent):
        assert members.net.step()
    assert not any(core.is_over for core in members.cores.values())
    members.net.run()
    assert core.is_over


def test_our_own_sleep_is_nobodys_silence() -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    assert not any(isinstance(e, Send) and isinstance(e.message, Cut) for e in core.timer(1000.0))


@pytest.mark.parametrize(
    ("message", "data", "reason"),
    [
        (Part(b"g" * 16, 0, 1, 0, 0), bytes(16), "part of another owner"),
        (Part(b"g" * 16, 0, 0, 0, 0), bytes(12), "wrong chunk size"),
        (Part(b"g" * 16, 0, 9, 0, 0), bytes(16), "no such part"),
        (Reduced(b"g" * 16, 0, 1, 0, 0, bytes(8)), bytes(16), "wrong mean"),
        (Reduced(b"g" * 16, 0, 1, 0, 0, b"\0" * 7 + b"\3"), b"\xff" * 16, "mean is not finite"),
    ],
)
def test_who_breaks_the_protocol_is_dropped(message: Part | Reduced, data: bytes, reason: str) -> None:
    members = Members(2)
    core = members.cores[members.names[0]]
    core.begin(0.0)
    effects = core.handle(members.names[1], message, data, 0.1)
    assert Drop(members.names[1], reason) in effects


def test_who_gives_what_is_not_finite_is_found_and_the_mean_is_made_without_it() -> None:
    members = Members(3)
    liar = members.names[2]

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        lies = sender == liar and isinstance(effect.message, Part)
        return [msgspec.structs.replace(effect, data=b"\xff" * len(effect.data)) if lies else effect]

    members.net.bend = bend
    members.begin()
    members.net.run()
    assert (members.names[0], members.names[2], "contribution is not finite") in members.net.dropped
    assert np.isfinite(members.vectors[0]).all()


def test_who_shows_several_false_means_to_a_new_owner_holds_up_none_of_them() -> None:
    members = Members(3)
    liar, core = members.names[0], members.cores[members.names[1]]
    core.begin(0.0)
    members.announce(members.names[2], members.names[1])
    core.handle(members.names[2], Yield(b"g" * 16, 0, 0, 1), b"", 0.1)
    sizes = [core._chunks.view(0, chunk).nbytes for chunk in range(core._chunks.count(0))]
    for chunk, size in enumerate(sizes):
        false = Reduced(b"g" * 16, 0, 0, chunk, 0, b"\0" * 7 + b"\7")
        assert not core.handle(liar, false, b"\xff" * size, 0.2)
    effects: Effects = []
    for chunk, size in enumerate(sizes):
        effects += core.handle(members.names[2], Part(b"g" * 16, 0, 0, chunk, 1), bytes(size), 0.3)
    made = [e.message.chunk for e in effects if isinstance(e, Send) and isinstance(e.message, Reduced)]
    assert Drop(liar, "mean is not finite") in effects
    assert sorted(made) == list(range(len(sizes)))
    assert len(sizes) > 1


def test_where_half_of_the_others_are_done_the_silent_are_waited_for_no_longer_than_the_shortest_stall() -> (
    None
):
    members = Members(3)
    me, silent, done = members.names
    core = members.cores[me]
    core.begin(0.0)

    def cuts(effects: Effects) -> list[PeerId]:
        said = {e.message.member for e in effects if isinstance(e, Send) and isinstance(e.message, Cut)}
        return sorted(said)

    for tick in range(1, 6):
        core.handle(done, Alive(b"g" * 16, 0), b"", tick / 2)
        assert not cuts(core.timer(tick / 2))
    effects = core.handle(done, Done(b"g" * 16, 0, bytes(16)), b"", 2.6)
    assert SetTimer(2.6, Timer.ALL_REDUCE) in effects
    assert cuts(core.timer(2.6)) == [silent]


def test_a_new_owner_waits_for_nobody_who_is_done_with_the_same_means() -> None:
    members = Members(4)
    maker, _, done, late = members.names

    def bend(sender: PeerId, effect: Send) -> list[Send]:
        return (
            []
            if sender == maker and effect.peer == late and isinstance(effect.message, Reduced)
            else [effect]
        )

    members.net.bend = bend
    members.begin()
    members.net.run()
    # It has its mean, and is with the next round: what is said of this one it does not hear.
    members.net.kill(done)
    members.net.carry_out(late, members.cores[late].lost(maker, 0.0))
    members.net.run()
    assert members.cores[late].result is not None
    assert np.array_equal(members.vectors[3], members.vectors[1])


def test_who_is_over_lets_another_take_a_part_over_that_needs_nothing_of_it() -> None:
    members = Members(3)
    over, owner, _ = members.names
    members.begin()
    members.net.run()
    assert members.cores[over].handle(owner, Claim(b"g" * 16, 0, 0, 1), b"", 1.0) == []


def test_nothing_of_an_exchange_that_is_over_is_sent_late() -> None:
    for ends in ("done", "cut", "abandoned"):
        members = Members(3)
        core = members.cores[members.names[0]]
        lent = [e.data for e in core.begin(0.0) if isinstance(e, Send) and isinstance(e.message, Part)]
        assert not any(loan.is_over for loan in lent if isinstance(loan, Loan))
        if ends == "done":
            for name in members.names[1:]:
                core.lost(name, 0.1)
            assert core.result is not None
        elif ends == "cut":
            for peer in members.names[1:]:
                core.handle(peer, Cut(b"g" * 16, 0, members.names[0]), b"", 0.1)
            assert core.is_left_out
        else:
            core.abandon()
        assert lent
        assert all(isinstance(loan, Loan) and loan.is_over for loan in lent)


def test_who_lost_the_owner_leaves_once_every_member_has_owned_a_part_twice() -> None:
    members = Members(4)
    me, _, lost, giver = members.names
    core = members.cores[me]
    core.begin(0.0)
    core.lost(lost, 0.0)
    early = core.handle(giver, Yield(b"g" * 16, 0, 2, 4), b"", 0.1)
    assert Send(giver, Yield(b"g" * 16, 0, 2, 5)) in early
    late = core.handle(giver, Yield(b"g" * 16, 0, 2, 8), b"", 0.2)
    assert core.is_left_out
    assert Send(giver, Abandon(b"g" * 16, 0)) in late
    assert not any(isinstance(effect, Send) and isinstance(effect.message, Yield) for effect in late)


def test_our_own_fault_is_loud() -> None:
    members = Members(2)
    members.vectors[0][:] = np.nan
    members.begin()
    with pytest.raises(LocalViolation):
        members.net.run()


def test_numbers_are_sane_if_finite_and_not_absurd() -> None:
    assert is_sane(np.ones(4, np.float32))
    assert not is_sane(np.array([1.0, np.inf], np.float32))
    assert not is_sane(np.array([1.0, np.nan], np.float32))
    assert not is_sane(np.full(4, 1e16, np.float32))
