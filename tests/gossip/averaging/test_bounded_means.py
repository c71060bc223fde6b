"""Bounded means: what a member or an owner that lies comes to, and that no honest one is blamed for it."""

from functools import partial

import msgspec
import numpy as np
import pytest
from bounded_members import STATE, Bend, Members, announcing, larger, times, with_norms

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announced import digest_of
from shoal.gossip.averaging.origin import Origin, variances_of
from shoal.gossip.events import Send, Vector
from shoal.gossip.messages import Announce, Announcements, Part, Reduced, Unannounced
from shoal.gossip.run_spec import TensorSpec


@pytest.mark.parametrize("count", [2, 3, 6])
def test_in_peace_the_mean_is_that_of_contributions_as_long_as_the_median(count: int) -> None:
    members = Members(count)
    members.run()
    assert len({vector.tobytes() for vector in members.vectors}) == 1
    for part in range(count):
        lo, hi = members.edges(part)
        moves = [given[lo:hi].astype(np.float64) - STATE[lo:hi] for given in members.given]
        norms = [float(np.linalg.norm(move)) for move in moves]
        cap = sorted(norms)[(count - 1) // 2]
        mean = np.mean([move * min(1, cap / norm) for move, norm in zip(moves, norms, strict=True)], axis=0)
        assert np.allclose(members.vectors[0][lo:hi], STATE[lo:hi] + mean, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_huge_weight_counts_twice_the_median_at_most(seed: int) -> None:
    members = Members(5, seed)
    members.run(announcing(members.names[4], lambda each, _: msgspec.structs.replace(each, weight=1e15)))
    members.assert_bounded(4)
    lo, hi = members.edges(0)
    apart = [float(np.linalg.norm(members.vectors[0][lo:hi] - given[lo:hi])) for given in members.given]
    assert apart[4] > 0.3 * float(np.mean(apart[:4]))


def mean_of_part(members: Members, part: int, weights: dict[int, float]) -> Vector:
    """Return the mean of these members' contributions, as long as the lower median of a part."""
    lo, hi = members.edges(part)
    moves = [members.given[i][lo:hi].astype(np.float64) - STATE[lo:hi] for i in weights]
    norms = [float(np.linalg.norm(move)) for move in moves]
    cap = sorted(norms)[(len(norms) - 1) // 2]
    capped = [move * min(1, cap / norm) for move, norm in zip(moves, norms, strict=True)]
    moved = np.average(capped, axis=0, weights=[*weights.values()])
    mean: Vector = (STATE[lo:hi] + moved).astype(np.float32)
    return mean


def test_noisy_members_count_a_tenth_whoever_makes_the_mean() -> None:
    discounts = [1.0, 0.1, 0.1, 0.1, 0.1]
    members = Members(5, discounts=discounts)
    # The means of member 1 are refused: the next one takes its part over, without it.
    members.run(times(members.names[1], 1e9, Reduced))
    left = members.honest(1)
    assert len({members.vectors[i].tobytes() for i in left}) == 1
    for part in range(5):
        lo, hi = members.edges(part)
        without = {i: discounts[i] for i in left}
        expected = [mean_of_part(members, part, weights) for weights in (dict(enumerate(discounts)), without)]
        shown = members.vectors[0][lo:hi]
        assert any(np.allclose(shown, mean, atol=1e-5) for mean in expected), part
    assert np.allclose(
        members.vectors[0][slice(*members.edges(1))], mean_of_part(members, 1, without), atol=1e-5
    )


@pytest.mark.parametrize("discount", [2.0, 1e15, 0.0, -1.0, float("nan"), float("inf")])
def test_a_discount_that_is_none_is_refused(discount: float) -> None:
    members = Members(4)
    liar = members.names[2]
    members.run(announcing(liar, lambda each, _: msgspec.structs.replace(each, discount=discount)))
    members.assert_bounded(2)
    assert {whom for _, whom, _ in members.net.dropped if whom == liar} == {liar}
    for part in range(4):
        lo, hi = members.edges(part)
        expected = STATE[lo:hi] + np.mean([members.given[i][lo:hi] - STATE[lo:hi] for i in (0, 1, 3)], axis=0)
        moved = float(np.linalg.norm(members.vectors[0][lo:hi] - expected))
        assert moved <= members.longest(2, part) / 3


@pytest.mark.parametrize("seed", range(5))
def test_a_contribution_that_is_announced_as_large_counts_like_the_median(seed: int) -> None:
    members = Members(5, seed)
    liar = members.names[1]
    members.run(announcing(liar, lambda each, _: larger(each, 1e4), times(liar, -1000.0, Part)))
    members.assert_bounded(1)
    assert all(members.cores[members.names[i]].result is not None for i in members.honest(1))


def test_who_gives_more_than_it_announced_is_left_out_and_dropped() -> None:
    members = Members(5)
    liar = members.names[1]
    members.run(times(liar, 3.0, Part))
    members.assert_bounded(1)
    assert (members.names[0], liar, "contribution is larger than announced") in members.net.dropped


@pytest.mark.parametrize("factor", [1.5, -10.0, 1e9, float("nan")])
@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_mean_outside_its_bound_is_not_taken_and_the_next_owner_makes_it_anew(
    count: int, factor: float
) -> None:
    members = Members(count)
    members.run(times(members.names[0], factor, Reduced))
    members.assert_bounded(0)
    left = members.honest(0)
    assert all(members.cores[members.names[i]].result is not None for i in left)
    assert len({members.vectors[i].tobytes() for i in left}) == 1


def test_an_owner_that_names_itself_alone_is_bound_by_the_others_all_the_same() -> None:
    members = Members(4)
    liar = members.names[0]

    def alone(sender: PeerId, effect: Send) -> list[Send]:
        if sender != liar or not isinstance(effect.message, Reduced):
            return [effect]
        core = members.cores[liar]
        names = core._announced.first([0])
        message = msgspec.structs.replace(
            effect.message, contributors=b"\0" * 7 + b"\1", announced=digest_of(names)
        )
        return [msgspec.structs.replace(effect, message=message, data=bytes(len(effect.data)))]

    members.run(announcing(liar, lambda each, _: each, alone))
    members.assert_bounded(0)


@pytest.mark.parametrize("seed", range(10))
def test_who_announces_two_things_is_found_and_no_honest_owner_is_blamed(seed: int) -> None:
    members = Members(5, seed)
    liar = members.names[2]

    def two(announce: Announce, peer: PeerId) -> Announce:
        return larger(announce, 4.0) if peer in members.names[:2] else announce

    members.run(announcing(liar, two))
    members.assert_bounded(2)
    assert {whom for _, whom, reason in members.net.dropped if reason == "announced two things"} == {liar}
    assert all(members.cores[members.names[i]].result is not None for i in members.honest(2))


def test_who_has_no_link_to_a_member_gets_its_announcement_from_the_owner() -> None:
    members = Members(4)
    one, other = members.names[1], members.names[3]

    def unlinked(sender: PeerId, effect: Send) -> list[Send]:
        return [] if {sender, effect.peer} == {one, other} else [effect]

    members.net.bend = unlinked
    for name, core in members.cores.items():
        members.net.carry_out(name, core.begin(0.0))
    members.net.carry_out(one, members.cores[one].lost(other, 0.0))
    members.net.carry_out(other, members.cores[other].lost(one, 0.0))
    members.net.wait(5.0)
    said = {type(message) for _, _, message in members.net.sent}
    assert {Unannounced, Announcements} <= said
    assert not members.net.dropped
    assert len({vector.tobytes() for vector in members.vectors}) == 1


def test_an_announcement_of_another_size_or_not_finite_is_refused() -> None:
    for norms in (b"", bytes(16), b"\xff" * 48):
        members = Members(3)
        members.run(announcing(members.names[0], partial(with_norms, norms)))
        reasons = {reason for who, whom, reason in members.net.dropped if whom == members.names[0]}
        assert reasons == {"announcement of another size, or not finite"}


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("seed", range(5))
def test_no_honest_owner_is_blamed_for_what_a_codec_rounds(codec: str, seed: int) -> None:
    members = Members(4, seed, codec)
    members.run()
    assert not members.net.dropped
    assert len({vector.tobytes() for vector in members.vectors}) == 1


def test_members_that_did_not_move_keep_their_state() -> None:
    members = Members(3)
    for vector in members.vectors:
        vector[:] = STATE
    members.run()
    assert not members.net.dropped
    assert np.allclose(members.vectors[0], STATE, atol=1e-6)


def test_a_running_variance_stays_positive_whatever_is_contributed() -> None:
    tensors = (TensorSpec("bn.running_mean", "float32", (2,)), TensorSpec("bn.running_var", "float32", (2,)))
    assert variances_of(tensors) == ((2, 4),)
    state = np.array([0.0, 0.0, 1.0, 1e-3], np.float32)
    view = np.array([-1.0, -1.0, -5.0, 0.5], np.float32)
    Origin("params", b"", False, state, variances_of(tensors)).keep_positive(view, 0)
    assert view.tolist() == [-1.0, -1.0, pytest.approx(2.0**-10), 0.5]
    chunk = np.array([-1.0], np.float32)
    Origin("params", b"", False, state, variances_of(tensors)).keep_positive(chunk, 3)
    assert chunk[0] > 0


def asking_else(*others: PeerId) -> Bend:
    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender in others and isinstance(effect.message, Announce):
            other = msgspec.structs.replace(effect.message, ask=b"else" * 2)
            return [msgspec.structs.replace(effect, message=other)]
        return [effect]

    return bend


@pytest.mark.parametrize(
    ("count", "odd", "ending"), [(2, 1, {0}), (4, 1, set()), (4, 2, {0, 1}), (3, 2, {0})]
)
@pytest.mark.parametrize("seed", range(5))
def test_with_who_asks_for_something_else_nothing_is_exchanged(
    count: int, odd: int, ending: set[int], seed: int
) -> None:
    members = Members(count, seed)
    others = members.names[count - odd :]
    for core in members.cores.values():
        core.ask = b"this" * 2
    members.run(asking_else(*others))
    assert members.net.now < 41.0
    alike = members.names[: count - odd]
    ended = {i for i, name in enumerate(alike) if members.cores[name].result is None}
    assert ended == ending
    for name in alike:
        core = members.cores[name]
        assert core.is_over
        assert set(core.unlike) <= set(others)
        assert core.result is None or core.result.contributors == tuple(alike)
    assert not {whom for who, whom, _ in members.net.dropped if who in alike}
