"""Baseline: what every share of a testnet reaches alone, in as many local steps as it took together.

    python -P -m shoal.node.testnet.baseline PLAN        PLAN: a testnet's plan as JSON

Prints a JSON object per share, ``{"share": 1, "accuracy": 0.31}``, and then, over several seeds, one for each
system that the paper of the method compares it with (methods/baselines.py), run by all shares in lockstep:
``{"system": "supervised, one epoch", "seed": 0, "accuracy": 0.57, "sent_bytes": 57408.0}``. A process of its
own, because it needs torch, which the launcher never loads.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean

import msgspec
import torch

from shoal.methods.base import State, Steps
from shoal.methods.baselines import Setting, System, work_of_epochs, yardsticks
from shoal.methods.errors import MethodsError
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.lockstep import run
from shoal.methods.registry import all_options, load_method
from shoal.methods.tasks.regrouped import OnePart, Pooled
from shoal.node.testnet.plan import EACH_ALONE, Plan, ShareAlone, SystemReached, task_options
from shoal.node.trainer.user_folder import search_user_folder


def local_config(plan: Plan, examples: int, unlabelled: int = 0) -> LocalSGDConfig:
    """Return the local work of the plan's method on so many examples: steps, learning rate, batch size."""
    options = all_options(load_method(plan.method, plan.options))
    known = {field: options[field] for field in LocalSGDConfig.__struct_fields__ if field in options}
    if "epochs" in options:
        known |= work_of_epochs(plan.method, options, examples, unlabelled)
    return msgspec.convert(known, LocalSGDConfig)


def alone(plan: Plan) -> Iterator[ShareAlone]:
    """Train every share alone; shares whose task measures no accuracy are left out.

    Raises:
        MethodsError: the task does not load, or does not learn.
    """
    for index in range(1, plan.nodes + 1):
        learner = TorchLearner(load_task(plan.task, task_options(plan, index)), seed=plan.seed)
        if learner.examples == 0:
            continue  # without labels there is nothing to learn alone
        unlabelled = learner.task.unlabelled_data()
        method = LocalSGD(local_config(plan, learner.examples, 0 if unlabelled is None else len(unlabelled)))
        state = method.init(learner.initial)
        for round_ in range(plan.rounds):
            state = _state_after(method.round(state, learner, round_))
        metrics = learner.evaluate(state.params)
        if "accuracy" in metrics:
            yield ShareAlone(index, metrics["accuracy"])


def beside(plan: Plan, alone_first: Sequence[float]) -> Iterator[SystemReached]:
    """Run the method, and what its paper compares it with, over the plan's seeds; nothing if it has none.

    `alone_first`: what the shares reached alone with the plan's own seed.

    Raises:
        MethodsError: the task does not load, or does not learn.
    """
    options = all_options(load_method(plan.method, plan.options))
    if not plan.rounds:
        return
    for seed in range(plan.seed, plan.seed + plan.seeds):
        again = msgspec.structs.replace(plan, seed=seed)
        tasks = [load_task(plan.task, task_options(again, index)) for index in range(1, plan.nodes + 1)]
        learners = [TorchLearner(task, seed=seed) for task in tasks]
        setting = Setting(
            nodes=plan.nodes,
            rounds=plan.rounds,
            examples=sum(learner.examples for learner in learners) // len(learners),
            parts=max(1, len(tasks[0].parts())),
        )
        found = yardsticks(plan.method, options, setting)
        if not found:
            return
        systems = {f"{plan.method}, in lockstep": System(plan.method, options), **found}
        for name, system in systems.items():
            reached = run_system(system, learners, plan.rounds)
            if reached is not None:
                yield SystemReached(name, seed, *reached)
        shares = alone_first if seed == plan.seed else [share.accuracy for share in alone(again)]
        if shares:
            yield SystemReached(EACH_ALONE, seed, fmean(shares), 0.0)


def run_system(system: System, learners: Sequence[TorchLearner], rounds: int) -> tuple[float, float] | None:
    """Return the accuracy that a system reaches, and what a node sends in a round; None without accuracy."""
    method = load_method(system.method, system.options)
    measured, sent = [], 0.0
    for group in groups(system, learners):
        done = run(method, group, group[0].initial, rounds)
        measured += [
            {**learner.evaluate(state.params), **report.metrics}
            for learner, state, report in zip(group, done.states, done.reports[-1], strict=True)
        ]
        sent += done.wire_bytes * len(group)
    found = [metrics["accuracy"] for metrics in measured if "accuracy" in metrics]
    return (fmean(found), sent / len(learners)) if found else None


def groups(system: System, learners: Sequence[TorchLearner]) -> list[list[TorchLearner]]:
    """Return who trains together in a system."""
    seed = learners[0].seed
    match system.among:
        case "one":
            return [[TorchLearner(Pooled([learner.task for learner in learners]), seed=seed)]]
        case "holders":
            held: dict[str, list[TorchLearner]] = {}
            for learner in learners:
                for name, part in (learner.task.parts() or {"": learner.task}).items():
                    held.setdefault(name, []).append(TorchLearner(OnePart(learner.task, part), seed=seed))
            return list(held.values())
    return [list(learners)]


def _state_after(steps: Steps[tuple[State, object]]) -> State:
    """Run a round that asks nobody anything."""
    try:
        next(steps)
    except StopIteration as end:
        state: State = end.value[0]
        return state
    raise AssertionError("local work asked its peers for something")


def main() -> None:
    """Print a line per share, and one per system and seed."""
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    search_user_folder()
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    shares = []
    try:
        for share in alone(plan):
            print(msgspec.json.encode(share).decode(), flush=True)
            shares.append(share.accuracy)
        for reached in beside(plan, shares):
            print(msgspec.json.encode(reached).decode(), flush=True)
    except MethodsError as error:
        sys.exit(f"training alone failed: {error}")


if __name__ == "__main__":
    main()
