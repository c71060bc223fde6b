"""Registry: the methods by name, loaded when asked for; torch is never loaded here.

Ours stand in `METHODS`. Others come from installed packages that declare, in their pyproject.toml:

    [project.entry-points."shoal.methods"]
    mymethod = "mypackage.mymethod:MyMethod"

What `shoal methods` says of such a method is its class attribute `summary`, one line, or else the first
sentence of `about.use`; what a task must give it, the class attribute `needs` (needs.py).
"""

import importlib
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import msgspec

from shoal.gossip.run_spec import Scalar
from shoal.methods.base import Method, ModelSize, Traffic
from shoal.methods.errors import MethodNotFound
from shoal.methods.needs import Need, needs_of
from shoal.methods.options import OptionInfo, build_config, explain_options

GROUP: Final = "shoal.methods"
METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "local": ("shoal.methods.local_sgd:LocalSGD", "train alone; the yardstick"),
    "fedavg": ("shoal.methods.fedavg:FedAvg", "mean of the params, weighted by examples"),
    "diloco": ("shoal.methods.diloco:DiLoCo", "many local steps, then one Nesterov step on their mean"),
    "fedprox": (
        "shoal.methods.fedprox:FedProx",
        "FedAvg that holds peers near the common params; no gain measured",
    ),
    "fedavgm": ("shoal.methods.fedavgm:FedAvgM", "FedAvg whose mean change is a step of momentum"),
    "fedadam": ("shoal.methods.fedadam:FedAdam", "FedAvg whose mean change is a step of Adam"),
    "fedyogi": ("shoal.methods.fedyogi:FedYogi", "FedAvg whose mean change is a step of Yogi"),
    "fedspeed": (
        "shoal.methods.fedspeed:FedSpeed",
        "unlike data: a pull to the common params, and a dual that takes its bias back",
    ),
    "scaffold": (
        "shoal.methods.scaffold:Scaffold",
        "unlike data: local steps corrected by control variates; twice the bytes",
    ),
    "feddyn": ("shoal.methods.feddyn:FedDyn", "unlike data: each node's loss regularised anew every round"),
    "fedpeft": (
        "shoal.methods.fedpeft.method:FedPEFT",
        "a small part of a frozen model: head, biases, adapters or a prompt",
    ),
    "fedit": (
        "shoal.methods.fedit.method:FedIT",
        "low-rank changes (LoRA) of a frozen language model",
    ),
    "fedstar": (
        "shoal.methods.fedstar.method:FedSTAR",
        "few labels: pseudo-labels for the rest, behind a gate",
    ),
    "fedln": (
        "shoal.methods.fedln.method:FedLN",
        "wrong labels: noise estimated and outweighed, corrected or dampened",
    ),
    "fedcompress": (
        "shoal.methods.fedcompress.method:FedCompress",
        "a few shared values per tensor, gathered",
    ),
    "enccluster": (
        "shoal.methods.enccluster.method:EncCluster",
        "a mean of which only the sum is opened, by masks or functional encryption",
    ),
    "efu": (
        "shoal.methods.efu.method:EFU",
        "a node forgets within its ordinary updates, unseen by the others",
    ),
    "matu": (
        "shoal.methods.matu.method:MaTU",
        "one vector for all tasks of a node, where nodes hold unlike tasks",
    ),
    "deltamask": (
        "shoal.methods.deltamask.method:DeltaMask",
        "which weights of a frozen model to keep, in 0.1 bit each",
    ),
    "mpsl": (
        "shoal.methods.mpsl.method:MPSL",
        "split learning: weak nodes keep the front of a model, hosts train its body",
    ),
    "sfprompt": (
        "shoal.methods.sfprompt.method:SFPrompt",
        "a frozen model split with hosts; nodes train a prompt and the tail",
    ),
}
"""Name -> (module:Class, summary)."""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A method as `shoal methods show` prints it."""

    name: str
    summary: str
    paper: str
    exchanges: str
    use: str
    mergeable: bool
    options: tuple[OptionInfo, ...]
    size: ModelSize
    """Of the model that the traffic is about."""
    traffic: Traffic
    """Of that model."""
    needs: tuple[Need, ...] = ()
    """What it asks of a task beside a model and training data."""
    body_bound: str = ""
    """How far one gathered body can move the result; empty where none is gathered, or nothing is declared."""


def method_names() -> list[str]:
    """Return the name of every method that is installed, and load none."""
    return list(dict.fromkeys([*METHODS, *(point.name for point in entry_points(group=GROUP))]))


def known_methods() -> dict[str, str]:
    """Return name -> summary of every method that is installed; those of other packages are loaded for it."""
    return {name: summary_of(name) for name in method_names()}


def summary_of(name: str) -> str:
    """Return what a method does, in a line; of one that does not load, why."""
    if name in METHODS:
        return METHODS[name][1]
    try:
        found = method_class(name)
    except MethodNotFound as error:
        return str(error)
    about = getattr(found, "about", None)
    told = getattr(found, "summary", "") or (about.use.partition(". ")[0] if about is not None else "")
    return f"{told.rstrip('.') or 'says nothing of itself'} (from {found.__module__})"


def method_class(name: str) -> type[Method]:
    """Import a method's class.

    Raises:
        MethodNotFound: nothing of this name is installed, or it does not load.
    """
    if name in METHODS:
        target = METHODS[name][0]
    else:
        points = tuple(entry_points(group=GROUP, name=name))
        if not points:
            raise MethodNotFound(f"no method {name}; there are: {', '.join(method_names())}")
        target = points[0].value
    point = EntryPoint(name, target, GROUP)
    try:
        found: type[Method] = getattr(importlib.import_module(point.module), point.attr)
    except (ImportError, AttributeError) as error:
        raise MethodNotFound(f"method {name} does not load from {target}: {error}; reinstall it") from error
    return found


def config_class(name: str) -> type[msgspec.Struct]:
    """Return the struct whose fields are a method's options."""
    found: type[msgspec.Struct] = typing.get_type_hints(method_class(name))["config"]
    return found


def load_method(name: str, options: Mapping[str, Scalar]) -> Method:
    """Make a method with these hyperparameters; the rest have their defaults.

    Raises:
        MethodNotFound: nothing of this name is installed, or it does not load.
        BadOption: an option is unknown, of the wrong type or out of range.
    """
    make = typing.cast(Callable[[msgspec.Struct], Method], method_class(name))
    return make(build_config(config_class(name), options, name))


def all_options(method: Method) -> dict[str, Scalar]:
    """Return every hyperparameter, as a run spec wants them."""
    found: dict[str, Scalar] = msgspec.to_builtins(method.config)
    return found


def describe(
    name: str, size: ModelSize | None = None, options: Mapping[str, Scalar] | None = None
) -> Description:
    """Say what a method is with these options, for people; `size`: of the model whose bytes are told.

    Raises:
        MethodNotFound: nothing of this name is installed, or it does not load.
        BadOption: an option is unknown, of the wrong type or out of range.
    """
    found, method = method_class(name), load_method(name, options or {})
    size = size or ModelSize.of_one_body(0)
    return Description(
        name=name,
        summary=summary_of(name),
        paper=found.about.paper,
        exchanges=found.about.exchanges,
        use=found.about.use,
        mergeable=found.mergeable,
        options=explain_options(config_class(name)),
        size=size,
        traffic=method.traffic(size),
        needs=needs_of(found),
        body_bound=found.about.body_bound,
    )
