"""A small vision transformer on the digits, trained together by Lightning; nothing is downloaded.

One line differs from training alone, marked with "# swarm". It needs: pip install 'shoal[lightning]'
In two terminals, or on two machines with the first one's address in place of 127.0.0.1:

    python examples/lightning_vit.py --share 1/2 --home /tmp/one --node-option=--port=4720
    python examples/lightning_vit.py --share 2/2 --home /tmp/two --join 127.0.0.1:4720
"""

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from shoal.lightning import SwarmCallback  # swarm
from shoal.methods.tasks.digits import Digits  # stands for your own data


class Vit(pl.LightningModule):  # type: ignore[misc]  # Lightning's classes are unknown to mypy
    """A vision transformer: 16 patches of 2 by 2, two layers."""

    def __init__(self, width: int = 32) -> None:
        """`width`: of a token."""
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Linear(4, width)
        self.places = nn.Parameter(torch.randn(16, width) / 10)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of the ten digits; `x`: [n, 64], rows of 8 by 8."""
        patches = x.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        found: torch.Tensor = self.head(self.body(self.patches(patches) + self.places).mean(1))
        return found

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        """Return what trains it."""
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def main() -> None:
    """Train until the run has had its rounds, and measure."""
    given = arguments()
    torch.set_num_threads(1)
    digits = Digits(share=given.share, alpha=10, seed=0)
    swarm = SwarmCallback(
        method="fedavg",
        every=given.every,
        rounds=given.rounds,
        home=given.home,
        join=given.join,
        node_options=given.node_option,
    )
    vit = Vit()
    trainer = pl.Trainer(
        max_steps=100_000,  # the run ends before
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[swarm],  # swarm
    )
    trainer.fit(vit, DataLoader(TensorDataset(*digits.train_data()), batch_size=32, shuffle=True))
    x, y = digits.test_data()
    vit.eval()
    with torch.no_grad():
        accuracy = float((vit(x).argmax(1) == y).float().mean())
    print(f"accuracy {accuracy:.3f}", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A vision transformer in a swarm, by Lightning.")
    parser.add_argument("--share", default="1/1", help="which share of the digits, such as 1/2")
    parser.add_argument("--home", required=True, help="the folder of this process's node")
    parser.add_argument("--join", action="append", default=[], help="a node to join; repeatable")
    parser.add_argument("--every", type=int, default=20, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=12, help="of the run; the same on all peers")
    parser.add_argument(
        "--node-option",
        action="append",
        default=["--port=0", "--http-port=0"],
        help="an argument of shoal start, as in --node-option=--port=4720",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
