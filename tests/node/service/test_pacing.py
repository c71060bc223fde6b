"""A trainer that keeps to a share of the time, by a clock that is only turned by it."""

import pytest

from shoal.node.service.pacing import MOST, SLICE, Clock, Pacer


class Line:
    """A node that waits after so many looks."""

    def __init__(self, looks: int = 10**9, *, by_interrupt: bool = False) -> None:
        self.looks, self.by_interrupt = looks, by_interrupt

    def is_hurried(self) -> bool:
        self.looks -= 1
        return self.looks < 0 and not self.by_interrupt

    def is_interrupted(self) -> bool:
        return self.looks < 0 and self.by_interrupt


class Turned(Clock):
    def __init__(self) -> None:
        self.at = self.slept = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept += seconds


def train(share: float, steps: list[float], line: Line | None = None, wait: float = 0.0) -> Turned:
    """Make steps of so many seconds, with some waiting between them."""
    clock = Turned()
    pacer = Pacer(share, clock)
    for seconds in steps:
        clock.at += wait
        pacer.step_begins()
        clock.at += seconds
        pacer.step_ended(line or Line())
    return clock


@pytest.mark.parametrize(("share", "slept"), [(1.0, 0.0), (0.5, 3.0), (0.75, 1.0), (0.1, 27.0)])
def test_the_share_holds_over_the_steps(share: float, slept: float) -> None:
    assert train(share, [0.7, 0.01, 2.29]).slept == pytest.approx(slept)


def test_waiting_for_peers_is_neither_work_nor_rest() -> None:
    assert train(0.5, [1.0, 1.0], wait=100.0).slept == pytest.approx(2.0)


@pytest.mark.parametrize("by_interrupt", [False, True])
def test_who_is_waited_for_rests_no_longer(by_interrupt: bool) -> None:
    assert train(0.5, [10.0], Line(3, by_interrupt=by_interrupt)).slept == pytest.approx(3 * SLICE)


def test_a_step_that_slept_with_its_machine_is_not_made_up_for() -> None:
    assert train(0.5, [36_000.0]).slept == pytest.approx(MOST)


def test_an_end_without_a_beginning_is_nothing() -> None:
    clock = Turned()
    Pacer(0.5, clock).step_ended(Line())
    assert clock.slept == 0.0
