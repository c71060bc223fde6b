"""Yardsticks: what each method's paper compares it with, as other methods and options on the same data.

A testnet runs these in lockstep beside its nodes (node/testnet/baseline.py). What needs other data than the
nodes have, such as training with all labels, is in scripts/reproduce_*.py alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, TypeAlias

from shoal.gossip.run_spec import Scalar

Options: TypeAlias = dict[str, Scalar]
Among: TypeAlias = Literal["nodes", "holders", "one"]


@dataclass(frozen=True, slots=True)
class System:
    """A method and its options, and among whom it is run."""

    method: str
    options: Mapping[str, Scalar]
    among: Among = "nodes"
    """``nodes``: all of them; ``holders``: for each task of a node, those who have it; ``one``: all data in
    one place."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a comparison must know of the nodes to give everyone as much work."""

    nodes: int
    rounds: int
    examples: int
    """Labelled ones of a node, on average."""
    parts: int = 1
    """Tasks of a node."""


def yardsticks(method: str, options: Mapping[str, Scalar], setting: Setting) -> dict[str, System]:
    """Return the systems that a method is compared with, by name; none for a method without a paper's.

    `options` are all of the method.
    """
    make = _YARDSTICKS.get(method)
    return make(dict(options), setting) if make is not None else {}


def work_of_epochs(method: str, options: Mapping[str, Scalar], examples: int, unlabelled: int) -> Options:
    """Return the steps and the batch size of a method whose local work is told in epochs."""
    epochs = sum(int(options.get(name, 0)) for name in ("epochs", "cluster_epochs", "local_epochs"))
    batch_size, passed = int(options["batch_size" if "batch_size" in options else "rows"]), examples
    if method == "fedstar" and unlabelled:
        # Half of a batch is labelled; it is the other half that passes once per epoch.
        batch_size, passed = batch_size // 2, unlabelled
    return {"steps": max(1, epochs) * ceil(passed / batch_size), "batch_size": batch_size}


def _fedstar(options: Options, setting: Setting) -> dict[str, System]:
    epoch = _epochs(options, setting, 1)
    found = {
        "supervised, one epoch": System("fedavg", epoch),
        "supervised, equal steps": System("fedstar", {**options, "beta": 0.0, "gate": False}),
        "centralised, one epoch": _centralised(epoch, setting),
    }
    if options["gate"]:
        found["FedSTAR without its gate (paper)"] = System("fedstar", {**options, "gate": False})
    return found


def _fedln(options: Options, setting: Setting) -> dict[str, System]:
    averaged = _epochs(options, setting, int(options["epochs"]))
    return {"FedAvg": System("fedavg", averaged), "centralised": _centralised(averaged, setting)}


def _fedcompress(options: Options, setting: Setting) -> dict[str, System]:
    averaged = _epochs(options, setting, int(options["epochs"]) + int(options["cluster_epochs"]))
    found = {"FedAvg": System("fedavg", averaged), "centralised": _centralised(averaged, setting)}
    if options["target"] == "delta":
        found["FedCompress on weights (paper)"] = System("fedcompress", {**options, "target": "weights"})
    return found


def _deltamask(options: Options, setting: Setting) -> dict[str, System]:
    tuned: Options = {
        "steps": options["steps"],
        "lr": options["head_lr"],
        "batch_size": options["batch_size"],
    }
    all_bits: Options = {"coding": "bits", "kappa": 1.0, "density_cap": 1.0}
    probe = {
        **options,
        "head_rounds": setting.rounds,
        "head_steps": max(int(options["head_steps"]), int(options["steps"])),
    }
    return {
        "linear probe": System("deltamask", probe),
        "full fine-tuning (FedAvg)": System("fedavg", tuned),
        "all mask bits (FedPM)": System("deltamask", {**options, **all_bits}),
        "centralised fine-tuning": _centralised(tuned, setting),
    }


def _matu(options: Options, setting: Setting) -> dict[str, System]:
    each: Options = {name: options[name] for name in ("steps", "lr", "batch_size")}
    together: Options = {**each, "steps": int(options["steps"]) * setting.parts}
    return {
        "one model for all tasks (FedAvg)": System("fedavg", together),
        "FedAvg for each task": System("fedavg", each, "holders"),
        "alone, a model for each task": System("local", each, "holders"),
    }


def _epochs(options: Options, setting: Setting, epochs: int) -> Options:
    """Return FedAvg's options for so many epochs of the same batches."""
    batch_size = int(options["batch_size"])
    steps = epochs * ceil(max(1, setting.examples) / batch_size)
    return {"steps": steps, "lr": options["lr"], "batch_size": batch_size}


def _centralised(options: Options, setting: Setting) -> System:
    """Return training on everyone's data in one place, in as many steps as all nodes take together."""
    return System("local", {**options, "steps": int(options["steps"]) * setting.nodes}, "one")


_YARDSTICKS: Final[Mapping[str, Callable[[Options, Setting], dict[str, System]]]] = {
    "deltamask": _deltamask,
    "fedcompress": _fedcompress,
    "fedln": _fedln,
    "fedstar": _fedstar,
    "matu": _matu,
}
