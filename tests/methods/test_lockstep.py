"""The lockstep runner itself: what methods are tested by must be right first."""

import numpy as np
import pytest
from lockstep import names, run_round

from shoal.gossip.errors import GossipError, Mismatch, TooFew
from shoal.methods.base import Gathered, Steps, all_reduce, gather

A, B, C = names(3)


def averaging(
    value: float, weight: float = 1.0, discount: float = 1.0
) -> Steps[tuple[float, tuple[str, ...]]]:
    mean = yield from all_reduce(np.array([value], np.float32), weight=weight, discount=discount)
    return float(mean.vector[0]), mean.contributors


def patient(value: float) -> Steps[float]:
    try:
        return (yield from averaging(value))[0]
    except TooFew:
        return value


def test_everyone_gets_the_weighted_mean() -> None:
    ended = run_round({A: averaging(1, 1), B: averaging(5, 3)})
    assert ended.results == {A: (4, (A, B)), B: (4, (A, B))}


def test_a_peer_makes_itself_lighter() -> None:
    ended = run_round({A: averaging(1, 1), B: averaging(5, 30, discount=0.1)})
    assert ended.results == {A: (4, (A, B)), B: (4, (A, B))}


@pytest.mark.parametrize("discount", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_a_method_cannot_make_itself_heavier(discount: float) -> None:
    with pytest.raises(ValueError, match="discount is"):
        run_round({A: averaging(1, 1, discount)})


def test_everyone_gets_every_body() -> None:
    ended = run_round({peer: gather(peer.encode()) for peer in (C, A)})
    assert ended.results[A].bodies == ((A, b"peer000"), (C, b"peer002"))
    assert ended.results[A].bodies == ended.results[C].bodies
    assert (ended.results[A].me, ended.results[C].me) == (A, C)


def test_a_dropped_peer_is_in_no_mean() -> None:
    ended = run_round({A: averaging(1), B: averaging(2), C: averaging(30)}, drops={C: 0})
    assert ended.results == {A: (1.5, (A, B)), B: (1.5, (A, B))}


def test_a_failed_ask_is_thrown_in() -> None:
    ended = run_round({A: patient(1), B: averaging(2)}, failures={(A, 0): TooFew("x"), (B, 0): TooFew("y")})
    assert ended.results == {A: 1}
    assert isinstance(ended.failed[B], GossipError)


def test_our_own_faults_are_loud() -> None:
    def broken() -> Steps[None]:
        yield from averaging(1)
        raise KeyError

    with pytest.raises(KeyError):
        run_round({A: broken()})


def test_unlike_asks_are_answered_to_nobody() -> None:
    gate, examples = (gather(b"x", tag=tag) for tag in ("gate", "examples"))
    assert run_round({A: gate, B: gate_again()}).results.keys() == {A, B}
    ended = run_round({A: gate_again(), B: examples, C: averaging(1)})
    assert ended.failed.keys() == {A, B, C}
    assert {type(error) for error in ended.failed.values()} == {Mismatch}


def gate_again() -> Steps[Gathered]:
    return gather(b"y", tag="gate")
