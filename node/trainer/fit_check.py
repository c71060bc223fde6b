"""Fit check: whether a run's task, method and device go together, found before any node starts.

    python -P -m shoal.node.trainer.fit_check SPEC        SPEC: a TrainerSpec as JSON

A process of its own, because it needs torch, which the command line never loads. What a person must mend
stands on standard error, in lines that begin with `MARK`, of which the last counts. What a task's own code
raises is left to the trainer, which shows it with its traceback.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from typing import Final

import msgspec
import torch

from shoal.methods.base import Demands, Method
from shoal.methods.errors import BadTask, MethodsError
from shoal.methods.learning.learner import TorchLearner, choose_device
from shoal.methods.learning.task import TASKS, load_task
from shoal.methods.params import shared_specs
from shoal.methods.registry import all_options, load_method
from shoal.node.trainer.spec import FAILED, MARK, TrainerSpec, run_spec

SEARCH_SECONDS: Final = 5.0
"""For naming tasks that fit: some make their data when they are loaded."""


def check(spec: TrainerSpec) -> None:
    """Make what a trainer makes before its first round.

    Raises:
        MethodsError: method, task, options or device do not fit; the message names what does.
    """
    method = load_method(spec.method, spec.options)
    choose_device(spec.device)
    learner = TorchLearner(load_task(spec.task, spec.task_options), device=spec.device, seed=spec.seed)
    if isinstance(method, Demands):
        try:
            method.check(learner)
        except BadTask as error:
            say(error)  # at once, since looking for others takes a while
            fitting = ", ".join(tasks_for(method)) or "one of your own"
            raise BadTask(f"{error}; tasks that fit {spec.method}: {fitting}") from error
    initial = method.init(learner.initial)
    run_spec(spec, all_options(method), learner.manifest, shared_specs(initial))


def tasks_for(method: Demands | Method) -> list[str]:
    """Return built-in tasks that a method can train and whose data is here, found in `SEARCH_SECONDS`."""
    began = time.monotonic()
    return [name for name in TASKS if time.monotonic() < began + SEARCH_SECONDS and _fits(name, method)]


def _fits(name: str, method: Demands | Method) -> bool:
    # Images and sounds may be missing, or their libraries.
    with suppress(Exception):
        learner = TorchLearner(load_task(name, {}))
        if isinstance(method, Demands):
            method.check(learner)
        return True
    return False


def main() -> int:
    """Check; returns the exit code."""
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    if os.getcwd() not in sys.path:
        # A task may lie in the folder in which the command was typed.
        sys.path.append(os.getcwd())
    try:
        check(msgspec.json.decode(sys.argv[1], type=TrainerSpec))
    except MethodsError as error:
        say(error)
        return FAILED
    return 0


def say(error: MethodsError) -> None:
    """Say what does not fit; the last such line counts."""
    print(MARK + " ".join(str(error).split()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
