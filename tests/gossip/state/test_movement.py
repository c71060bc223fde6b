"""How far rounds move a state, and which state of others may be taken over."""

from typing import Any

import numpy as np
import pytest

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.movement import LEAST_KNOWN, MAX_APART, MAX_KNOWN, Movements, is_finite

SPEC = RunSpec(
    method="m",
    task="t",
    tensors=(TensorSpec("w", "float32", (6,)),),
    shared=(TensorSpec("momentum", "float32", (2,)),),
    buffers=2,
)
"""Numbers 0 to 3 are params, 4 and 5 buffers, 6 and 7 a shared vector."""
ORIGIN: Vector = np.zeros(8, np.float32)


def state(params: float = 0.0, buffers: float = 0.0, shared: float = 0.0) -> Vector:
    """Return a state that is so far away from the origin, in each piece."""
    found = ORIGIN.copy()
    found[0], found[4], found[6] = params, buffers, shared
    return found


def movements(*past: tuple[float, float, float]) -> Movements:
    return Movements(SPEC, past or ((1.0, 0.5, 2.0),) * LEAST_KNOWN)


def test_a_movement_is_measured_by_piece() -> None:
    assert movements().between(ORIGIN, state(3.0, 4.0, 5.0)) == (3.0, 4.0, 5.0)
    assert movements().between(state(1.0), state(1.0)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("place", [0, 4, 5, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_wherever_it_stands(place: int, value: float) -> None:
    bad = ORIGIN.copy()
    bad[place] = value
    assert movements().between(ORIGIN, bad) is None
    assert movements().objection(ORIGIN, bad, 50) == "it has numbers that are not finite"
    # Also by who has no measure yet.
    assert Movements(SPEC).objection(ORIGIN, bad, 50)
    assert not is_finite(bad)


def test_numbers_in_later_strides_are_looked_at() -> None:
    long: Any = np.zeros((1 << 20) + 5, np.float32)
    assert is_finite(long)
    long[-1] = np.nan
    assert not is_finite(long)


@pytest.mark.parametrize(
    ("far", "apart", "is_taken"),
    [
        (state(4.0), 0, True),
        (state(4.1), 0, False),
        (state(4.1), 1, True),
        (state(buffers=2.1), 0, False),
        (state(shared=8.1), 0, False),
        (state(40.0, 20.0, 80.0), 9, True),
        (state(4.0 * (MAX_APART + 1)), 10 * MAX_APART, True),
        (state(4.0 * (MAX_APART + 2)), 10 * MAX_APART, False),
        (state(1e38), MAX_APART, False),
    ],
)
def test_a_state_may_be_four_median_movements_away_for_every_round_apart_and_one(
    far: Vector, apart: int, is_taken: bool
) -> None:
    assert (not movements().objection(ORIGIN, far, apart)) is is_taken


def test_the_median_is_of_the_last_rounds_and_one_wild_round_does_not_move_it() -> None:
    known = movements((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1e9, 0.0, 0.0))
    assert known.objection(ORIGIN, state(5.0), 0)
    for _ in range(MAX_KNOWN + 10):
        known.note((2.0, 0.0, 0.0))
    assert known.past == ((2.0, 0.0, 0.0),) * MAX_KNOWN
    assert not known.objection(ORIGIN, state(7.0), 0)


def test_a_piece_that_never_moves_may_not_be_moved() -> None:
    known = movements(*[(1.0, 0.0, 1.0)] * 3)
    assert "buffers" in known.objection(state(buffers=1.0), state(buffers=1.1), 5)
    assert not known.objection(state(buffers=1.0), state(1.0, buffers=1.0), 5)


def test_who_has_no_measure_yet_takes_what_is_finite() -> None:
    for known in (Movements(SPEC), Movements(SPEC, [(1.0, 1.0, 1.0)] * 2), movements(*[(0.0, 0.0, 0.0)] * 9)):
        assert not known.objection(ORIGIN, state(1e6), 0)


def test_what_a_file_has_of_another_kind_is_left_out() -> None:
    assert Movements(SPEC, [(1.0,), (float("inf"), 0.0, 0.0), (1.0, 2.0, 3.0)]).past == ((1.0, 2.0, 3.0),)
