"""Exact 1-D k-means: the best clusters, and the same bytes wherever it runs."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from shoal.gossip.events import Vector
from shoal.methods.coding.kmeans1d import MAX_POINTS, Clusters, cluster


def cost(values: Vector, clustered: Vector) -> float:
    return float(np.square(values.astype(np.float64) - clustered).sum())


def random_vector(seed: int) -> Vector:
    dice = np.random.default_rng(seed)
    values = dice.standard_normal(int(dice.integers(40, 800))) * 10.0 ** dice.integers(-5, 2)
    if seed % 3 == 0:
        values = np.concatenate([values, 3 * values + 1])
    return values.astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_no_cost_is_above_that_of_ten_starts_of_lloyd(seed: int) -> None:
    values, k = random_vector(seed), 2 + (7 * seed) % 31
    lloyd = KMeans(k, n_init=10, random_state=0).fit(values[:, None].astype(np.float64))
    assert cost(values, cluster(values, k).values) <= lloyd.inertia_ * (1 + 1e-6)


def test_by_hand() -> None:
    found = cluster(np.array([10, 1, 2, 11, 30], np.float32), 3)
    assert found.codebook.tolist() == [1.5, 10.5, 30]
    assert found.indices.tolist() == [1, 0, 0, 1, 2]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9), st.integers(1, 4))
def test_no_other_cut_into_intervals_is_better(numbers: list[int], k: int) -> None:
    values = np.array(sorted(numbers), np.float32)
    exact = values.astype(np.float64)

    def best(start: int, left: int) -> float:
        if start == len(values):
            return 0.0
        if left == 0:
            return float("inf")
        return min(
            float(np.square(exact[start:end] - exact[start:end].mean()).sum()) + best(end, left - 1)
            for end in range(start + 1, len(values) + 1)
        )

    assert cost(values, cluster(values, k).values) <= best(0, k) + 1e-3


def test_few_values_come_back_as_they_are() -> None:
    values = np.array([1e-30, 3.3, -7.7, 3.3], np.float32)
    assert np.array_equal(cluster(values, 3).values, values)
    assert cluster(np.zeros(500, np.float32), 8).codebook.tolist() == [0.0]


def test_a_negative_zero_is_a_zero() -> None:
    found = Clusters.of(np.array([-0.0, 0.0], np.float32))
    assert found is not None
    assert found.codebook.tobytes() == bytes(4)


def test_many_distinct_values_are_put_in_bins_at_hardly_any_cost() -> None:
    values = np.random.default_rng(0).standard_normal(40 * MAX_POINTS).astype(np.float32)
    found = cluster(values, 8)
    lloyd = KMeans(8, n_init=1, random_state=0).fit(values[:, None].astype(np.float64))
    assert found.codebook.size == 8
    assert cost(values, found.values) <= lloyd.inertia_ * (1 + 1e-4)


def test_two_processes_give_the_same_bytes() -> None:
    code = (
        "import hashlib, numpy as np; from shoal.methods.coding.kmeans1d import cluster;"
        "v = np.random.default_rng(3).standard_normal(5000).astype(np.float32); c = cluster(v, 16);"
        "print(hashlib.sha256(c.codebook.tobytes() + c.indices.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("k", [0, 257])
def test_a_number_of_clusters_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 256"):
        cluster(np.zeros(3, np.float32), k)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        cluster(np.array([1, np.nan], np.float32), 2)
