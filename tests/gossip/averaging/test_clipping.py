"""Centred clipping around the last change: by hand, among liars, and with members that lack that change."""

from typing import Any

import msgspec
import numpy as np
import pytest
from bounded_members import STATE, Members, announcing, larger, times
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.averaging.bounds import Stated, agreed_last, clipped_terms
from shoal.gossip.averaging.origin import PIECE, Change, both_squares
from shoal.gossip.messages import Announce, Part, Reduced

CHANGE = Change(STATE.size)
CHANGE.note(0, np.linspace(-0.1, 0.3, STATE.size, dtype=np.float32), None)
LAST = CHANGE[:]
NAME = b"c" * 16
small = st.floats(-8, 8, width=32)


def clipping(count: int, seed: int = 0, lacking: tuple[int, ...] = (), **more: Any) -> Members:
    """Return members that clip around a change, which some of them lack."""
    known = [(None, b"") if i in lacking else (CHANGE, NAME) for i in range(count)]
    return Members(count, seed, combine="clip", lasts=known, **more)


def expected(members: Members, of: list[int], part: int, lacking: tuple[int, ...] = ()) -> Any:
    """Return a part of what clipping around the last change comes to, in float64."""
    lo, hi = members.edges(part)
    moves = [members.given[i][lo:hi].astype(np.float64) - STATE[lo:hi] for i in of]
    last = LAST[lo:hi].astype(np.float64)
    aparts: dict[int, float] = {
        i: float(np.linalg.norm(move - last)) for i, move in zip(of, moves, strict=True)
    }
    knowing = [i for i in of if i not in lacking]
    radius = sorted(aparts[i] for i in knowing)[(len(knowing) - 1) // 2]
    norms: dict[int, float] = {i: float(np.linalg.norm(move)) for i, move in zip(of, moves, strict=True)}
    cap = sorted(norms.values())[(len(norms) - 1) // 2]
    result = last.copy()
    for i, move in zip(of, moves, strict=True):
        factor = cap / norms[i] if i in lacking else radius / aparts[i]
        result += min(1.0, factor) * (move - last) / len(of)
    return STATE[lo:hi] + result


def test_factors_by_hand() -> None:
    made = clipped_terms([Stated(1, 3, apart=1), Stated(1, 3, apart=2), Stated(2, 3, apart=8)])
    assert made.shares == (0.25, 0.25, 0.125)
    assert made.last == 0.375
    # Without the change itself its norm is the lower median of norm + apart: 5.
    assert made.bound == pytest.approx(0.25 * 3 + 0.25 * 3 + 0.125 * 3 + 0.375 * 5)
    known = clipped_terms([Stated(1, 3, apart=1), Stated(1, 3, apart=2), Stated(2, 3, apart=8)], 2.0)
    assert known.shares == made.shares
    assert known.bound == pytest.approx(0.25 * 3 + 0.25 * 3 + 0.125 * 3 + 0.375 * 2)


def test_who_lacks_the_change_counts_as_in_the_bounded_mean() -> None:
    made = clipped_terms([Stated(1, 3, apart=1), Stated(1, 3, apart=1), Stated(1, 4), Stated(1, 2)])
    assert made.shares == pytest.approx((1 / 4, 1 / 4, 1 / 4 * 3 / 4, 1 / 4))
    assert made.last == pytest.approx(1 / 16)


def test_a_change_is_that_of_more_than_half_and_the_distance_from_it_is_from_the_origin() -> None:
    assert agreed_last([b"a", b"a", b""]) == b"a"
    assert agreed_last([b"a", b"b"]) == agreed_last([b"a", b""]) == agreed_last([]) == b""
    one = np.array([3, 5], np.float32)
    assert both_squares(one, np.array([1, 1], np.float32), np.array([2, 1], np.float32)) == (20.0, 9.0)
    assert both_squares(one, None, np.array([3, 1], np.float32)) == (34.0, 16.0)
    assert both_squares(one[:0], None, one[:0]) == (0.0, 0.0)


@given(
    st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=12),
    st.lists(small, min_size=3, max_size=3),
    st.sets(st.integers(1, 11)),
)
def test_no_result_is_beyond_its_bound(
    rows: list[list[float]], change: list[float], lacking: set[int]
) -> None:
    last, moves = np.array(change), [np.array(row) for row in rows]
    stated = [
        Stated(1.0, float(np.linalg.norm(m)), apart=None if i in lacking else float(np.linalg.norm(m - last)))
        for i, m in enumerate(moves)
    ]
    for length in (float(np.linalg.norm(last)), float("inf")):
        made = clipped_terms(stated, length)
        result = sum(share * move for share, move in zip(made.shares, moves, strict=True)) + made.last * last
        assert np.linalg.norm(result) <= made.bound * (1 + 1e-9) + 1e-9


def test_a_lie_about_the_last_change_does_not_grow_from_round_to_round() -> None:
    """An owner that puts the result at its bound in every round turns the next one no farther."""
    honest = np.eye(5) + 1.0
    last, lengths = np.zeros(5), []
    for _ in range(30):
        stated = [
            Stated(1.0, float(np.linalg.norm(m)), apart=float(np.linalg.norm(m - last))) for m in honest
        ]
        bound = clipped_terms(stated, float(np.linalg.norm(last))).bound
        last = -np.ones(5) * bound / 5**0.5
        lengths.append(bound)
    assert max(lengths) <= 1.5 * max(np.linalg.norm(honest, axis=1))


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("lacking", [(), (0,), (3,), (0, 4)])
def test_in_peace_all_hold_the_same_result_and_who_lacks_the_change_counts_too(
    lacking: tuple[int, ...], codec: str
) -> None:
    members = clipping(5, lacking=lacking, codec=codec)
    members.run()
    assert not members.net.dropped
    assert len({vector.tobytes() for vector in members.vectors}) == 1
    atol = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.08}[codec]
    for part in range(5):
        lo, hi = members.edges(part)
        assert np.allclose(
            members.vectors[0][lo:hi], expected(members, [*range(5)], part, lacking), atol=atol
        )
    assert all(
        core.result is not None and len(core.result.contributors) == 5 for core in members.cores.values()
    )


