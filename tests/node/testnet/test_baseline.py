"""The baseline trains every share alone, for as many steps as it would take together."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shoal.gossip.run_spec import Scalar
from shoal.methods.baselines import System
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.registry import method_names
from shoal.node.testnet.baseline import alone, beside, groups, local_config, run_system
from shoal.node.testnet.comparison import lines_expected
from shoal.node.testnet.plan import EACH_ALONE, Plan, ShareAlone, task_options

BASELINE = (sys.executable, "-P", "-m", "shoal.node.testnet.baseline")


def test_local_work_is_that_of_the_method() -> None:
    config = local_config(Plan(method="diloco", options={"steps": 7, "lr": 0.03, "batch_size": 8}), 100)
    assert (config.steps, config.lr, config.batch_size) == (7, 0.03, 8)


@pytest.mark.parametrize(
    ("method", "steps", "batch_size"), [("fedln", 3, 128), ("fedcompress", 30, 128), ("fedstar", 10, 32)]
)
def test_epochs_are_told_in_steps(method: str, steps: int, batch_size: int) -> None:
    config = local_config(Plan(method=method), 300, 310)
    assert (config.steps, config.batch_size) == (steps, batch_size)


def test_passes_without_and_with_a_host_count_both() -> None:
    config = local_config(Plan(method="sfprompt", options={"rows": 50, "epochs": 3, "local_epochs": 5}), 300)
    assert (config.steps, config.batch_size) == (8 * 6, 50)


@pytest.mark.parametrize("method", method_names())
def test_every_method_that_comes_with_shoal_has_its_local_work_told(method: str) -> None:
    assert local_config(Plan(method=method), 300, 310).steps >= 1


def test_a_share_alone_reaches_what_plain_training_reaches() -> None:
    plan = Plan(nodes=2, rounds=3, options={"steps": 4, "lr": 0.1})
    learner = TorchLearner(load_task("digits", task_options(plan, 2)), seed=0)
    params = learner.initial
    for round_ in range(3):
        params = learner.train(params, steps=4, lr=0.1, batch_size=32, round_=round_).params
    assert list(alone(plan))[1] == ShareAlone(2, learner.evaluate(params)["accuracy"])
    assert not np.array_equal(params, learner.initial)


@pytest.mark.slow
def test_what_the_paper_compares_with_is_run_by_all_shares_over_the_seeds() -> None:
    options: dict[str, Scalar] = {"batch_size": 64, "lr": 0.003}
    plan = Plan(nodes=3, rounds=4, seeds=2, seed=5, method="fedln", options=options, task="digits_noisy")
    shares = [share.accuracy for share in alone(plan)]
    found = list(beside(plan, shares))
    systems = ["fedln, in lockstep", "FedAvg", "centralised", EACH_ALONE]
    assert [(each.system, each.seed) for each in found] == [(s, seed) for seed in (5, 6) for s in systems]
    assert len(found) + plan.nodes == lines_expected(plan)
    reached = {each.system: each for each in found if each.seed == 5}
    assert reached[EACH_ALONE].accuracy == pytest.approx(sum(shares) / 3)
    assert reached["FedAvg"].accuracy > min(shares)
    # Two thirds of the model to the others, and two thirds of what they are owed, in float32.
    assert reached["FedAvg"].sent_bytes == pytest.approx(4 / 3 * 4 * 8970)
    assert reached["centralised"].sent_bytes == 0
    assert list(beside(Plan(nodes=2, rounds=1), [])) == []
    assert list(beside(msgspec.structs.replace(plan, seeds=0), shares)) == []


@pytest.mark.slow
def test_tasks_of_unlike_nodes_are_run_among_their_holders() -> None:
    plan = Plan(
        nodes=3, task="digit_tasks", method="matu", rounds=1, task_options={"tasks": "upright,parity"}
    )
    tasks = [load_task(plan.task, task_options(plan, index)) for index in (1, 2, 3)]
    learners = [TorchLearner(task, seed=0) for task in tasks]
    held = groups(System("fedavg", {}, "holders"), learners)
    assert [len(group) for group in held] == [3, 3]
    (pooled,) = groups(System("local", {}, "one"), learners)
    assert pooled[0].examples == sum(learner.examples for learner in learners)
    reached = run_system(System("fedavg", {"steps": 2}, "holders"), learners, 1)
    assert reached is not None
    assert 0 < reached[0] < 1
    assert reached[1] == pytest.approx(2 * 4 / 3 * 4 * 16_576)


def test_a_share_without_labels_is_left_out_of_those_alone() -> None:
    plan = Plan(nodes=2, rounds=1, method="fedstar", task="digits_few_labels", task_options={"labelled": 0.0})
    assert list(alone(plan)) == []


@pytest.mark.slow
def test_as_a_program_it_prints_a_line_per_share() -> None:
    plan = msgspec.json.encode(Plan(nodes=3, rounds=2)).decode()
    found = subprocess.run(
        [*BASELINE, plan],
        capture_output=True,
        check=True,
        timeout=100,
    )
    shares = [msgspec.json.decode(line, type=ShareAlone) for line in found.stdout.splitlines()]
    assert [share.share for share in shares] == [1, 2, 3]
    assert all(0.0 < share.accuracy < 1.0 for share in shares)


@pytest.mark.slow
def test_a_task_that_does_not_load_is_told_in_one_line() -> None:
    plan = msgspec.json.encode(Plan(task="nowhere.at_all:Task")).decode()
    found = subprocess.run([*BASELINE, plan], capture_output=True, text=True, timeout=100)
    assert found.returncode == 1
    assert found.stderr.startswith("training alone failed: no module nowhere")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_task_may_lie_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from shoal.methods.tasks.digits import Digits as Mine\n")
    (tmp_path / "node.py").write_text("raise SystemExit('imported in place of one of shoal')\n")
    options: dict[str, Scalar] = {"share": "{i}/{n}", "alpha": 100.0}
    plan = msgspec.json.encode(Plan(nodes=2, rounds=1, task="mine:Mine", task_options=options)).decode()
    found = subprocess.run([*BASELINE, plan], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 2


def test_nodes_of_a_task_to_fit_a_model_to_have_shares() -> None:
    found = [task_options(Plan(nodes=4, task="shifted", alpha=0.5), index) for index in (1, 2)]
    assert found == [{"share": f"{index}/4", "alpha": 0.5, "seed": 0} for index in (1, 2)]
