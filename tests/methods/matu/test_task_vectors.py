"""Task vectors: what unifying keeps, whom combining believes, and what counts as similar."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.gossip.events import Vector
from shoal.methods.matu.task_vectors import (
    Combined,
    Contribution,
    combine,
    majority,
    mix,
    reconstruct,
    sign_plane,
    similarity,
    unify,
)


def some_vectors(count: int, numel: int = 1000, seed: int = 0) -> list[Vector]:
    return list(np.random.default_rng(seed).normal(size=(count, numel)).astype(np.float32))


def test_two_tasks_by_hand() -> None:
    unified = unify([np.array([1, -2, 3, 0], np.float32), np.array([2, 1, -1, 0], np.float32)])
    # Sums 3, -1, 2, 0; the largest that agree are 2, -2, 3, none.
    assert unified.tau.tolist() == [2, -2, 3, 0]
    assert [mask.tolist() for mask in unified.masks] == [
        [True, True, True, False],
        [True, False, False, False],
    ]
    # |1|+|-2|+|3| = 6 of 2+2+3 = 7, and 4 of 2.
    assert unified.scales == pytest.approx((6 / 7, 2.0))
    np.testing.assert_allclose(reconstruct(unified.tau, unified.masks[1], unified.scales[1]), [4, 0, 0, 0])


def test_a_single_task_is_exact() -> None:
    (vector,) = some_vectors(1)
    vector[::7] = 0
    unified = unify([vector])
    assert unified.tau.tobytes() == (vector + 0).tobytes()
    assert unified.masks[0].tolist() == (vector != 0).tolist()
    assert unified.scales == (1.0,)
    assert reconstruct(unified.tau, unified.masks[0], 1.0).tolist() == vector.tolist()


@pytest.mark.parametrize("count", [2, 4, 8])
def test_disjoint_tasks_are_exact(count: int) -> None:
    owner = np.random.default_rng(1).integers(count, size=1000)
    vectors = [np.where(owner == i, vector, 0) for i, vector in enumerate(some_vectors(count))]
    unified = unify(vectors)
    assert unified.scales == (1.0,) * count
    for vector, mask in zip(vectors, unified.masks, strict=True):
        assert reconstruct(unified.tau, mask, 1.0).tolist() == vector.tolist()


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_what_is_kept_has_the_right_sign_and_the_right_sum(count: int, seed: int) -> None:
    vectors = some_vectors(count, seed=seed)
    unified = unify(vectors)
    for vector, mask, scale in zip(vectors, unified.masks, unified.scales, strict=True):
        assert (np.sign(unified.tau[mask]) == np.sign(vector[mask])).all()
        kept = np.abs(reconstruct(unified.tau, mask, scale)).sum(dtype=np.float64)
        assert kept == pytest.approx(np.abs(vector).sum(dtype=np.float64), rel=1e-5)


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_the_sign_plane_has_every_sign(count: int, seed: int) -> None:
    vectors = some_vectors(count, seed=seed)
    unified = unify(vectors)
    for vector, mask in zip(vectors, unified.masks, strict=True):
        assert (sign_plane(unified.tau, mask) == np.sign(vector)).all()


def test_a_task_without_change_has_scale_zero() -> None:
    unified = unify([np.zeros(4, np.float32), np.ones(4, np.float32)])
    assert unified.scales == (0.0, 1.0)


def test_a_task_that_lost_nearly_all_is_not_blown_up() -> None:
    small, large = np.full(100, -1, np.float32), np.full(100, 50, np.float32)
    small[0] = 51
    assert unify([small, large]).scales[0] <= 8.0


def test_opposite_tasks_are_unlike_equal_ones_alike_others_in_between() -> None:
    one, other = some_vectors(2, numel=100_000)
    signs = [np.sign(each).astype(np.int8) for each in (one, other, -one)]
    assert similarity(signs[0], signs[0]) == 1.0
    assert similarity(signs[0], signs[2]) == 0.0
    assert abs(similarity(signs[0], signs[1]) - 0.5) < 0.02
    # On one peer: what unifying leaves in the masks must not make them alike.
    for pair, low, high in (((one, -one * np.float32(1.5)), 0.0, 0.2), ((one, one * 2), 0.9, 1.0)):
        unified = unify(pair)
        planes = [sign_plane(unified.tau, mask) for mask in unified.masks]
        assert low <= similarity(*planes) <= high
    unified = unify([one, other])
    planes = [sign_plane(unified.tau, mask) for mask in unified.masks]
    assert abs(similarity(*planes) - 0.5) < 0.02


def test_the_majority_of_three_holders() -> None:
    planes = [np.array(each, np.int8) for each in ([1, 1, 0, -1], [1, -1, 0, -1], [1, -1, 0, 1])]
    assert majority(planes).tolist() == [1, -1, 0, -1]
    assert majority(planes[:2]).tolist() == [1, 0, 0, -1]


def test_three_holders_by_hand() -> None:
    vectors = [[1, 1, 0], [1, -1, 0], [3, 1, 2]]
    told = combine(
        [Contribution.of(np.array(v, np.float32), n) for v, n in zip(vectors, (2, 1, 1), strict=True)], 0.5
    )
    # Means (2+1+3)/4, (2-1+1)/4, 2/4; signs agree by 3/3, 1/3 and 1/3.
    np.testing.assert_allclose(told.agreement, [1, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(told.vector, [6 / 4, 1 / 6, 1 / 6], rtol=1e-6)


def test_nobody_counts_by_a_long_vector_or_many_examples() -> None:
    honest = [Contribution.of(np.ones(4, np.float32), 10) for _ in range(4)]
    long = combine([*honest, Contribution.of(np.full(4, 1000, np.float32), 10)], 0.4)
    np.testing.assert_allclose(long.vector, (4 + 3) / 5)
    many = combine([*honest, Contribution.of(np.full(4, 2, np.float32), 1 << 24)], 0.4)
    np.testing.assert_allclose(many.vector, (40 + 2 * 30) / 70)


def test_a_minority_that_flips_signs_only_shrinks() -> None:
    honest = some_vectors(1)[0]
    told = combine([Contribution.of(honest, 1)] * 4 + [Contribution.of(-honest, 1)], 0.7)
    np.testing.assert_allclose(told.vector, honest * np.float32(0.6 * 0.6), rtol=1e-5, atol=1e-7)


def test_neighbours_are_added_by_similarity() -> None:
    vectors = [np.array([value], np.float32) for value in (1, 2, 4)]
    tasks = [Combined(vector, np.array([0.5], np.float32)) for vector in vectors]
    similarities = np.array([[0, 0.75, 0.5], [0.75, 0, 0.9], [0.5, 0.9, 0]], np.float32)
    mixed = mix(tasks, similarities, neighbours=2, least=0.6)
    # 1 + ½ · 0.75 · 2;  2 + ½ · (0.9 · 4 + 0.75 · 1) / 2;  4 + ½ · 0.9 · 2
    np.testing.assert_allclose([m[0] for m in mixed], [1.75, 3.0875, 4.9], rtol=1e-6)
    assert [m[0] for m in mix(tasks, similarities, neighbours=1, least=0.95)] == [1, 2, 4]
