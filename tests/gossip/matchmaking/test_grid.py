"""Groups that mix over rounds: exact on a full grid, as theory says for random groups, and under churn."""

from random import Random
from statistics import fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.matchmaking.grid import axes, deal


def random_groups(peers: list[int], group_size: int, dice: Random) -> list[list[int]]:
    shuffled = dice.sample(peers, len(peers))
    count = -(-len(peers) // group_size)
    return [shuffled[first::count] for first in range(count)]


def average(values: dict[int, float], groups: list[list[int]]) -> None:
    for group in groups:
        mean = fmean(values[peer] for peer in group)
        values.update(dict.fromkeys(group, mean))


def variances(
    peers: int, group_size: int, rounds: int, seed: int, *, on_grid: bool = True, moves: int = 0
) -> list[float]:
    """Return the variance between peers after every round, relative to that at the start.

    `moves`: so many peers a round leave, and come back elsewhere in the order.
    """
    dice = Random(seed)
    values = {peer: dice.gauss(0, 1) for peer in range(peers)}
    places = {peer: dice.random() for peer in values}
    first = pvariance(values.values())
    found = []
    for round_ in range(rounds):
        places.update((peer, dice.random()) for peer in dice.sample(sorted(places), moves))
        order = sorted(places, key=lambda peer: places[peer])
        average(
            values, deal(order, round_, group_size) if on_grid else random_groups(order, group_size, dice)
        )
        found.append(pvariance(values.values()) / first)
    return found


def expected(peers: int, group_size: int, rounds: int, **options: int | bool) -> list[float]:
    runs = [variances(peers, group_size, rounds, seed, **options) for seed in range(60)]  # type: ignore[arg-type]
    return [fmean(each) for each in zip(*runs, strict=True)]


@given(st.integers(1, 300), st.integers(2, 64), st.integers(0, 50))
def test_everyone_is_in_one_group_and_groups_are_as_equal_as_can_be(
    peers: int, group_size: int, round_: int
) -> None:
    groups = deal(range(peers), round_, group_size)
    assert sorted(peer for group in groups for peer in group) == list(range(peers))
    sizes = {len(group) for group in groups}
    assert len(groups) == -(-peers // group_size)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= group_size


def test_nine_peers_in_threes_meet_along_rows_and_columns() -> None:
    rows = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    columns = [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert [deal(range(9), round_, 3) for round_ in range(4)] == [rows, columns, rows, columns]


@pytest.mark.parametrize(("group_size", "dimensions"), [(2, 5), (3, 2), (3, 3), (4, 3), (8, 2)])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_a_full_grid_holds_the_exact_mean_after_as_many_rounds_as_it_has_axes(
    group_size: int, dimensions: int, first: int
) -> None:
    peers = group_size**dimensions
    assert axes(peers, group_size) == dimensions
    # Bit sets instead of numbers: who is in whose mean, and how often.
    holds = {peer: {peer: 1} for peer in range(peers)}
    for round_ in range(first, first + dimensions):
        before = dict(holds)
        for group in deal(range(peers), round_, group_size):
            counts: dict[int, int] = {}
            for peer in group:
                for origin, count in before[peer].items():
                    counts[origin] = counts.get(origin, 0) + count
            holds.update((peer, counts) for peer in group)
    everyone = dict.fromkeys(range(peers), 1)
    assert all(held == everyone for held in holds.values())


@pytest.mark.parametrize(("peers", "exact_after"), [(64, 2), (256, 3)])
def test_the_error_falls_along_the_axes_as_theory_says(peers: int, exact_after: int) -> None:
    """After k rounds a value is the mean of 8^k of N: of the variance, (N / 8^k - 1) / (N - 1) is left."""
    measured = expected(peers, 8, exact_after)
    for round_, left in enumerate(measured[:-1], 1):
        assert left == pytest.approx((peers / 8**round_ - 1) / (peers - 1), rel=0.15)
    assert measured[-1] < 1e-25


@pytest.mark.parametrize("peers", [64, 256])
def test_random_groups_contract_by_the_number_of_groups_and_are_slower(peers: int) -> None:
    factor = (peers / 8 - 1) / (peers - 1)
    measured = expected(peers, 8, 3, on_grid=False)
    assert measured == pytest.approx([factor, factor**2, factor**3], rel=0.3)
    assert expected(peers, 8, 3)[2] < 1e-3 * measured[2]


@pytest.mark.parametrize("peers", [64, 256])
@pytest.mark.parametrize("share", [32, 16])
def test_with_churn_the_grid_is_still_no_slower_than_random_groups(peers: int, share: int) -> None:
    """In every round one of `share` peers leaves and another comes, anywhere on the grid."""
    churned = expected(peers, 8, 3, moves=peers // share)
    still_random = expected(peers, 8, 3, on_grid=False, moves=peers // share)
    assert churned[1] < 0.9 * still_random[1]
    assert churned[2] < 0.5 * still_random[2]


@pytest.mark.parametrize("peers", [9, 12, 20, 30, 72, 100, 200, 300])
def test_a_grid_with_holes_is_faster_than_random_groups(peers: int) -> None:
    rounds = axes(peers, 8) + 1
    assert expected(peers, 8, rounds)[-1] < 0.3 * expected(peers, 8, rounds, on_grid=False)[-1]
