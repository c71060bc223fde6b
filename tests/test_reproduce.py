"""Figures of docs/methods: each command runs, chooses on validation data, and reports test data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scripts.reproduce import BEGIN, END, STUDIES, main, study_of
from scripts.reproduction import (
    PUT_ASIDE,
    Case,
    Study,
    System,
    choose,
    difference,
    differing,
    outcomes,
)
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedprox import FedProx, FedProxConfig
from shoal.methods.learning.task import Task, load_task
from shoal.methods.registry import METHODS
from shoal.methods.tasks.tables import Tables


def tables(seed: int, validation: float) -> list[Task]:
    del validation
    return [load_task("tables", {"share": f"{i}/3", "seed": seed}) for i in (1, 2, 3)]


CASE = Case("tables", tables, 2)


def fedavg(*rates: float) -> System:
    return System(tuple(FedAvg(FedAvgConfig(steps=3, lr=lr)) for lr in rates))


def test_every_method_has_a_study() -> None:
    assert set(STUDIES) == set(METHODS)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_system_of_a_study_has_as_many_candidates(name: str) -> None:
    study = study_of(name)
    for case in study.cases:
        systems = study.systems(case)
        assert len({len(system.candidates) for system in systems.values()}) == 1
        assert {each for pair in study.beside for each in pair} <= set(systems)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_has_a_second_data_set(name: str) -> None:
    assert len({case.data for case in study_of(name).cases}) >= 2


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_case_has_validation_data_that_is_not_trained_on_when_choosing(name: str) -> None:
    for case in study_of(name).cases:
        choosing, measuring = case.tasks(0, PUT_ASIDE), case.tasks(0, 0.0)
        for before, after in zip(choosing, measuring, strict=True):
            for task in before.parts().values() or [before]:
                assert task.validation_data() is not None
            assert before.test_data() is None or before.test_data()[0].equal(after.test_data()[0])  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_command_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--tiny", "--seeds", "1", "--out", str(tmp_path)]) == 0
    page = (tmp_path / f"{name}.md").read_text("utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert {line["case"] for line in lines} == {case.name for case in study_of(name).tiny.cases}
    assert all(0 <= metrics["accuracy"] <= 1 for line in lines for metrics in line["metrics"])


def test_the_candidate_that_is_best_on_validation_data_is_measured_on_test_data() -> None:
    study = Study([CASE], lambda _: {"FedAvg": fedavg(1e-6, 0.3), "other": fedavg(0.3, 1e-6)}, [])
    found = {system: outcome for _, system, outcome in outcomes(study, [0, 1])}
    assert found["FedAvg"].chosen == found["other"].chosen == "lr 0.3"
    assert found["FedAvg"].metrics == found["other"].metrics
    assert len(found["FedAvg"].metrics) == 2
    assert found["FedAvg"].metrics[0]["accuracy"] != found["FedAvg"].validation


def test_test_data_have_no_say_in_the_choice() -> None:
    def spoiled(seed: int, validation: float) -> list[Task]:
        tasks = tables(seed, validation)
        for task in tasks:
            x, y = task._test  # type: ignore[attr-defined]
            task._test = x, 1 - y  # type: ignore[attr-defined]
        return tasks

    system = fedavg(1e-6, 0.03, 0.3)
    assert choose(system, CASE) == choose(system, Case("spoiled", spoiled, 2))


class Diverging(Tables):
    """Its loss is no number."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, batch) * float("nan")


def test_a_candidate_that_diverges_reaches_nothing() -> None:
    case = Case("diverging", lambda _seed, _validation: [Diverging()], 1)
    assert choose(fedavg(0.1, 0.2), case)[1] == 0.0


def test_what_candidates_differ_in_is_told_and_nothing_else() -> None:
    first, second = (FedProx(FedProxConfig(lr=0.1, mu=mu)) for mu in (0.01, 0.1))
    assert differing(first, [first, second]) == "mu 0.01"
    assert differing(first, [first]) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ([0.9, 0.92], [0.8, 0.82], "+10.0 ± 1.4"),
        ([0.8, 0.82], [0.9, 0.92], "-10.0 ± 1.4"),
        ([0.90, 0.94], [0.89, 0.93], "none (+1.0 ± 2.8)"),
        ([0.9, 0.9], [0.9, 0.9], "none (+0.0 ± 0.0)"),
        ([0.9], [0.8], "+10.0, one seed"),
    ],
)
def test_a_difference_within_the_spread_is_none(
    ours: Sequence[float], theirs: Sequence[float], words: str
) -> None:
    assert difference(ours, theirs) == words
