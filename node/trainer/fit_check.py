"""Fit check: whether a run's task, method and device go together, found before any node starts.

    python -P -m shoal.node.trainer.fit_check SPEC        SPEC: a TrainerSpec as JSON

A process of its own, because it needs torch, which the command line never loads. What a person must mend
stands on standard error, in a line that begins with `MARK`. What a task's own code raises is left to the
trainer, which shows it with its traceback.
"""

import importlib
import logging
import sys
from contextlib import suppress

import msgspec
import torch

from shoal.methods.base import Demands, largest_exchange
from shoal.methods.errors import BadOption, BadTask, MethodsError
from shoal.methods.learning.learner import Callbacks, TorchLearner, choose_device
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.pinned_base import put_zeros
from shoal.methods.learning.task import TASKS, Task, load_task
from shoal.methods.needs import needs_of
from shoal.methods.params import shared_specs
from shoal.methods.registry import all_options, load_method, method_class
from shoal.node.text import log_to_stderr
from shoal.node.trainer.memory import OWN_LIMIT, machine_bytes, too_large
from shoal.node.trainer.spec import FAILED, MARK, TrainerSpec, run_spec
from shoal.node.trainer.user_folder import search_user_folder


class _Looks(Callbacks):
    """For a look at a task whose base is still to be fetched."""

    def fill_base(self, model: torch.nn.Module, stays: Staying) -> None:
        """See `Callbacks`."""
        put_zeros(model, stays)


def check(spec: TrainerSpec, machine: int | None = None) -> None:
    """Make what a trainer makes before its first round.

    `machine`: its memory in bytes; this machine's unless given.

    Raises:
        MethodsError: method, task, options or device do not fit; the message names what does.
    """
    method = load_method(spec.method, spec.options)
    choose_device(spec.device)
    task = load_task(spec.task, spec.task_options)
    learner = TorchLearner(task, device=spec.device, seed=spec.seed, method=method, callbacks=_Looks())
    if isinstance(method, Demands):
        try:
            method.check(learner)
        except BadTask as error:
            fitting = ", ".join(tasks_for(spec.method)) or "one of your own"
            raise BadTask(f"{error}; tasks that fit {spec.method}: {fitting}") from error
    initial = method.init(learner.initial)
    run = run_spec(spec, all_options(method), learner.manifest, shared_specs(initial))
    numel, limit = largest_exchange(method, run.params_numel), int(spec.memory_gb * 1e9)
    if text := too_large(run, numel, machine or machine_bytes()) or too_large(run, numel, limit, OWN_LIMIT):
        raise BadOption(text)


def tasks_for(name: str) -> list[str]:
    """Return the built-in tasks that give a method what it cannot do without; none is loaded for it."""
    asked = [need.what.removesuffix("()") for need in needs_of(method_class(name)) if need.must]
    return [task for task, target in TASKS.items() if all(_gives(target, what) for what in asked)]


def _gives(target: str, what: str) -> bool:
    module, _, attribute = target.partition(":")
    with suppress(ImportError):  # a library for images or sounds may be missing
        found = getattr(importlib.import_module(module), attribute)
        return getattr(found, what, None) is not getattr(Task, what, None)
    return False


def main() -> int:
    """Check; returns the exit code."""
    log_to_stderr(logging.ERROR, logging.BASIC_FORMAT)
    torch.set_num_threads(1)
    search_user_folder()
    try:
        check(msgspec.json.decode(sys.argv[1], type=TrainerSpec))
    except MethodsError as error:
        say(error)
        return FAILED
    return 0


def say(error: MethodsError) -> None:
    """Say what does not fit."""
    print(MARK + " ".join(str(error).split()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
