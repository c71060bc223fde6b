"""A callback of Hugging Face's Trainer, and so of TRL's trainers: one line takes a script into a swarm.

    from shoal.huggingface import SwarmCallback
    Trainer(model, args, train_dataset=data, callbacks=[SwarmCallback(every=100, join=[...])])

An optimizer step of the Trainer is a step of the swarm, however many batches are accumulated for it; one
that was left out, since its gradients were not finite, is none. All ranks of a torchrun have the callback.
"""

from typing import Any, Final

from shoal.node.integrations.figures import missing, of_swarm, to_report
from shoal.node.optimizer.checks import check_groups
from shoal.node.optimizer.swarm import Swarm

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise missing("hf", "transformers, or what it needs for its Trainer,") from error

_KEY: Final = "shoal"
"""Our place in the state that the Trainer saves in its checkpoints."""


class SwarmCallback(TrainerCallback):  # type: ignore[misc]  # transformers' classes are unknown to mypy
    """Takes the model of a Trainer into a swarm while it trains."""

    def __init__(self, **options: Any) -> None:
        """`options`: the arguments of `shoal.Swarm` beside the model, such as ``every`` and ``join``."""
        self._options = options
        self.swarm: Swarm | None = None
        """From the beginning of the training on; closed at its end."""

    def lead(self, trainer: "Trainer") -> "SwarmCallback":
        """Be called before the callbacks of trackers, so that wandb and others get ``shoal/...`` too."""
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(each for each in callbacks if each is not self)]
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Attach, once the Trainer has prepared the model and read its checkpoint."""
        if self.swarm is not None:
            self.swarm.close()
        model, optimizer = found["model"], found.get("optimizer")
        if optimizer is not None:
            check_groups(optimizer.param_groups, model)
        resume = state.stateful_callbacks.get(_KEY) if state.global_step else None
        self.swarm = Swarm(model, resume=resume, **self._options)
        self._look(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Count an optimizer step; average when it is time."""
        if self.swarm is None:
            return
        if not getattr(found.get("optimizer"), "step_was_skipped", False):
            ranks = max(int(args.world_size), 1)
            self.swarm.step(samples=args.train_batch_size * args.gradient_accumulation_steps * ranks)
        self._look(control)
        self._keep(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Leave in a checkpoint where the swarm stands."""
        self._keep(state, control)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **found: Any
    ) -> None:
        """Show the Trainer's numbers on the node's page, and the swarm's in the Trainer's log."""
        if self.swarm is None or logs is None:
            return
        self.swarm.report(**to_report(logs))
        said = of_swarm(self.swarm)
        logs.update(said)
        if state.log_history:
            state.log_history[-1].update(said)

    def on_train_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Leave the swarm."""
        if self.swarm is not None:
            self.swarm.close()

    def _look(self, control: Any) -> None:
        """End the training when the run is over."""
        if self.swarm is not None and self.swarm.is_finished:
            control.should_training_stop = True

    def _keep(self, state: Any, control: Any) -> None:
        if self.swarm is not None and control.should_save:
            state.stateful_callbacks[_KEY] = self.swarm.state_dict()
