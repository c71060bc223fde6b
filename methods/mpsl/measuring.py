"""Measuring: the accuracy on a client's test data. A host sees its activations, and not its labels."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from shoal.gossip.calls.forms import Number
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Steps
from shoal.methods.mpsl.asked import Asked
from shoal.methods.mpsl.tokens import Array, told
from shoal.methods.roles.serves import call

if TYPE_CHECKING:
    import torch


class Measured(Protocol):
    """A client's side of a split model."""

    def test_rows(self, most: int) -> Iterable[tuple[Array, "torch.Tensor"]]:
        """Return activations of the test data and their labels, so many examples at a time."""
        ...

    def right(self, outputs: Array, labels: "torch.Tensor") -> int | None:
        """Return how many examples the model gets right; None: no honest host returns that."""
        ...


def measured(
    asked: Asked, side: Measured, rows: int, number: Number, round_: int, words: tuple[str, str]
) -> Steps[dict[str, float]]:
    """Return the accuracy at the params that `side` holds; empty where no host answers.

    `rows`: examples in one call. `words`: names of what goes to the host, and of what it returns.
    """
    there, back = words
    right, seen = 0, 0
    for place, (given, labels) in enumerate(side.test_rows(rows)):
        yield from asked.look()
        tensors, step = told(there, given, number), b"%d/m%d" % (round_, place)
        try:
            out = yield from call(asked.hosts, asked.names.predict, tensors, step=step, is_last=True)
        except Unanswered:
            break
        asked.answered(out.peer)
        found = side.right(out.tensors[back], labels)
        if found is None:
            asked.answered_wrongly(out.peer)
            break
        right, seen = right + found, seen + len(labels)
    return {"accuracy": right / seen} if seen else {}
