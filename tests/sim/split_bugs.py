"""Bugs of split learning to plant: each takes one rule out of how a host takes a step. See mutations.py."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shoal.methods.base import Steps
from shoal.methods.mpsl.hosting import Hosting
from shoal.methods.mpsl.tokens import Array

Gradients = Sequence[Array | None]
Backward = Callable[[Hosting, Any, Gradients, float], Steps[list[Array] | None]]


def takes_steps_twice(patch: pytest.MonkeyPatch) -> None:
    """Let a body take each step two times."""

    def backward(honest: Backward) -> Backward:
        def twice(self: Hosting, passed: Any, gradients: Gradients, came: float) -> Steps[list[Array] | None]:
            yield from honest(self, passed, gradients, came)
            return (yield from honest(self, passed, gradients, came))

        return twice

    _patch(patch, backward)


def divides_by_clients(patch: pytest.MonkeyPatch) -> None:
    """Let a step be the mean of its clients' sums, whatever rows they have."""
    _patch_came(patch, lambda passed, gradients: float(sum(each is not None for each in gradients)))


def counts_the_gone(patch: pytest.MonkeyPatch) -> None:
    """Let a step be divided by the rows of those too whose gradients did not come."""
    _patch_came(patch, lambda passed, gradients: float(sum(passed.rows)))


def answers_without_a_step(patch: pytest.MonkeyPatch) -> None:
    """Let a host answer gradients, and leave its body as it is."""

    def backward(honest: Backward) -> Backward:
        def answered(
            self: Hosting, passed: Any, gradients: Gradients, came: float
        ) -> Steps[list[Array] | None]:
            yield from ()
            return [
                rows * 0 if each is None else each / came
                for rows, each in zip(passed.inputs, gradients, strict=True)
            ]

        return answered

    _patch(patch, backward)


def answers_all_alike(patch: pytest.MonkeyPatch) -> None:
    """Let a host answer every client with what is for the first one."""

    def forward(self: Hosting, rows: Sequence[Array]) -> Any:
        outputs, passed = yield from honest(self, rows)
        return [each * 0 + outputs[0][:1] for each in outputs], passed

    honest = Hosting._forward
    patch.setattr(Hosting, "_forward", forward)


def _patch(patch: pytest.MonkeyPatch, change: Callable[[Backward], Backward]) -> None:
    patch.setattr(Hosting, "_backward", change(Hosting._backward))


def _patch_came(patch: pytest.MonkeyPatch, came_of: Callable[[Any, Gradients], float]) -> None:
    def backward(honest: Backward) -> Backward:
        def changed(
            self: Hosting, passed: Any, gradients: Gradients, came: float
        ) -> Steps[list[Array] | None]:
            return (yield from honest(self, passed, gradients, came_of(passed, gradients)))

        return changed

    _patch(patch, backward)
