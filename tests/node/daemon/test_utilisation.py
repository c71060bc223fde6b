"""Utilisation: counted from the end of the first round on, and never more than the time there was."""

import pytest

from shoal.node.daemon.utilisation import Utilisation


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_there_is_no_share_before_a_second_round_has_ended(clock: Clock) -> None:
    counted = Utilisation(clock)
    assert counted.share is None
    counted.round_ended(50.0)
    assert counted.share is None


def test_what_was_waited_at_the_start_is_no_part_of_it(clock: Clock) -> None:
    counted = Utilisation(clock)
    clock.now += 60
    counted.round_ended(1.0)
    clock.now += 10
    counted.round_ended(4.0)
    clock.now += 10
    counted.round_ended(8.0)
    assert (counted.work_seconds, counted.wall_seconds, counted.share) == (12.0, 20.0, 0.6)


def test_time_without_a_trainer_is_not_counted(clock: Clock) -> None:
    counted = Utilisation(clock)
    counted.round_ended(1.0)
    clock.now += 10
    counted.round_ended(5.0)
    counted.pause()
    clock.now += 1000
    counted.round_ended(3.0)
    assert counted.share == 0.5


@pytest.mark.parametrize(("said", "share"), [(1e9, 1.0), (-5.0, 0.0)])
def test_a_trainer_cannot_have_computed_longer_than_there_was_time(
    clock: Clock, said: float, share: float
) -> None:
    counted = Utilisation(clock)
    counted.round_ended(0.0)
    clock.now += 10
    counted.round_ended(said)
    assert counted.share == share
