"""The baseline trains every share alone, for as many steps as it would take together."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from gossip.runspec import Scalar
from methods.learner import TorchLearner
from methods.task import load_task
from node.baseline import alone, beside, local_config
from node.testnet_plan import Plan, ShareAlone, task_options


def test_local_work_is_that_of_the_method() -> None:
    config = local_config(Plan(method="diloco", options={"steps": 7, "lr": 0.03, "batch_size": 8}))
    assert (config.steps, config.lr, config.batch_size) == (7, 0.03, 8)


def test_a_share_alone_reaches_what_plain_training_reaches() -> None:
    plan = Plan(nodes=2, rounds=3, options={"steps": 4, "lr": 0.1})
    learner = TorchLearner(load_task("digits", task_options(plan, 2)), seed=0)
    params = learner.initial
    for round_ in range(3):
        params = learner.train(params, steps=4, lr=0.1, batch_size=32, round_=round_).params
    assert list(alone(plan))[1] == ShareAlone(2, learner.evaluate(params)["accuracy"])
    assert not np.array_equal(params, learner.initial)


def test_what_the_paper_compares_with_is_run_by_all_shares_together() -> None:
    options: dict[str, Scalar] = {"batch_size": 64, "lr": 0.003}
    plan = Plan(nodes=3, rounds=4, method="fedln", options=options, task="digits_noisy")
    (found,) = beside(plan)
    assert (found.share, found.system) == (0, "FedAvg")
    shares = [share.accuracy for share in alone(plan)]
    assert found.accuracy > min(shares)
    assert list(beside(Plan(nodes=2, rounds=1))) == []


def test_a_share_without_labels_is_left_out_of_those_alone() -> None:
    plan = Plan(nodes=2, rounds=1, method="fedstar", task="digits_few_labels", task_options={"labelled": 0.0})
    assert list(alone(plan)) == []


@pytest.mark.slow
def test_as_a_program_it_prints_a_line_per_share() -> None:
    plan = msgspec.json.encode(Plan(nodes=3, rounds=2)).decode()
    found = subprocess.run(
        [sys.executable, "-m", "node.baseline", plan], capture_output=True, check=True, timeout=100
    )
    shares = [msgspec.json.decode(line, type=ShareAlone) for line in found.stdout.splitlines()]
    assert [share.share for share in shares] == [1, 2, 3]
    assert all(0.0 < share.accuracy < 1.0 for share in shares)


@pytest.mark.slow
def test_a_task_that_does_not_load_is_told_in_one_line() -> None:
    plan = msgspec.json.encode(Plan(task="nowhere.at_all:Task")).decode()
    found = subprocess.run(
        [sys.executable, "-m", "node.baseline", plan], capture_output=True, text=True, timeout=100
    )
    assert found.returncode == 1
    assert found.stderr.startswith("training alone failed: no module nowhere")
    assert found.stderr.count("\n") == 1
