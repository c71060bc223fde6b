"""shoal: train together with no one in charge. All that a user imports.

    Task              what is learned; subclass it, then: shoal start --task mypackage.mymodule:MyTask
    SwarmOptimizer    takes a PyTorch loop of your own into a swarm
    Swarm             the same without an optimizer; shoal.huggingface and shoal.lightning stand on it
    select            names of a model's tensors that a fine-tuning trains: lora, bias, head, prompt, adapter
    shard             the rows of a data set that this peer trains on
    load_model        the tensors of a file that shoal model save wrote

For the author of a method or a task (CONTRIBUTING.md, examples/plugin):

    Method, About, State, Report, Learner, Objective    what a method is made of
    all_reduce, gather, means_by_scope, here            what it asks
    ModelSize, Traffic                                  what it says of its bytes
    BadTask, BadOption    what it says where a task or an option does not fit
    lockstep, load_task, dirichlet, parse_share    how it is tried without a network

Everything is loaded when first used: importing shoal loads neither torch nor the network.
"""

import importlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

    from shoal.methods.base import (
        About,
        Learner,
        Method,
        ModelSize,
        Report,
        State,
        Traffic,
        all_reduce,
        gather,
        here,
    )
    from shoal.methods.errors import BadOption, BadTask
    from shoal.methods.learning.in_lockstep import lockstep
    from shoal.methods.learning.objective import Objective
    from shoal.methods.learning.parts import select
    from shoal.methods.learning.task import Task, load_task
    from shoal.methods.roles.scopes import means_by_scope
    from shoal.methods.tasks.partition import dirichlet, parse_share
    from shoal.node.integrations.shards import shard
    from shoal.node.optimizer.swarm import Swarm
    from shoal.node.optimizer.swarm_optimizer import SwarmOptimizer

    __version__: str

__all__ = [
    "About",
    "BadOption",
    "BadTask",
    "Learner",
    "Method",
    "ModelSize",
    "Objective",
    "Report",
    "State",
    "Swarm",
    "SwarmOptimizer",
    "Task",
    "Traffic",
    "__version__",
    "all_reduce",
    "dirichlet",
    "gather",
    "here",
    "load_model",
    "load_task",
    "lockstep",
    "means_by_scope",
    "parse_share",
    "select",
    "shard",
]

_WHERE: Final = {
    "About": "shoal.methods.base",
    "BadOption": "shoal.methods.errors",
    "BadTask": "shoal.methods.errors",
    "Learner": "shoal.methods.base",
    "Method": "shoal.methods.base",
    "ModelSize": "shoal.methods.base",
    "Objective": "shoal.methods.learning.objective",
    "Report": "shoal.methods.base",
    "State": "shoal.methods.base",
    "Swarm": "shoal.node.optimizer.swarm",
    "SwarmOptimizer": "shoal.node.optimizer.swarm_optimizer",
    "Task": "shoal.methods.learning.task",
    "Traffic": "shoal.methods.base",
    "all_reduce": "shoal.methods.base",
    "dirichlet": "shoal.methods.tasks.partition",
    "gather": "shoal.methods.base",
    "here": "shoal.methods.base",
    "load_task": "shoal.methods.learning.task",
    "lockstep": "shoal.methods.learning.in_lockstep",
    "means_by_scope": "shoal.methods.roles.scopes",
    "parse_share": "shoal.methods.tasks.partition",
    "select": "shoal.methods.learning.parts",
    "shard": "shoal.node.integrations.shards",
}


def load_model(
    path: "str | PathLike[str]", model: "torch.nn.Module | None" = None
) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file that shoal model save wrote, as `load_state_dict` takes them.

    `model`: what they are for, where it is wrapped by torch.compile or DDP, which change the names; without
    it names are those of the bare model.

    Raises:
        NoModel: it is no model file.
    """
    from shoal.methods.learning.model_tensors import naming
    from shoal.methods.learning.unshared import about, unpack
    from shoal.node.storage.model_file import NoModel, read_arrays

    arrays = read_arrays(Path(path))
    try:
        found, more = unpack(arrays), about(arrays)
    except ValueError as error:
        raise NoModel(f"{path} is no model file: {error}") from None
    found |= {alias: found[name] for alias, name in more.aliases.items() if name in found}
    for name in more.left_out:
        found.pop(name, None)
    if model is None:
        return found
    bare = naming(model)
    names = {bare(name): name for name in model.state_dict()}
    return {names.get(name, name): tensor for name, tensor in found.items()}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("shoal")
        except PackageNotFoundError:  # run from a folder without having been installed
            return "0+unknown"
    if name not in _WHERE:
        raise AttributeError(f"shoal has no {name}; it has: {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"shoal.{name} needs torch: pip install 'shoal[torch]'") from error


def __dir__() -> list[str]:
    return __all__
