"""Yardsticks: what each method's paper compares it with, as other methods and options on the same data.

A testnet runs these in lockstep beside its nodes (node/baseline.py). What needs other data or other tasks
than the nodes have, such as training with all labels, is in scripts/reproduce_*.py alone.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Final, TypeAlias

from gossip.runspec import Scalar

Options: TypeAlias = dict[str, Scalar]
System: TypeAlias = tuple[str, Options]
"""A method and its options."""


def yardsticks(method: str, options: Mapping[str, Scalar], examples: int, rounds: int) -> dict[str, System]:
    """Return the systems that a method is compared with, by name; none for a method without a paper's.

    `options` are all of the method; `examples` is how many labelled ones a node has, on average.
    """
    make = _YARDSTICKS.get(method)
    return make(dict(options), examples, rounds) if make is not None else {}


def _fedstar(options: Options, examples: int, rounds: int) -> dict[str, System]:
    found: dict[str, System] = {
        "supervised, one epoch": _fedavg(options, examples, 1),
        "supervised, equal steps": ("fedstar", {**options, "beta": 0.0, "gate": False}),
    }
    if options["gate"]:
        found["FedSTAR without its gate"] = ("fedstar", {**options, "gate": False})
    return found


def _fedln(options: Options, examples: int, rounds: int) -> dict[str, System]:
    return {"FedAvg": _fedavg(options, examples, int(options["epochs"]))}


def _fedcompress(options: Options, examples: int, rounds: int) -> dict[str, System]:
    epochs = int(options["epochs"]) + int(options["cluster_epochs"])
    return {"FedAvg": _fedavg(options, examples, epochs)}


def _deltamask(options: Options, examples: int, rounds: int) -> dict[str, System]:
    return {"linear probe": ("deltamask", {**options, "head_rounds": rounds})}


def _fedavg(options: Options, examples: int, epochs: int) -> System:
    """Return FedAvg with as many epochs of the same batches."""
    batch_size = int(options["batch_size"])
    steps = epochs * ceil(max(1, examples) / batch_size)
    return "fedavg", {"steps": steps, "lr": options["lr"], "batch_size": batch_size}


_YARDSTICKS: Final[Mapping[str, Callable[[Options, int, int], dict[str, System]]]] = {
    "deltamask": _deltamask,
    "fedcompress": _fedcompress,
    "fedln": _fedln,
    "fedstar": _fedstar,
}
