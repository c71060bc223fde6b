"""The study of reproduce.py for FedIT. See reproduction.py.

Four peers, each with one kind of question of the toy grammar, tune the same frozen GPT of one layer: ten
rounds of 15 steps of AdamW in batches of 16, rate 0.01. Nothing is chosen. `unseen` is the loss on the kinds
of questions that a peer has none of.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Final

from scripts.reproduction import Case, Metrics, Study, System
from shoal.methods.base import Method
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task
from shoal.methods.registry import load_method
from shoal.methods.tasks.instructions import KINDS, Instructions

PEERS: Final = len(KINDS)
ROUNDS: Final = 10
FROZEN, EXACT, SEPARATE = "freeze-a", "exact", "separate"
ALONE: Final = "freeze-a, each alone"


def _tasks(data: str) -> Callable[[int, float], list[Task]]:
    def tasks(seed: int, validation: float) -> list[Task]:
        del validation
        return [Instructions(f"{i + 1}/{PEERS}", data=data, seed=seed, layers=1) for i in range(PEERS)]

    return tasks


def _method(variant: Any) -> tuple[Method, ...]:
    return (load_method("fedit", {"variant": variant, "steps": 15, "lr": 0.01, "batch_size": 16}),)


def _systems(case: Case) -> dict[str, System]:
    together = {variant: System(_method(variant)) for variant in (FROZEN, EXACT, SEPARATE)}
    return {**together, ALONE: System(_method(FROZEN), "each")}


def _measure(method: Method, runs: Sequence[Run]) -> Metrics:
    found: dict[str, list[float]] = {"accuracy": [], "unseen": []}
    for done in runs:
        for learner, state in zip(done.learners, done.states, strict=True):
            metrics = learner.evaluate(state.params)
            assert isinstance(learner.task, Instructions)
            own = learner.task.kinds
            found["accuracy"].append(metrics["accuracy"])
            found["unseen"].append(fmean(metrics[f"loss_{kind}"] for kind in KINDS if kind not in own))
    told = {name: fmean(values) for name, values in found.items()}
    gaps = [report.metrics["gap"] for each in runs[0].reports for report in each if "gap" in report.metrics]
    sent = {} if len(runs) > 1 else {"kB a round": fmean(done.wire_bytes for done in runs) / 1000}
    return {**told, **sent, **({"gap": fmean(gaps)} if gaps else {})}


STUDIES: Final = {
    "fedit": Study(
        [Case(data, _tasks(data), ROUNDS) for data in ("words", "numbers")],
        _systems,
        [(FROZEN, ALONE), (FROZEN, SEPARATE), (EXACT, SEPARATE)],
        _measure,
    )
}
