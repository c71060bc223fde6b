"""What a method adds to the gradients of local steps: a pull to the common params, a constant, an ascent."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def pulled(gradient: torch.Tensor, distance: torch.Tensor, strength: float) -> torch.Tensor:
    """Return a gradient plus that of strength/2 · |distance|²; sparse if it was.

    Some optimizers take sparse gradients only. Rows that did not move are not pulled.
    """
    if gradient.layout is torch.strided:
        return gradient.add_(distance, alpha=strength)
    if gradient.layout is not torch.sparse_coo:
        return gradient.to_dense().add_(distance, alpha=strength)
    pull = distance.to_sparse(gradient.sparse_dim())
    return (gradient + strength * pull).coalesce()


def corrected(gradient: torch.Tensor, correction: torch.Tensor) -> torch.Tensor:
    """Return a gradient plus a constant; dense, since the constant is."""
    if gradient.layout is torch.strided:
        return gradient.add_(correction)
    return gradient.to_dense().add_(correction)


@contextmanager
def uphill(weights: Sequence[nn.Parameter], radius: float) -> Iterator[None]:
    """Move weights by `radius` along their gradient for a while, and put them back to the last bit.

    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", ICLR 2021, https://arxiv.org/abs/2010.01412, equation 2.
    """
    found = [(w, w.detach().clone(), w.grad) for w in weights if w.grad is not None]
    if not found:
        yield
        return
    norm = torch.linalg.vector_norm(torch.stack([_norm(grad) for _, _, grad in found]))
    with torch.no_grad():
        for weight, _, grad in found:
            weight.add_(grad * (radius / (norm + 1e-7)).to(grad.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before, _ in found:
                weight.copy_(before)


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    values = gradient if gradient.layout is torch.strided else gradient.coalesce().values()
    return torch.linalg.vector_norm(values, dtype=torch.float32)
