"""What split learning costs a client in a round, beside FedAvg and DeltaMask of the same model.

Split learning sends activations and their gradients per example; the others send params or a mask once per
round, whatever the data. So it pays where a client is weak, the body is large and the client's data are few.

    split       2 · bytes of z · n   +   2 · bytes of y · n   +   2 · 4 · front
    FedAvg      2 · 4 · params
    DeltaMask   2 · 0.1 bit · body   +   2 · 4 · head

Compute is counted in multiplications with a parameter: 3 per parameter, token and example (one forward, two
backward), for DeltaMask too, whose masks are trained through the whole body.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

from shoal.methods.mpsl.tokens import Number, token_bytes

MASK_BITS: Final = 0.1
"""Of DeltaMask, per weight of the body: docs/methods/deltamask.md."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a split model and a client's data decides the cost."""

    front: int
    body: int
    head: int
    """Parameters."""
    cut: tuple[int, ...]
    """Shape of an example's activations, such as (tokens, width)."""
    back: tuple[int, ...]
    """Shape of what the host returns of an example, such as (width,)."""
    examples: int
    """Of the client."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one client and one pass over its data."""

    bytes: float
    """Sent and received."""
    multiplications: float


def split_cost(sizes: Sizes, number: Number, *, head: str, synchronised: bool = True) -> Cost:
    """Return the cost of a client that trains the front, and the head if `head` is ``client``."""
    own = sizes.front + (sizes.head if head == "client" else 0)
    per_example = 2 * token_bytes(sizes.cut, number) + 2 * 4 * prod(sizes.back)
    tokens = prod(sizes.cut[:-1])
    work = 3 * (sizes.front * tokens + (sizes.head if head == "client" else 0))
    return Cost(per_example * sizes.examples + 2 * 4 * own * synchronised, float(work * sizes.examples))


def fedavg_cost(sizes: Sizes) -> Cost:
    """Return the cost of FedAvg, once per pass."""
    whole = sizes.front + sizes.body + sizes.head
    return Cost(2.0 * 4 * whole, _whole_work(sizes))


def deltamask_cost(sizes: Sizes) -> Cost:
    """Return the cost of DeltaMask, once per pass."""
    return Cost(2 * MASK_BITS / 8 * sizes.body + 2.0 * 4 * sizes.head, _whole_work(sizes))


def estimate(sizes: Sizes, number: Number, *, head: str) -> str:
    """Say in one line what a client's pass over its data costs in each of the three."""
    costs = {
        "split": split_cost(sizes, number, head=head),
        "FedAvg": fedavg_cost(sizes),
        "DeltaMask": deltamask_cost(sizes),
    }
    said = ", ".join(
        f"{name} {short(cost.bytes)}B and {short(cost.multiplications)} multiplications"
        for name, cost in costs.items()
    )
    return f"a pass over {sizes.examples} examples costs this client about: {said}"


def _whole_work(sizes: Sizes) -> float:
    tokens = prod(sizes.cut[:-1])
    return float(3 * ((sizes.front + sizes.body) * tokens + sizes.head) * sizes.examples)


def short(number: float) -> str:
    """Return a number with its unit: ``917.2 k``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} "
