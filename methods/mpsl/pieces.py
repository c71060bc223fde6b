"""Pieces: a model cut into front, body and head, with explicit tensors at the cuts.

    client   z = front(x)            FWD  z ->
    host     y = body(z)                      <- OUT  y
    client   g = dL/dy               GRAD g ->
    host     body steps                       <- DZ   dL/dz
    client   front steps

The loss of a step is the mean over the rows of all clients, B in all. A client does not know B: it sends the
gradient of the sum over its own rows, and the host divides by the rows that came. The gradient at a cut is a
tensor that is handed over, so that a body runs in one process or in several, and comes to the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption, BadTask

ROW_BOUND: Final = 2.0**0.5
"""The norm of softmax minus one-hot is below it: no honest row of a logit gradient is longer."""


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts of a model. Its output is ``head(body(front(x)))``."""

    front: nn.Module
    """Of the clients."""
    body: tuple[nn.Module, ...]
    """Of the hosts: blocks, in their order."""
    head: nn.Module
    """Of the clients, or of the hosts."""

    def stages(self, count: int) -> list[nn.Sequential]:
        """Cut the body into so many runs of blocks, about equal in parameters, one for each host.

        Raises:
            BadOption: it has fewer blocks.
        """
        if not 1 <= count <= len(self.body):
            raise BadOption(f"stages = {count}: the body has {len(self.body)} blocks; choose at most as many")
        sizes = [_numel(block) for block in self.body]
        total, cuts, seen = sum(sizes), [0], 0
        for place, size in enumerate(sizes):
            seen += size
            left = count - len(cuts)
            is_due = seen * count >= total * len(cuts) or len(self.body) - place - 1 == left
            if left and is_due:
                cuts.append(place + 1)
        cuts.append(len(self.body))
        return [nn.Sequential(*self.body[start:end]) for start, end in pairwise(cuts)]

    @property
    def numel(self) -> tuple[int, int, int]:
        """Parameters of front, body and head."""
        return _numel(self.front), sum(_numel(block) for block in self.body), _numel(self.head)


def split_of(model: nn.Module, cut: int = 0) -> Split:
    """Cut a model that has `front`, `body` (a sequence) and `head`, or any `nn.Sequential`.

    `cut`: of an `nn.Sequential`, how many modules are the front; 0: all before the second that has
    parameters. Its last module is the head.

    Raises:
        BadTask: the model is neither.
        BadOption: the cut leaves no body.
    """
    front, body, head = (getattr(model, name, None) for name in ("front", "body", "head"))
    if isinstance(front, nn.Module) and isinstance(head, nn.Module) and isinstance(body, nn.Sequential):
        return Split(front, tuple(body), head)
    if not isinstance(model, nn.Sequential):
        raise BadTask(
            "mpsl cuts a model with front, body (an nn.Sequential) and head, or an nn.Sequential:"
            " give the task's model() these"
        )
    blocks = list(model)
    if not cut:
        trained = [place for place, block in enumerate(blocks) if _numel(block)]
        cut = trained[1] if len(trained) > 1 else 0
    if not 1 <= cut <= len(blocks) - 2:
        raise BadOption(f"cut = {cut}: of {len(blocks)} modules choose 1 to {len(blocks) - 2} as the front")
    return Split(nn.Sequential(*blocks[:cut]), tuple(blocks[cut:-1]), blocks[-1])


class Piece:
    """A run of modules that hands its input's gradient out as a tensor."""

    def __init__(self, module: nn.Module) -> None:
        """`module`: its parameters are shared with whoever made it, and so are their gradients."""
        self.module = module
        self._held: tuple[torch.Tensor, torch.Tensor, list[int]] | None = None

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return outputs, one per input [rows, ...]: one pass for all of them.

        Raises:
            BadTask: the module mixes rows, so that there are more or fewer afterwards.
        """
        rows = [len(each) for each in inputs]
        joined = torch.cat(list(inputs)).detach()
        if joined.is_floating_point():
            joined.requires_grad_(True)
        with torch.enable_grad():
            out: torch.Tensor = self.module(joined)
        if len(out) != sum(rows):
            raise BadTask(f"{sum(rows)} rows went in and {len(out)} came out: keep examples in dimension 0")
        self._held = joined, out, rows
        return list(out.detach().split(rows))

    def backward(self, gradients: Sequence[torch.Tensor | None], divisor: float = 1.0) -> list[torch.Tensor]:
        """Add to the parameters' gradients, and return those of the inputs; all divided by `divisor`.

        None: whose rows these are is gone; they count for nothing. What was held of `forward` is given up.

        Raises:
            RuntimeError: nothing is held.
        """
        if self._held is None:
            raise RuntimeError("backward without forward")
        (joined, out, rows), self._held = self._held, None
        shape = out.shape[1:]
        told = [
            out.new_zeros(count, *shape) if each is None else each.to(out.dtype) / divisor
            for each, count in zip(gradients, rows, strict=True)
        ]
        out.backward(torch.cat(told))
        found = joined.grad if joined.grad is not None else torch.zeros_like(joined)
        return list(found.split(rows))


@dataclass(frozen=True, slots=True)
class Judged:
    """What a client makes of outputs: it alone has the labels."""

    loss: float
    """Sum over the rows."""
    gradient: torch.Tensor
    """Of that sum, with respect to what the host sent; as long as that."""
    right: int
    """Rows whose class has the highest score."""


def judge(outputs: torch.Tensor, labels: torch.Tensor, head: nn.Module | None = None) -> Judged:
    """Return the summed cross entropy of a client's rows and its gradient.

    `head`: the client's own; gradients of its parameters are added to, and are of the sum as well: divide
    them by the rows of the step before the optimizer's. Without it `outputs` are logits.
    """
    held = outputs.detach().requires_grad_(True)
    with torch.enable_grad():
        scores = held if head is None else head(held)
        loss = functional.cross_entropy(scores, labels, reduction="sum")
        loss.backward()
    assert held.grad is not None
    return Judged(float(loss.detach()), held.grad, int((scores.argmax(-1) == labels).sum()))


def clip_rows(gradient: torch.Tensor, bound: float) -> tuple[torch.Tensor, int]:
    """Shorten rows to a norm of at most `bound`; returns them and how many were longer.

    Rows that are not finite become 0.
    """
    flat = gradient.flatten(1)
    norms = flat.norm(dim=1)
    finite = norms.isfinite()
    longer = finite & (norms > bound * (1 + 1e-5))
    scale = torch.where(longer, bound / norms.clamp_min(1e-30), torch.ones_like(norms))
    kept = torch.where(finite[:, None], flat, torch.zeros_like(flat)) * scale[:, None]
    return kept.view_as(gradient), int((longer | ~finite).sum())


def scale_gradients(module: nn.Module, divisor: float) -> None:
    """Divide the gradients of a module's parameters, which are of a sum over rows."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad /= divisor


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
