"""Deadlines: patience until something is known, then what the arrivals teach."""

import pytest

from shoal.gossip.deadlines import LONGEST, SLOWER, WINDOW, Deadline, Progress, bulk_seconds, median


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


def test_bulk_may_take_what_the_slowest_line_needs_until_it_is_known_how_long_it_takes() -> None:
    usual = Deadline(LONGEST, floor=15.0)
    assert bulk_seconds(100.0, 8000.0, usual, 15.0) == 15.0
    assert bulk_seconds(8e5, 8000.0, usual, 15.0) == 100.0
    assert bulk_seconds(8e9, 8000.0, usual, 15.0) == LONGEST
    for _ in range(3):
        usual.observe(20.0)
    assert bulk_seconds(8e9, 8000.0, usual, 15.0) == SLOWER * 40.0


def test_bytes_renew_patience_as_far_as_they_may_take_time() -> None:
    progress = Progress(0.0, 15.0, 100.0, 1000)
    progress.moved(500, 0.0)
    assert progress.due == 15.0
    progress.moved(50, 10.0)
    assert progress.due == 20.0
    progress.moved(500, 19.0)
    assert progress.due == 19.0 + 15.0


def test_what_moves_as_fast_as_it_must_is_never_late_and_what_is_slower_is() -> None:
    for rate, ends in ((10, 115.0), (9, 115.0), (5, 30.0), (1, 17.0)):
        progress, now = Progress(0.0, 15.0, 100.0, 1000), 0.0
        while now < progress.due:
            now += 1.0
            progress.moved(rate, now)
        assert now == pytest.approx(ends, abs=1.1), rate
        assert progress.is_spent == (rate > 8)
