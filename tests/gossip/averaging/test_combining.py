"""Trimmed means and medians: by hand, among liars, and that no honest member is blamed for them."""

from typing import Any

import numpy as np
import pytest
from bounded_members import STATE, Members, announcing, larger, times
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.averaging.bounds import Stated, cap_of, terms, trim_of
from shoal.gossip.averaging.origin import SORTED_PIECE, trimmed_mean
from shoal.gossip.messages import Part, Reduced
from shoal.gossip.run_spec import Combine

TRIMMING: tuple[Combine, ...] = ("trimmed", "median")
small = st.floats(-8, 8, width=32)


def expected(members: Members, combine: Combine, of: list[int], part: int) -> Any:
    """Return a part of what these members' contributions come to, in float64."""
    lo, hi = members.edges(part)
    moves = np.array([members.given[i][lo:hi].astype(np.float64) - STATE[lo:hi] for i in of])
    norms = np.linalg.norm(moves, axis=1)
    moves *= np.minimum(1, sorted(norms)[(len(of) - 1) // 2] / norms)[:, None]
    trim = trim_of(combine, len(of))
    return STATE[lo:hi] + np.sort(moves, axis=0)[trim : len(of) - trim].mean(axis=0)


@pytest.mark.parametrize(
    ("combine", "count", "trim"),
    [
        *(("trimmed", *each) for each in ((1, 0), (2, 0), (3, 1), (4, 1), (8, 1), (9, 2), (16, 3))),
        *(("median", *each) for each in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3))),
        ("mean", 9, 0),
    ],
)
def test_how_many_are_left_out_on_either_side(combine: Combine, count: int, trim: int) -> None:
    assert trim_of(combine, count) == trim


def test_a_trimmed_mean_and_a_median_by_hand() -> None:
    vectors = [np.array(v, np.float32) for v in ([1, 9, 0], [2, -5, 0], [3, 1, 4], [100, 3, 0])]
    out = np.empty(3, np.float32)
    trimmed_mean(vectors, [1.0] * 4, None, 1, out)
    assert out.tolist() == [2.5, 2.0, 0.0]
    trimmed_mean(vectors[:3], [1.0] * 3, None, 1, out)
    assert out.tolist() == [2.0, 1.0, 0.0]
    # Factors shorten the way from the origin.
    origin = np.array([1, 1, 1], np.float32)
    trimmed_mean(vectors[:3], [1.0, 0.5, 0.5], origin, 1, out)
    assert out.tolist() == [1.5, 1.0, 0.5]


def test_every_piece_of_a_long_vector_is_combined_and_nothing_given_is_written_to() -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=2 * SORTED_PIECE + 77).astype(np.float32) for _ in range(7)]
    kept, out = [vector.copy() for vector in vectors], np.empty_like(vectors[0])
    trimmed_mean(vectors, [1.0] * 7, None, 3, out)
    assert np.array_equal(out, np.median(vectors, axis=0))
    assert all(np.array_equal(one, other) for one, other in zip(kept, vectors, strict=True))


@given(st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=12), st.sampled_from(TRIMMING))
def test_no_result_is_beyond_its_bound(rows: list[list[float]], combine: Combine) -> None:
    vectors = [np.array(row, np.float32) for row in rows]
    stated = [Stated(1.0, float(np.linalg.norm(vector.astype(np.float64)))) for vector in vectors]
    made, out = terms(stated, 1.0, combine), np.empty(3, np.float32)
    factors = [share / weight for share, weight in zip(made.shares, made.weights, strict=True)]
    trimmed_mean(vectors, factors, None, made.trim, out)
    assert np.linalg.norm(out) <= made.bound * (1 + 1e-5) + 1e-30
    assert made.bound <= cap_of(stated) * np.sqrt(2) * (1 + 1e-9)


def test_the_bound_of_a_median_is_reached() -> None:
    vectors = [np.array(v, np.float32) for v in ([1, 1, 0], [1, 0, 1], [0, 1, 1])]
    made, out = terms([Stated(1.0, 2**0.5)] * 3, 1.0, "median"), np.empty(3, np.float32)
    trimmed_mean(vectors, [1.0] * 3, None, made.trim, out)
    assert np.linalg.norm(out) == pytest.approx(made.bound)


