"""Hosts that answer within their forms, yet as no honest host does: each costs a client one step at most."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from few_pairs import Few
from lockstep import names

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import Refusal, Reply
from shoal.methods.base import Steps
from shoal.methods.mpsl.hosting import given_up
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL, MPSLConfig

A, B, C, D = names(4)
STEPS = 5
Told = Mapping[str, np.ndarray[Any, Any]]
LIES: dict[str, Callable[[str, Told], Told]] = {
    "fewer rows of outputs": lambda verb, told: {**told, "y": told["y"][:-1]} if "y" in told else told,
    "outputs of another width": lambda verb, told: {**told, "y": told["y"][:, :1]} if "y" in told else told,
    "outputs of no rows": lambda verb, told: {**told, "y": told["y"][:0]} if "y" in told else told,
    "outputs beyond use": lambda verb, told: (
        {**told, "y": np.full_like(told["y"], 3e38)} if "y" in told else told
    ),
    "fewer rows of gradients": lambda verb, told: {**told, "dz": told["dz"][:-1]} if "dz" in told else told,
    "gradients of fewer tokens": lambda verb, told: (
        {**told, "dz": told["dz"][:, :1]} if "dz" in told else told
    ),
    "gradients beyond use": lambda verb, told: (
        {**told, "dz": np.full_like(told["dz"], 3e38)} if "dz" in told else told
    ),
    "a step of no rows": lambda verb, told: {**told, "n": told["n"] * 0} if "n" in told else told,
    "a step of fewer rows than ours": lambda verb, told: (
        {**told, "n": told["n"] * 0 + 1} if "dz" in told else told
    ),
    "no number of rows": lambda verb, told: {**told, "n": told["n"][:0]} if "dz" in told else told,
}
OF_OUTPUTS = ("fewer rows of outputs", "outputs of no rows")
OF_GRADIENTS = ("fewer rows of gradients", "gradients of fewer tokens")


@dataclass(frozen=True)
class Lying(MPSL):
    """A method whose holders of one role lie."""

    liar: str = "host"
    lie: str = ""

    def serve(self, learner: Any, role: str) -> Steps[None]:
        serving, given = MPSL.serve(self, learner, role), None
        while True:
            ask = serving.send(given)
            if isinstance(ask, Reply) and role == self.liar:
                ask = Reply(
                    tuple(
                        (each, told if isinstance(told, Refusal) else LIES[self.lie](each.verb, told))
                        for each, told in ask.answers
                    )
                )
            given = yield ask


def lied_to(stages: int, liar: str, lie: str) -> SplitRun:
    config = MPSLConfig(number="float32", steps=STEPS, average_every=1000, stages=stages)
    return SplitRun(Lying(config, liar=liar, lie=lie), [Few(f"{i + 1}/4") for i in range(4)])


@pytest.mark.parametrize("lie", LIES)
def test_a_host_that_answers_wrongly_is_replaced_and_harms_nothing(lie: str) -> None:
    run = lied_to(1, "host", lie)
    reports = run.round()
    assert len(reports) == 4
    for report in reports:
        assert report.steps == STEPS - 1
        assert report.metrics["wrong_answers"] == 1
        assert report.metrics["accuracy"] > 0
    assert run.hosting(B).steps == STEPS - 1
    assert np.isfinite(run.states[A].params).all()
    assert set(run.play.acted.values()) == {1}


@pytest.mark.parametrize("lie", [*OF_OUTPUTS, *OF_GRADIENTS])
def test_a_later_stage_that_answers_wrongly_is_replaced(lie: str) -> None:
    run = lied_to(2, "host2", lie)
    reports = run.round()
    assert len(reports) == 4
    assert all(report.steps >= STEPS - 2 for report in reports)
    assert run.hosting(D, 1).steps >= STEPS - 2


def test_passes_of_whoever_calls_push_out_none_of_the_stage_before() -> None:
    honest, other, stranger, many = (PeerId(name) for name in ("honest", "other", "stranger", "many"))
    before = {honest, other}
    held = [(honest, b"1"), (stranger, b"1"), (many, b"1"), (many, b"2"), (other, b"1")]
    assert given_up(held, before) == (many, b"1")
    assert given_up([each for each in held if each[0] != many], before) == (stranger, b"1")
    assert given_up([(honest, b"1"), (other, b"1"), (other, b"2")], before) == (other, b"1")
    assert given_up([(honest, b"2"), (other, b"1")], before) == (honest, b"2"), "the oldest of equals"
