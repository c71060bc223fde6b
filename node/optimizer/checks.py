"""Checks of what a training loop gives its swarm, before a node is started."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from torch import nn

from shoal.gossip.messages import MAX_WEIGHT
from shoal.gossip.run_spec import RunSettings, Scalar, usual_combine
from shoal.methods.base import OuterMethod
from shoal.methods.errors import BadOption, BadTask
from shoal.methods.options import build_config
from shoal.methods.registry import config_class, load_method, method_class, method_names
from shoal.node.trainer.spec import settings_of, token_settings

_OWN: Final[dict[str, Any]] = {"method": "diloco", "task": "own"}
"""What a run of one's own loop has unless told otherwise."""


def chosen_run(
    settings: RunSettings | None, invite: str, changes: Mapping[str, Any], caller: str
) -> RunSettings:
    """Return what the peers of a run agree on. `caller`: is named where a setting is refused.

    Raises:
        BadOption: there is no such setting, or no such value of it.
        UserError: the invite is none.
    """
    said = token_settings(invite) if invite else _OWN
    chosen: dict[str, Any] = {**(settings_of(settings) if settings is not None else said), **changes}
    run = build_config(RunSettings, chosen, caller)
    if "combine" not in chosen and not invite:
        run = msgspec.structs.replace(run, combine=usual_combine(run))
    return run


def load_outer(name: str, options: dict[str, Scalar], every: int) -> OuterMethod:
    """Load a method whose exchange can follow any loop, and tell it the number of local steps.

    Raises:
        BadOption: it cannot, or an option is bad.
        MethodNotFound: there is none of this name.
    """
    if not getattr(method_class(name), "follows_any_loop", False):
        fit = [n for n in method_names() if getattr(method_class(n), "follows_any_loop", False)]
        raise BadOption(f"{name} needs local work of its own; for your own loop choose {' or '.join(fit)}")
    if every < 1:
        raise BadOption(f"every = {every}: average after 1 step or more")
    if "steps" in config_class(name).__struct_fields__:
        options["steps"] = every
    return cast(OuterMethod, load_method(name, options))


def checked_weight(weight: float) -> float:
    """Return a weight that peers will take.

    Raises:
        BadOption: they would not.
    """
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    # Not a number is in no range.
    if not 0 <= number <= MAX_WEIGHT:
        raise BadOption(
            f"weight = {weight}: give a number from 0 to {MAX_WEIGHT:g}, such as how many examples this"
            " process has"
        )
    return number


def check_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> None:
    """Refuse an optimizer that trains what is no part of the model, and so would never travel.

    Raises:
        BadTask: names the tensor by its place.
    """
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for number, group in enumerate(groups):
        for place, tensor in enumerate(group["params"]):
            if id(tensor) not in known and tensor.requires_grad:
                raise BadTask(
                    f"the optimizer trains a tensor that is none of the model's and would not travel: place"
                    f" {place} of group {number}, of shape {list(tensor.shape)}; give SwarmOptimizer a model"
                    " that holds all of them, such as nn.ModuleList([model, criterion])"
                )