def test_each_counts_once_whatever_it_claims_and_not_at_all_without_a_weight() -> None:
    stated = [Stated(1e15, 1.0), Stated(1.0, 1.0, is_newcomer=True), Stated(5.0, 1.0), Stated(0.0, 1.0)]
    made = terms(stated, 1.0, "median")
    assert made.weights == (1 / 3, 1 / 3, 1 / 3, 0.0)
    assert made.trim == 1
    # Without a claim of anybody all count.
    assert terms([Stated(0.0, 1.0)] * 5, 1.0, "median").trim == 2


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("combine", TRIMMING)
@pytest.mark.parametrize("count", [2, 3, 6, 9])
def test_in_peace_all_members_hold_the_same_result(count: int, combine: Combine, codec: str) -> None:
    members = Members(count, codec=codec, combine=combine)
    members.run()
    assert not members.net.dropped
    assert len({vector.tobytes() for vector in members.vectors}) == 1
    for part in range(count):
        lo, hi = members.edges(part)
        atol = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.08}[codec]
        assert np.allclose(
            members.vectors[0][lo:hi], expected(members, combine, [*range(count)], part), atol=atol
        )


@pytest.mark.parametrize("combine", TRIMMING)
def test_buffers_at_the_end_are_combined_as_well(combine: Combine) -> None:
    members = Members(5, buffers=6, combine=combine)
    members.run()
    assert not members.net.dropped
    assert len({vector.tobytes() for vector in members.vectors}) == 1
    # A fifth of 40 numbers is a part: 34 to 40, the buffers, are capped by themselves.
    moves = np.array([given[34:].astype(np.float64) - STATE[34:] for given in members.given])
    norms = np.linalg.norm(moves, axis=1)
    moves *= np.minimum(1, sorted(norms)[2] / norms)[:, None]
    trim = trim_of(combine, 5)
    assert np.allclose(
        members.vectors[0][34:], STATE[34:] + np.sort(moves, axis=0)[trim : 5 - trim].mean(axis=0), atol=1e-5
    )


@pytest.mark.parametrize("seed", range(4))
def test_one_that_lies_as_large_as_it_may_moves_no_median_beyond_what_honest_members_gave(seed: int) -> None:
    members = Members(5, seed, combine="median")
    liar = members.names[1]
    members.run(announcing(liar, lambda each, _: larger(each, 1e4), times(liar, -1000.0, Part)))
    # By coordinate the middle one of five lies between two of the four honest ones, as long as the cap.
    honest = np.array([members.given[i] for i in members.honest(1)])
    assert (members.vectors[0] <= np.maximum(honest.max(axis=0), STATE) + 1e-5).all()
    assert (members.vectors[0] >= np.minimum(honest.min(axis=0), STATE) - 1e-5).all()
    assert all(members.cores[members.names[i]].result is not None for i in members.honest(1))


@pytest.mark.parametrize("factor", [1.5, -10.0, float("nan")])
@pytest.mark.parametrize("combine", TRIMMING)
def test_an_owner_that_lies_about_the_result_is_turned_away(combine: Combine, factor: float) -> None:
    members = Members(5, combine=combine)
    members.run(times(members.names[0], factor, Reduced))
    left = members.honest(0)
    blamed = {whom for who, whom, _ in members.net.dropped if who != members.names[0]}
    assert blamed == {members.names[0]}
    assert all(members.cores[members.names[i]].result is not None for i in left)
    assert len({members.vectors[i].tobytes() for i in left}) == 1


@pytest.mark.parametrize("combine", TRIMMING)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_who_gives_what_is_not_finite_is_left_out_and_the_others_agree(combine: Combine, bad: float) -> None:
    members = Members(4, combine=combine)
    members.run(times(members.names[3], bad, Part))
    left = members.honest(3)
    assert {whom for who, whom, _ in members.net.dropped if who in members.names[:3]} == {members.names[3]}
    assert len({members.vectors[i].tobytes() for i in left}) == 1
    assert np.isfinite(members.vectors[0]).all()


@pytest.mark.parametrize("combine", TRIMMING)
@pytest.mark.parametrize("steps", range(0, 60, 6))
def test_a_member_that_dies_midway_is_in_a_chunk_or_not_and_the_others_agree(
    combine: Combine, steps: int
) -> None:
    members = Members(5, seed=steps, combine=combine)
    left = members.run_with_a_death(4, steps)
    for part in range(5):
        lo, hi = members.edges(part)
        with_it = expected(members, combine, [*range(5)], part)
        without = expected(members, combine, left, part)
        found = members.vectors[0][lo:hi]
        matches = np.isclose(found, with_it, atol=1e-5) | np.isclose(found, without, atol=1e-5)
        assert matches.all()
