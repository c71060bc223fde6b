"""Deadlines: patience until something is known, then what the arrivals teach."""

import pytest

from shoal.gossip.deadlines import WINDOW, Deadline, median


def learned(*seconds: float, patience: float = 15.0, floor: float = 0.5) -> Deadline:
    deadline = Deadline(patience, floor)
    for each in seconds:
        deadline.observe(each)
    return deadline


def test_patience_holds_until_enough_is_known() -> None:
    assert learned().seconds() == 15.0
    assert learned(1.0, 1.0).seconds() == 15.0
    assert learned(1.0, 1.0, 1.0).seconds() == 2.0


def test_a_deadline_is_the_median_and_six_times_the_spread() -> None:
    # Median 2, distances from it 1, 0, 1: their median is 1.
    assert learned(1.0, 2.0, 3.0).seconds() == 2.0 + 6 * 1.0


def test_one_straggler_among_many_hardly_moves_it() -> None:
    assert learned(1.0, 1.1, 0.9, 1.0, 1.1, 14.0).seconds() < 2.5


def test_it_never_exceeds_patience_nor_falls_below_its_floor() -> None:
    assert learned(14.0, 14.0, 14.0).seconds() == 15.0
    assert learned(0.0, 0.0, 0.0).seconds() == 0.5
    assert learned(1e9, -1e9, 1e9).seconds() <= 15.0


def test_it_follows_a_network_that_has_become_slow_within_half_a_window() -> None:
    deadline = learned(*[0.2] * WINDOW)
    for _ in range(WINDOW // 2 + 1):
        deadline.observe(4.0)
    assert deadline.seconds() >= 8.0


def test_who_is_missed_again_and_again_is_waited_for_longer_each_time() -> None:
    deadline = learned(0.5, 0.5, 0.5)
    waits = []
    for _ in range(5):
        waits.append(deadline.seconds())
        deadline.miss()
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0]
    for _ in range(6):
        deadline.observe(0.5)
    assert deadline.seconds() == 1.0, "and shorter again once nobody is missed"


@pytest.mark.parametrize(("values", "middle"), [([3.0], 3.0), ([4.0, 1.0], 2.5), ([9.0, 1.0, 2.0], 2.0)])
def test_the_median_is_the_middle(values: list[float], middle: float) -> None:
    assert median(values) == middle
