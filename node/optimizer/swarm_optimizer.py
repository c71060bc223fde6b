"""SwarmOptimizer: a user's own PyTorch loop takes part in a swarm, by three changed lines.

    import shoal
    with shoal.SwarmOptimizer(optimizer, model, every=50) as optimizer:
        for x, y in batches:
            ...
            optimizer.step()            # every 50th of these averages the model with the swarm's

It is one of torch's optimizers around a `Swarm` (swarm.py), which it tells of each step that was taken.
"""

from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import Any, Final

import torch
from torch import nn

from shoal.node.optimizer.checks import check_groups, checked_weight
from shoal.node.optimizer.swarm import Swarm
from shoal.node.optimizer.wrapped import WrappedOptimizer

_STATE: Final = "shoal"
"""Our place in the state of the optimizer."""


class SwarmOptimizer(WrappedOptimizer):
    """A torch optimizer whose every H-th step averages the model in the swarm. Also a context manager."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, *, weight: float = 1.0, **options: Any
    ) -> None:
        """Attach to the node in `home`, or start one that joins `join`; the model may change right here.

        `weight`: how much this peer counts, such as its examples. `options`: the arguments of `Swarm`, such
        as ``every=50``, ``join=[...]`` and ``method="diloco"``.

        Under torchrun all ranks make one; rank 0 speaks with the node, and the others take over what it has.

        Raises:
            BadTask: the optimizer trains what is none of the model's.
            MethodsError, UserError: see `Swarm`.
        """
        super().__init__(optimizer)
        self._seen_steps = 0
        self.model = model
        try:
            check_groups(optimizer.param_groups, model)
            self.swarm = Swarm(model, weight=checked_weight(weight), **options)
            """What averages."""
        except BaseException:
            self._let_go()
            raise

    @property
    def every(self) -> int:
        """Local steps per round."""
        return self.swarm.every

    @property
    def rounds(self) -> int:
        """How many rounds the swarm has behind it."""
        return self.swarm.rounds

    @property
    def is_finished(self) -> bool:
        """Whether the run is over; steps go on without the swarm."""
        return self.swarm.is_finished

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the wrapped optimizer; when it is time, average with the swarm.

        Raises:
            BadTask: the model has other tensors than at the start.
            NoRanks: rank 0 has failed.
        """
        loss = super().step(closure)
        if loss is not None:
            self.report(loss=loss)
        taken, self._seen_steps = self.steps_taken - self._seen_steps, self.steps_taken
        # Where nothing was stepped, gradients are still gathered, or were not finite.
        if taken:
            self.swarm.step(taken)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimizer, and how far the swarm is."""
        return {**super().state_dict(), _STATE: self.swarm.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned here, or that of the wrapped optimizer; load the model first.

        Where the swarm is in another round its state wins: the model takes it over.
        """
        rest = dict(state_dict)
        ours = rest.pop(_STATE, None)
        super().load_state_dict(rest)
        if ours is not None:
            self.swarm.load_state_dict(ours)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`.

        Raises:
            BadTask: a tensor in it is no parameter of the model, so it would never travel.
        """
        given = param_group["params"]
        listed = [given] if isinstance(given, torch.Tensor) else list(given)
        check_groups([{"params": listed}], self.model)
        super().add_param_group({**param_group, "params": listed})

    def report(self, **metrics: float) -> None:
        """Say what the status page shows of the next round, such as ``loss`` and ``accuracy``.

        What is no finite number is left out, and said once.
        """
        self.swarm.report(**metrics)

    def save_model(self, path: str | PathLike[str], *, values: int = 0) -> None:
        """Write the model as it is now. See `Swarm.save_model`, also for what it raises."""
        self.swarm.save_model(path, values=values)

    def close(self) -> None:
        """Leave the swarm; stop the node if it was started here."""
        self._let_go()
        self.swarm.close()

    def __enter__(self) -> "SwarmOptimizer":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self._let_go()
        self.swarm.__exit__(kind, error, trace)
