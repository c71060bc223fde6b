"""Caps: nobody counts more than the median of a group allows, and half of it cannot raise that."""

import numpy as np
import pytest

from shoal.gossip.policies.caps import cap, clip_to_median, longest_of, norm, shortened


def test_the_cap_is_three_times_the_median_of_those_who_count() -> None:
    assert [cap(counts) for counts in ([], [0], [5], [1, 2, 900], [0, 0, 4, 6], [7, 7, 7])] == [
        0, 0, 15, 6, 12, 21,
    ]  # fmt: skip


def test_no_vector_counts_more_than_three_median_norms() -> None:
    given = [np.full(4, size, np.float32) for size in (1, 1.5, 2, 1e6)]
    clipped = clip_to_median(given, 3)
    assert [norm(vector) for vector in clipped] == pytest.approx([2, 3, 4, 9])
    assert all(after is before for after, before in zip(clipped[:3], given, strict=False))


def test_half_of_a_group_does_not_raise_a_median() -> None:
    assert cap([10, 10, 10**9, 10**9], times=1) == 10
    assert longest_of([1.0, 2.0, 1e9, 1e9], 3.0) == 6.0
    vector = np.full(4, 2.0, np.float32)
    assert shortened(vector, 4.0, 4.0) is vector
    assert norm(shortened(vector, 4.0, 1.0)) == pytest.approx(1.0)
