"""Ballots: who may speak about whom, and how many it takes."""

import numpy as np
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.methods.matu.ballots import Cells, accused, is_mixing_harmful, read_ballot, write_ballot

A, B, C, D, OUTSIDER = map(PeerId, "abcdo")
TASK, SMALL = b"t" * 16, b"s" * 16
CELLS = Cells.of({TASK: [D, A, B, C], SMALL: [A, B]})


def ballots(**accusing: str) -> list[tuple[PeerId, np.ndarray]]:
    """Return the ballots of voters, each with the holders of the task whom it accuses."""
    return [
        (
            PeerId(voter),
            read_ballot(write_ballot(CELLS, {(TASK, PeerId(p)) for p in against}, mixing_harms=False), CELLS),
        )
        for voter, against in accusing.items()
    ]


def test_only_tasks_with_three_holders_are_voted_on_in_an_order_that_all_know() -> None:
    assert CELLS.cells == ((TASK, A), (TASK, B), (TASK, C), (TASK, D))
    assert Cells.of({SMALL: [B, A], TASK: [A, C, D, B]}).cells == CELLS.cells


def test_more_than_half_of_the_others_leave_one_out() -> None:
    assert accused(CELLS, ballots(a="d", b="d", c="", d="")) == {(TASK, D)}
    assert accused(CELLS, ballots(a="d", b="", c="", d="")) == set()
    # Two of three others; with one of them silent, one of two is not more than half.
    assert accused(CELLS, ballots(a="d", b="", d="")) == set()


def test_nobody_counts_for_himself_or_on_tasks_he_does_not_hold() -> None:
    assert accused(CELLS, ballots(a="d", d="d", c="", b="")) == set()
    assert accused(CELLS, ballots(o="abcd")) == set()


def test_a_liar_cannot_leave_the_others_out() -> None:
    assert accused(CELLS, ballots(a="", b="", c="", d="abc")) == set()


def test_without_ballots_nobody_is_left_out() -> None:
    assert accused(CELLS, []) == set()
    assert not is_mixing_harmful([])


@pytest.mark.parametrize(("harmed", "voters", "expected"), [(2, 3, True), (1, 2, False), (1, 3, False)])
def test_mixing_is_left_out_when_more_than_half_find_it_harmful(
    harmed: int, voters: int, expected: bool
) -> None:
    cast = [
        (PeerId(str(i)), read_ballot(write_ballot(CELLS, set(), mixing_harms=i < harmed), CELLS))
        for i in range(voters)
    ]
    assert is_mixing_harmful(cast) is expected


@pytest.mark.parametrize("body", [b"", bytes(2), b"\xff"])
def test_a_ballot_on_other_cells_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteViolation):
        read_ballot(body, CELLS)