def test_who_lacks_the_change_makes_no_result() -> None:
    members = clipping(4, lacking=(1,))
    members.run()
    made = {who for who, _, message in members.net.sent if isinstance(message, Reduced)}
    assert made == {members.names[0], members.names[2], members.names[3]}


@pytest.mark.parametrize("lacking", [(0, 1), (0, 1, 2, 3)])
def test_where_half_lack_the_change_it_is_the_bounded_mean(lacking: tuple[int, ...]) -> None:
    members, plain = clipping(4, lacking=lacking), Members(4)
    members.run()
    plain.run()
    assert not members.net.dropped
    assert all(np.array_equal(vector, plain.vectors[0]) for vector in members.vectors)


@pytest.mark.parametrize("seed", range(4))
def test_one_that_lies_as_large_as_it_may_is_drawn_to_the_last_change(seed: int) -> None:
    members = clipping(5, seed)
    liar = members.names[1]
    members.run(announcing(liar, lambda each, _: larger(each, 1e4), times(liar, -1000.0, Part)))
    left = members.honest(1)
    assert all(members.cores[members.names[i]].result is not None for i in left)
    assert len({members.vectors[i].tobytes() for i in left}) == 1
    for part in range(5):
        lo, hi = members.edges(part)
        aparts = [np.linalg.norm(members.given[i][lo:hi] - STATE[lo:hi] - LAST[lo:hi]) for i in left]
        moved = np.linalg.norm(members.vectors[0][lo:hi] - STATE[lo:hi] - LAST[lo:hi])
        assert moved <= max(aparts) * 1.01


def test_who_gives_what_is_farther_from_the_last_change_than_announced_is_dropped() -> None:
    members = clipping(5)
    liar = members.names[1]

    def nearer(announce: Announce, _: object) -> Announce:
        norms = np.frombuffer(announce.norms, "<f4").reshape(6, 5).copy()
        norms[4] *= np.float32(0.5)
        return msgspec.structs.replace(announce, norms=norms.tobytes())

    members.run(announcing(liar, nearer))
    blamed = {(whom, reason) for who, whom, reason in members.net.dropped if who != liar}
    assert blamed == {(liar, "contribution is larger than announced")}
    assert len({members.vectors[i].tobytes() for i in members.honest(1)}) == 1


@pytest.mark.parametrize("lacking", [(), (2,)])
@pytest.mark.parametrize("factor", [1.5, -10.0, float("nan")])
def test_an_owner_that_lies_about_the_result_is_turned_away(factor: float, lacking: tuple[int, ...]) -> None:
    members = clipping(5, lacking=lacking)
    members.run(times(members.names[0], factor, Reduced))
    left = members.honest(0)
    assert {whom for who, whom, _ in members.net.dropped if who != members.names[0]} == {members.names[0]}
    assert all(members.cores[members.names[i]].result is not None for i in left)
    assert len({members.vectors[i].tobytes() for i in left}) == 1


@pytest.mark.parametrize("lacking", [(), (0,), (4,)])
@pytest.mark.parametrize("steps", range(0, 60, 12))
def test_a_member_that_dies_midway_leaves_the_others_with_the_same_bytes(
    lacking: tuple[int, ...], steps: int
) -> None:
    members = clipping(5, seed=steps, lacking=lacking)
    members.run_with_a_death(4, steps)


def test_a_change_is_kept_to_the_nearest_in_bfloat16_piece_by_piece() -> None:
    dice = np.random.default_rng(0)
    size = 2 * PIECE + 7
    state, vector = dice.normal(size=(2, size)).astype(np.float32)
    change = Change(size)
    change.note(0, vector[:-5], state[:-5])
    change.note(size - 5, vector[-5:], None)
    exact = np.concatenate([vector[:-5] - state[:-5], vector[-5:]])
    np.testing.assert_allclose(change[:], exact, rtol=2.0**-8)
    assert np.array_equal(change[PIECE - 3 : PIECE + 3], change[:][PIECE - 3 : PIECE + 3])
    assert change.norm_squared(3, size) == pytest.approx(float(np.square(change[3:size]).sum()), rel=1e-5)
