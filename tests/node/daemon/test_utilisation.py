"""Utilisation: counted from the end of the first round on, and never more than the time there was."""

import pytest

from shoal.node.daemon.utilisation import Utilisation


def test_there_is_no_share_before_a_second_round_has_ended() -> None:
    counted = Utilisation()
    assert counted.share is None
    counted.round_ended(50.0, now=100.0)
    assert counted.share is None


def test_what_was_waited_at_the_start_is_no_part_of_it() -> None:
    counted = Utilisation()
    counted.round_ended(1.0, now=160.0)
    counted.round_ended(4.0, now=170.0)
    counted.round_ended(8.0, now=180.0)
    assert (counted.work_seconds, counted.wall_seconds, counted.share) == (12.0, 20.0, 0.6)


def test_time_without_a_trainer_is_not_counted() -> None:
    counted = Utilisation()
    counted.round_ended(1.0, now=100.0)
    counted.round_ended(5.0, now=110.0)
    counted.pause()
    counted.round_ended(3.0, now=1110.0)
    assert counted.share == 0.5


@pytest.mark.parametrize(("said", "share"), [(1e9, 1.0), (-5.0, 0.0)])
def test_a_trainer_cannot_have_computed_longer_than_there_was_time(said: float, share: float) -> None:
    counted = Utilisation()
    counted.round_ended(0.0, now=100.0)
    counted.round_ended(said, now=110.0)
    assert counted.share == share
