"""Bounds: what follows from announcements, for any that could be announced."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.averaging.bounds import (
    NEWCOMER_CAP,
    Stated,
    agreed_base,
    cap_of,
    lower_median,
    terms,
    weights_of,
)

numbers = st.just(0.0) | st.floats(1e-15, 1e15)
members = st.lists(st.builds(Stated, numbers, numbers, st.booleans()), min_size=1, max_size=16)
discounts = st.floats(0, 1, exclude_min=True)


@given(members)
def test_no_weight_is_above_twice_the_median_claim(stated: list[Stated]) -> None:
    positive = [each.weight for each in stated if each.weight > 0]
    established = [each.weight for each in stated if each.weight > 0 and not each.is_newcomer] or positive
    for weight, each in zip(weights_of(stated), stated, strict=True):
        if positive:
            assert weight <= min(each.weight, 2 * lower_median(established))
            assert not each.is_newcomer or weight <= NEWCOMER_CAP * lower_median(established)
        else:
            assert weight == 1.0


@given(members, st.integers(0, 15), discounts)
def test_a_discount_makes_its_member_lighter_and_nobody_heavier(
    stated: list[Stated], number: int, discount: float
) -> None:
    number %= len(stated)
    before = weights_of(stated)
    lighter = [*stated[:number], replace(stated[number], discount=discount), *stated[number + 1 :]]
    after = weights_of(lighter)
    assert after[:number] == before[:number]
    assert after[number + 1 :] == before[number + 1 :]
    assert after[number] <= before[number]
    assert sum(after) > 0


def test_a_discount_counts_after_the_cap_and_no_median_knows_of_it() -> None:
    stated = [Stated(100.0, 1.0), *(Stated(100.0, 1.0, discount=0.1) for _ in range(3)), Stated(1e15, 1.0)]
    assert weights_of(stated) == pytest.approx([100, 10, 10, 10, 200])
    assert weights_of([Stated(0.0, 1.0, discount=0.5), Stated(0.0, 1.0)]) == [0.5, 1.0]


@given(members)
def test_no_sum_of_vectors_of_the_announced_norms_is_beyond_the_bound(stated: list[Stated]) -> None:
    made = terms(stated)
    assert sum(made.weights) == pytest.approx(1.0)
    # The worst case: all point the same way.
    largest = sum(share * each.norm for share, each in zip(made.shares, stated, strict=True))
    assert largest == pytest.approx(made.bound, rel=1e-9, abs=1e-30)
    assert made.bound <= cap_of(stated) * (1 + 1e-9)


@given(members, st.integers(0, 15), numbers, numbers)
def test_one_of_three_or_more_moves_the_bound_only_within_what_the_others_announce(
    stated: list[Stated], liar: int, weight: float, norm: float
) -> None:
    # Who claims no weight has no say: of those alone that claim some there must be two more.
    honest = [Stated(each.weight, each.norm) for each in stated if each.weight > 0]
    if len(honest) < 2:
        return
    liar %= len(honest) + 1
    lying = [*honest[:liar], Stated(weight, norm), *honest[liar:]]
    assert terms(lying).bound <= max(each.norm for each in honest) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("norms", "cap"), [([3.0], 3.0), ([1.0, 5.0], 1.0), ([9.0, 1.0, 4.0], 4.0), ([1.0, 2.0, 3.0, 4.0], 2.0)]
)
def test_norms_are_capped_at_the_lower_median(norms: list[float], cap: float) -> None:
    assert cap_of([Stated(1.0, norm) for norm in norms]) == cap


def test_newcomers_have_no_say_in_medians_where_there_are_others() -> None:
    crowd = [Stated(1e9, 1e9, is_newcomer=True)] * 3
    stated = [Stated(1.0, 2.0), Stated(1.0, 2.0), *crowd]
    assert cap_of(stated) == 2.0
    assert weights_of(stated) == [1.0, 1.0, 0.25, 0.25, 0.25]


def test_who_has_nothing_to_add_is_scaled_by_nothing() -> None:
    made = terms([Stated(1.0, 0.0), Stated(1.0, 0.0)])
    assert np.isfinite(made.shares).all()
    assert made.bound == 0.0


@pytest.mark.parametrize(
    ("bases", "agreed"),
    [
        ([b"a", b"a", b"b"], b"a"),
        ([b"a", b"b"], b"b"),
        ([b"a", b""], b"a"),
        ([b"a", b"a", b"", b""], b"a"),
        ([b"a", b"b", b"c"], b""),
        ([b"", b"", b"", b"a"], b""),
        ([], b""),
    ],
)
def test_a_state_in_common_is_that_of_half_or_more(bases: list[bytes], agreed: bytes) -> None:
    assert agreed_base(bases) == agreed


@given(members, st.integers(1, 16))
def test_those_without_a_weight_cap_nobody(stated: list[Stated], n_idle: int) -> None:
    idle = [Stated(0.0, 0.0)] * n_idle
    if any(each.weight > 0 for each in stated):
        assert cap_of([*stated, *idle]) == cap_of([each for each in stated if each.weight > 0])
