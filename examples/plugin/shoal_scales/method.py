"""Scales: of a frozen model, what multiplies the outputs of each layer is trained together, and the head.

After Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel, "Few-Shot Parameter-Efficient Fine-Tuning is Better and
Cheaper than In-Context Learning", NeurIPS 2022, https://arxiv.org/abs/2205.05638, section 3.3.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec

import shoal


class ScalesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters. Each one is an option: --option lr=0.1."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    """Optimizer steps per round."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.02
    """Learning rate of Adam."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step."""


@dataclass(frozen=True, slots=True)
class Scales:
    """See `shoal.Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    follows_any_loop: ClassVar[bool] = False
    about: ClassVar[shoal.About] = shoal.About(
        paper="Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context"
        " Learning, NeurIPS 2022, https://arxiv.org/abs/2205.05638",
        exchanges="the scales and the head, once per round, as a mean weighted by examples",
        use="To fit a pre-trained model to new data with a hundredth of its numbers.",
    )

    config: ScalesConfig = field(default_factory=ScalesConfig)

    def prepare(self, model: Any) -> Collection[str]:
        """Add the scales, and return what travels; all the rest of the model is frozen and stays."""
        # Here, since the daemon reads this module too, and never imports torch.
        from shoal_scales.layers import add_scales

        head = shoal.select(model, "head")
        scales = add_scales(model)
        if not scales:
            raise shoal.BadTask("the model has no linear layer before its last: there is nothing to scale")
        return scales | head

    def init(self, params: Any) -> shoal.State:
        """Return the state before round 0; `params`: float32, what travels."""
        return shoal.State(params)

    def traffic(self, model: shoal.ModelSize) -> shoal.Traffic:
        """Return what a peer gives in a round."""
        return shoal.Traffic.one_mean(model.numel)

    def round(self, state: shoal.State, learner: shoal.Learner, round_: int) -> Any:
        """Train, then take the mean; a failed ask throws the round away, and the node runs it again."""
        c = self.config
        trained = learner.train(
            state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, optimizer="adam", round_=round_
        )
        mean = yield from shoal.all_reduce(trained.params, weight=learner.examples)
        return shoal.State(mean.vector), shoal.Report.of(trained, mean.contributors)
