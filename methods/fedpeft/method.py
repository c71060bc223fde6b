"""FedPEFT: freeze a pre-trained model, train a small part of it, and let only that travel.

Sun, Khalid, Mendieta, Wang, Chen, "Exploring Parameter-Efficient Fine-Tuning to Enable Foundation Models in
Federated Learning", 2022, https://arxiv.org/abs/2210.01708. With φ frozen and δ trained, |δ| much less than
|φ|:

    δ_k ← H steps of the node's optimizer on its own data, from δ, under φ
    δ   ← Σ_k (n_k / n) δ_k

    family     δ is
    head       the last linear layer
    bias       all biases, and the head
    adapter    a bottleneck after each block, and the head: x + U · relu(D · x)
    prompt     learned tokens before the sequence, and the head
    trained    what the model's own code left trained, as Hugging Face PEFT does

φ is pinned: its hash is in the run's name, and it never travels (methods/learning/parts.py). So all peers
must have it. The paper's server keeps φ and sends it once; here each node brings it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from shoal.methods.base import About
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.needs import LAST_LINEAR, Need


class FedPEFTConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedPEFT."""

    family: Literal["bias", "head", "adapter", "prompt", "trained"] = "bias"
    """What is trained: head, bias and head, an adapter or a prompt and the head, or what the model has
    trained."""
    width: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 8
    """Numbers in the bottleneck of an adapter."""
    length: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 10
    """Tokens of a prompt."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 15
    """Optimizer steps per round (H)."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of local work."""


@dataclass(frozen=True, slots=True)
class FedPEFT(FedAvg):
    """See `Method`."""

    # What is trained is chosen before the first step.
    follows_any_loop: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="a pre-trained model()",
            must=False,
            why="the same on all nodes: what is frozen never changes, and its hash is in the run's name",
        ),
        Need(
            what=LAST_LINEAR,
            must=False,
            why="the head, which is trained in every family but trained",
        ),
    )
    about: ClassVar[About] = About(
        paper="Sun et al., Exploring Parameter-Efficient Fine-Tuning to Enable Foundation Models in Federated"
        " Learning, 2022, https://arxiv.org/abs/2210.01708",
        exchanges="what is trained, once per round, as a mean weighted by examples; the frozen rest never",
        use="To fine-tune a pre-trained model that all nodes have: a tenth of the bytes or far less. Training"
        " all of the model reaches more where the lines allow it.",
    )

    config: FedPEFTConfig = field(default_factory=FedPEFTConfig)

    def prepare(self, model: Any) -> Collection[str] | None:
        """See `Prepares`."""
        # Here, since this module is read where torch is not.
        from shoal.methods.fedpeft.adapters import add_adapters, add_prompt
        from shoal.methods.learning.parts import select

        c = self.config
        if c.family == "trained":
            return None
        if c.family in ("head", "bias"):
            return select(model, c.family)
        head = select(model, "head")
        add: Mapping[str, Callable[[], None]] = {
            "adapter": lambda: add_adapters(model, c.width),
            "prompt": lambda: add_prompt(model, c.length),
        }
        add[c.family]()
        return select(model, c.family) | head
