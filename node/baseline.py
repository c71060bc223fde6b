"""Baseline: what every share of a testnet reaches alone, in as many local steps as it took together.

    python -m node.baseline PLAN        PLAN: a testnet's plan as JSON

Prints a JSON object per share, ``{"share": 1, "accuracy": 0.31}``, and then one for each system that the
paper of the method compares it with (methods/yardsticks.py), run by all shares in lockstep:
``{"share": 0, "accuracy": 0.57, "system": "supervised, one epoch"}``. A process of its own, because it needs
torch, which the launcher never loads.
"""

import logging
import sys
from collections.abc import Iterator
from itertools import chain

import msgspec
import torch

from methods.base import State, Steps
from methods.errors import MethodsError
from methods.learner import TorchLearner
from methods.local_sgd import LocalSGD, LocalSGDConfig
from methods.lockstep import train
from methods.registry import all_options, load_method
from methods.task import load_task
from methods.yardsticks import yardsticks
from node.testnet_plan import Plan, ShareAlone, task_options


def local_config(plan: Plan) -> LocalSGDConfig:
    """Return the local work of the plan's method: its steps, learning rate and batch size."""
    options = all_options(load_method(plan.method, plan.options))
    known = {field: options[field] for field in LocalSGDConfig.__struct_fields__ if field in options}
    return msgspec.convert(known, LocalSGDConfig)


def alone(plan: Plan) -> Iterator[ShareAlone]:
    """Train every share alone; shares whose task measures no accuracy are left out.

    Raises:
        MethodsError: the task does not load, or does not learn.
    """
    method = LocalSGD(local_config(plan))
    for index in range(1, plan.nodes + 1):
        learner = TorchLearner(load_task(plan.task, task_options(plan, index)), seed=plan.seed)
        if learner.examples == 0:
            continue  # without labels there is nothing to learn alone
        state = method.init(learner.initial)
        for round_ in range(plan.rounds):
            state = _state_after(method.round(state, learner, round_))
        metrics = learner.evaluate(state.params)
        if "accuracy" in metrics:
            yield ShareAlone(index, metrics["accuracy"])


def beside(plan: Plan) -> Iterator[ShareAlone]:
    """Run what the paper of the plan's method compares it with; nothing where the task has no accuracy.

    Raises:
        MethodsError: the task does not load, or does not learn.
    """
    options = all_options(load_method(plan.method, plan.options))
    tasks = [load_task(plan.task, task_options(plan, index)) for index in range(1, plan.nodes + 1)]
    learners = [TorchLearner(task, seed=plan.seed) for task in tasks]
    examples = sum(learner.examples for learner in learners) // len(learners)
    for system, (name, given) in yardsticks(plan.method, options, examples, plan.rounds).items():
        states, _ = train(load_method(name, given), learners, learners[0].initial, plan.rounds)
        metrics = learners[0].evaluate(states[0].params)
        if "accuracy" in metrics:
            yield ShareAlone(0, metrics["accuracy"], system)


def _state_after(steps: Steps[tuple[State, object]]) -> State:
    """Run a round that asks nobody anything."""
    try:
        next(steps)
    except StopIteration as end:
        state: State = end.value[0]
        return state
    raise AssertionError("local work asked its peers for something")


def main() -> None:
    """Print a line per share, and one per system to compare with."""
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    try:
        for outcome in chain(alone(plan), beside(plan)):
            print(msgspec.json.encode(outcome).decode(), flush=True)
    except MethodsError as error:
        sys.exit(f"training alone failed: {error}")


if __name__ == "__main__":
    main()
