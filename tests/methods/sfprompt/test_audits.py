"""A host that answers within its form, but not what the body gives, is found out, named and asked last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from few_pairs import Few
from lockstep import names

from shoal.gossip.calls.asks import Refusal, Reply
from shoal.methods.base import Steps
from shoal.methods.learning.learner import Callbacks
from shoal.methods.mpsl.asked import Known
from shoal.methods.mpsl.audits import LEAST, agree, is_due
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.sfprompt.method import SFPrompt, SFPromptConfig

A, B, C = names(3)
Told = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Lying(SFPrompt):
    """A method whose holders of one role lie a little about one verb."""

    liar: str = "host"
    verb: str = "forward"

    def serve(self, learner: Any, role: str) -> Steps[None]:
        serving, given = SFPrompt.serve(self, learner, role), None
        while True:
            ask = serving.send(given)
            if isinstance(ask, Reply) and role == self.liar:
                ask = Reply(
                    tuple(
                        (
                            each,
                            told if isinstance(told, Refusal) or each.verb != self.verb else lie(dict(told)),
                        )
                        for each, told in ask.answers
                    )
                )
            given = yield ask


def lie(told: Told) -> Told:
    return {**told, "b": told["b"] * 1.02}


def nodes(make: Callable[..., SFPrompt] = SFPrompt, number: Any = "float16", **lies: str) -> SplitRun:
    config = SFPromptConfig(number=number, rows=4, prompt=3, epochs=2, local_epochs=1)
    return SplitRun(make(config, **lies), [Few(f"{i + 1}/3") for i in range(3)])


class Heard(Callbacks):
    """Keeps what a node is to tell its owner."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def problem(self, source: str, text: str) -> None:
        self.told.append(text)


def told_problems(run: SplitRun) -> dict[str, list[str]]:
    """Return what each node is to tell its owner, as it comes."""
    told = dict[str, list[str]]()
    for peer, learner in run.learners.items():
        told[peer] = []
        learner.callbacks = Heard(told[peer])
    return told


def test_a_host_that_changes_what_it_returns_by_a_fiftieth_is_named_and_left() -> None:
    run = nodes(Lying)
    told = told_problems(run)
    for report in run.round():
        assert report.metrics["wrong_answers"] == 1
        assert report.metrics["unanswered"] == 1
    for peer in (A, B, C):
        known: Known = run.learners[peer].split_client.known  # type: ignore[attr-defined]
        assert known.wrong == {A}
        assert told[peer][-1].startswith(f"{A}: answered as no honest host of this model does")
    for report in run.round():
        assert "unanswered" not in report.metrics


def test_a_second_host_that_lies_does_not_bring_the_first_into_disrepute() -> None:
    run = nodes(Lying, liar="spare", verb="predict")
    for report in run.round():
        assert "unanswered" not in report.metrics
    for peer in (A, B, C):
        known: Known = run.learners[peer].split_client.known  # type: ignore[attr-defined]
        assert known.wrong == {B}


@pytest.mark.parametrize("number", ["float32", "float16", "int8"])
def test_honest_hosts_agree_however_numbers_travel(number: str) -> None:
    run = nodes(number=number)
    told = told_problems(run)
    for _ in range(2):
        assert all("wrong_answers" not in report.metrics for report in run.round())
    known: Known = run.learners[C].split_client.known  # type: ignore[attr-defined]
    assert known.audited[A] >= 2
    assert not any(told[C])
    asked = run.played[0].calls
    assert 3 <= asked["predict"] - 3 * len(run.learners[C].split_client.test_rows(4)) <= asked["forward"]  # type: ignore[attr-defined]


def test_the_first_step_of_a_host_is_audited_and_later_ones_seldom() -> None:
    def audited(known: Known) -> int:
        return sum(is_due(known, A, b"%d" % step) for step in range(1000))

    known = Known()
    assert audited(known) == 1000
    known.audited[A] = 1
    assert 400 < audited(known) < 600
    known.audited[A] = 50
    assert 0.5 * LEAST < audited(known) / 1000 < 2 * LEAST


def test_two_answers_agree_within_what_float16_changes() -> None:
    one = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    rounded = one.astype(np.float16).astype(np.float32)
    assert agree(one, rounded)
    assert agree(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
    assert not agree(one, one * 1.01)
    assert not agree(one, one[:7])


def test_a_frozen_second_host_costs_a_client_one_deadline() -> None:
    config = SFPromptConfig(rows=4, prompt=3, epochs=2, local_epochs=1)
    run = SplitRun(SFPrompt(config), [Few(f"{i + 1}/3") for i in range(3)], silent={B: 0})
    for _ in range(2):
        assert all("unanswered" not in report.metrics for report in run.round())
    assert [played.deadlines for played in run.played] == [3, 0]
