"""Whether a task gives a method what it asks for: `fit_of`. The method's class says that (../needs.py)."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from torch import nn

from shoal.gossip.run_spec import Scalar
from shoal.methods.base import Demands
from shoal.methods.errors import BadTask, MethodsError
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.objective import head_of
from shoal.methods.learning.task import Task
from shoal.methods.needs import Fit, Given, needs_of
from shoal.methods.registry import load_method

FEW: Final = 10
Look: TypeAlias = Callable[[TorchLearner], tuple[bool | None, str]]


def fit_of(task: Task, name: str, options: Mapping[str, Scalar]) -> Fit:
    """Say whether a method with these options takes a task, and what of its needs the task gives.

    Raises:
        MethodNotFound: nothing of this name is installed, or it does not load.
        BadOption: an option is unknown, of the wrong type or out of range.
    """
    method = load_method(name, options)
    try:
        learner = TorchLearner(task, method=method)
        if isinstance(method, Demands):
            method.check(learner)
    except MethodsError as error:
        return Fit(fits=False, problem=str(error))
    given = [(need, *_look(need.what, learner)) for need in needs_of(type(method))]
    return Fit(
        fits=True, given=tuple(Given(need=need, is_given=is_, found=found) for need, is_, found in given)
    )


def _look(what: str, learner: TorchLearner) -> tuple[bool | None, str]:
    look = _LOOKS.get(what)
    return look(learner) if look is not None else (None, "")


def _unlabelled(learner: TorchLearner) -> tuple[bool, str]:
    found = learner.task.unlabelled_data()
    return found is not None and len(found) > 0, "" if found is None else f"{len(found):,} inputs"


def _labelled(learner: TorchLearner) -> tuple[bool, str]:
    return learner.examples >= FEW, f"{learner.examples:,}"


def _linear(learner: TorchLearner) -> tuple[bool, str]:
    try:
        head: nn.Linear = head_of(learner.model)
    except BadTask:
        return False, ""
    return True, f"after {head.in_features} numbers"


def _parts(learner: TorchLearner) -> tuple[bool, str]:
    found = learner.task.parts()
    return bool(found), ", ".join(found)


def _role(learner: TorchLearner) -> tuple[bool, str]:
    roles = [learner.task.role(spec.name) for spec in learner.manifest]
    found = {role: roles.count(role) for role in ("body", "head", "frozen")}
    return found["body"] > 0, ", ".join(f"{count} {role}" for role, count in found.items()) + " tensors"


def _cuts(learner: TorchLearner) -> tuple[bool, str]:
    split = getattr(learner, "split_client", None)
    return split is not None, "" if split is None else "the model can be cut"


def _overridden(name: str) -> Look:
    def look(learner: TorchLearner) -> tuple[bool, str]:
        tasks = list(learner.task.parts().values()) or [learner.task]
        is_own = all(getattr(type(task), name) is not getattr(Task, name) for task in tasks)
        return is_own, "the task's own" if is_own else "not overridden"

    return look


_LOOKS: Final[Mapping[str, Look]] = {
    "10 labelled examples": _labelled,
    "a last nn.Linear": _linear,
    "embed()": _overridden("embed"),
    "front, body and head": _cuts,
    "identity()": _overridden("identity"),
    "outputs()": _overridden("outputs"),
    "parts()": _parts,
    "role()": _role,
    "unlabelled_data()": _unlabelled,
}
