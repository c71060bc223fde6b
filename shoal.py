"""shoal: train together with no one in charge. All that a user imports.

    Task              what is learned; subclass it, then: shoal start --task mypackage.mymodule:MyTask
    SwarmOptimizer    takes a PyTorch loop of your own into a swarm
    Method, State, Report, all_reduce, gather    what a training method of your own is made of

Everything is loaded when first used: importing shoal loads neither torch nor the network.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from methods.base import Method, Report, State, all_reduce, gather
    from methods.task import Task
    from node.swarm_optimizer import SwarmOptimizer

    __version__: str

__all__ = ["Method", "Report", "State", "SwarmOptimizer", "Task", "__version__", "all_reduce", "gather"]

_WHERE: Final = {
    "Method": "methods.base",
    "Report": "methods.base",
    "State": "methods.base",
    "SwarmOptimizer": "node.swarm_optimizer",
    "Task": "methods.task",
    "all_reduce": "methods.base",
    "gather": "methods.base",
}


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
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
