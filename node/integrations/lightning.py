"""A callback of Lightning's Trainer: one line takes a LightningModule into a swarm.

    from shoal.lightning import SwarmCallback
    Trainer(callbacks=[SwarmCallback(every=100, join=[...])])

It is a callback and no strategy, so that DDP or FSDP2 may run inside the node. Each step of an optimizer
that Lightning counts is a step of the swarm.
"""

import sys
from typing import Any

import torch

from shoal.node.integrations.figures import missing, of_swarm, to_report
from shoal.node.optimizer.checks import check_groups
from shoal.node.optimizer.swarm import Swarm

try:
    # Both packages hold the same, and a script uses one of them.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise missing("lightning", "lightning") from error


class SwarmCallback(Callback):  # type: ignore[misc]  # Lightning's classes are unknown to mypy
    """Takes a LightningModule into a swarm while it trains."""

    def __init__(self, **options: Any) -> None:
        """`options`: the arguments of `shoal.Swarm` beside the model, such as ``every`` and ``join``."""
        self._options = options
        self.swarm: Swarm | None = None
        """From the beginning of the training on; closed at its end."""
        self._resume: dict[str, Any] | None = None
        self._seen = self._samples = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, once the model is where it trains and checkpoints are read."""
        if self.swarm is not None:
            self.swarm.close()
        model = trainer.model
        for optimizer in trainer.optimizers:
            check_groups(optimizer.param_groups, model)
        self.swarm = Swarm(model, resume=self._resume, **self._options)
        self._resume = None
        self._seen, self._samples = trainer.global_step, 0
        self._look(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the steps that Lightning has taken; average when it is time."""
        swarm = self.swarm
        if swarm is None:
            return
        self._samples += _length(batch) * trainer.world_size
        taken, self._seen = trainer.global_step - self._seen, trainer.global_step
        if not taken:
            return
        if swarm.steps + taken >= swarm.every:  # a number that is on a GPU costs a wait, so only now
            swarm.report(**to_report(_loss(outputs) | dict(trainer.callback_metrics)))
        ended = swarm.step(taken, samples=self._samples)
        self._samples = 0
        if ended is not None:
            for logger in trainer.loggers:
                logger.log_metrics(of_swarm(swarm), step=trainer.global_step)
        self._look(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Show what was measured on the node's page."""
        if self.swarm is not None and not trainer.sanity_checking:
            self.swarm.report(**to_report(trainer.callback_metrics))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the swarm."""
        if self.swarm is not None:
            self.swarm.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the swarm."""
        if self.swarm is not None:
            self.swarm.__exit__(type(exception), exception, None)

    def state_dict(self) -> dict[str, Any]:
        """Return where the swarm stands, for Lightning's checkpoint."""
        return {} if self.swarm is None else self.swarm.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where the swarm stood when the checkpoint was made."""
        self._resume = dict(state_dict) or None

    def _look(self, trainer: Any) -> None:
        """End the training when the run is over."""
        if self.swarm is not None and self.swarm.is_finished:
            trainer.should_stop = True


def _loss(outputs: Any) -> dict[str, Any]:
    """Return what a training step returned as its loss."""
    if isinstance(outputs, torch.Tensor):
        return {"loss": outputs}
    return {"loss": outputs["loss"]} if isinstance(outputs, dict) and "loss" in outputs else {}


def _length(batch: Any) -> int:
    """Return how many examples a batch has: the first length of the first tensor in it, or 0."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 0
    inside = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return next((length for each in inside if (length := _length(each))), 0)
