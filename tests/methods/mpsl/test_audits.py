"""Two holders of one body that say unlike things of the same examples: the liar is named, or both are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from few_pairs import Few
from lockstep import names

from shoal.gossip.calls.asks import Refusal, Reply
from shoal.methods.base import Steps
from shoal.methods.mpsl.asked import Known
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL, MPSLConfig

A, B, C, D = names(4)
Told = Mapping[str, np.ndarray[Any, Any]]


def other_outputs(told: Told) -> Told:
    return {**told, "y": told["y"] * 1.02} if "v" in told else told


def other_version(told: Told) -> Told:
    return {**told, "y": told["y"] * 1.02, "v": told["v"] + 1} if "v" in told else told


@dataclass(frozen=True)
class Lying(MPSL):
    """A method of which some nodes lie where they are asked for outputs."""

    liars: list[Any] = field(default_factory=list)
    """Their learners."""
    lie: Callable[[Told], Told] = other_outputs

    def serve(self, learner: Any, role: str) -> Steps[None]:
        serving, given = MPSL.serve(self, learner, role), None
        while True:
            ask = serving.send(given)
            if isinstance(ask, Reply) and learner in self.liars:
                ask = Reply(
                    tuple((each, t if isinstance(t, Refusal) else self.lie(t)) for each, t in ask.answers)
                )
            given = yield ask


def known_after_a_round(
    liars: tuple[str, ...] = (),
    hosts: int = 1,
    stages: int = 1,
    lie: Any = other_outputs,
    number: Any = "float16",
) -> dict[str, Known]:
    """Return what each client came to know of hosts that hold the same body."""
    method = Lying(
        MPSLConfig(steps=4, average_every=1 if hosts == 1 else 4, stages=stages, number=number), lie=lie
    )
    run = SplitRun(method, [Few(f"{i + 1}/4") for i in range(4)], hosts)
    method.liars.extend(run.learners[peer] for peer in run.peers if peer in liars)
    for report in run.round():
        assert report.steps == 4
    return {peer: learner.split_client.known for peer, learner in run.learners.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("hosts", "stages"), [(1, 1), (2, 1), (1, 2)])
def test_honest_holders_say_the_same(hosts: int, stages: int, number: str) -> None:
    for known in known_after_a_round(hosts=hosts, stages=stages, number=number).values():
        assert len(known.audited) == 2
        assert known.problem == ""


@pytest.mark.parametrize("liar", [A, B])
def test_of_three_holders_the_liar_is_named_and_asked_last(liar: str) -> None:
    for known in known_after_a_round((liar,), hosts=2).values():
        assert known.wrong == {liar}
        assert known.problem.startswith(f"{liar}: answered as no honest host")


def test_of_two_both_are_named_since_nobody_can_tell() -> None:
    for known in known_after_a_round((A,)).values():
        assert known.wrong == set()
        assert known.problem.startswith(f"{A} and {B}: return unlike outputs of the same body")


def test_one_that_says_it_holds_another_body_is_not_compared() -> None:
    for known in known_after_a_round((A,), lie=other_version).values():
        assert (known.audited, known.problem) == ({}, "")
