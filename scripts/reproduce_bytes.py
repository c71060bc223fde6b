"""What a codec costs in loss and saves in bytes, beside DDP: DiLoCo with plain averaging on a language model.

    python scripts/reproduce_bytes.py [--seeds 3] [--json] [--tiny] [--systems ddp float32 int4]

Four peers train a transformer on characters: this repository's Python files, a top folder each, the last
tenth of every file put aside. DDP takes a step of AdamW on the mean gradient; the others take H steps each
and average what they changed (outer_lr 1, no momentum), with the cores of the swarm's all-reduce and its
codecs, in one process. Without --tiny the model has a million parameters, 1,000 steps and H = 100: that takes
up to 40 minutes of processor. --tiny takes 63 thousand, 80 steps and H = 20, to see that it works.

A line per system: the mean loss on what was put aside in nats, its standard deviation over the seeds, the
bytes of numbers that a peer sends, without headers, and how many times fewer than DDP's in float32.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402  # the path comes first
import torch  # noqa: E402
from exchange import CodedRun, Exchange  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from shoal.gossip.averaging.tensor_codecs import CODECS  # noqa: E402
from shoal.gossip.run_spec import CHUNK_NUMEL  # noqa: E402
from shoal.methods.diloco import DiLoCo, DiLoCoConfig  # noqa: E402
from shoal.methods.learning.learner import TorchLearner  # noqa: E402
from shoal.methods.learning.task import Task  # noqa: E402

FOLDERS: Final = ("gossip", "node", "methods", "tests")
"""Whose files the four peers have."""
CHARACTERS: Final = [chr(code) for code in (10, *range(32, 127))]
"""Each has a number; all others count as the space."""
DDP: Final = "ddp"
SYSTEMS: Final = (DDP, "float32", "int8", "int4", "int2", "sign")


@dataclass(frozen=True)
class Size:
    """A model, and how long it is trained."""

    width: int
    layers: int
    length: int
    """Characters that it sees at once."""
    batch_size: int
    steps: int
    per_round: int
    """Steps of a round (H)."""
    lr: float
    measured: int
    """Windows of each peer's text that the loss is measured on."""


FULL: Final = Size(144, 4, 64, 4, 1000, 100, 1e-3, 64)
TINY: Final = Size(48, 2, 32, 8, 80, 20, 3e-3, 32)


class Block(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy, see pyproject.toml
    """Attention to what came before, then a small network, each added to its input."""

    def __init__(self, width: int) -> None:
        """`width` is a multiple of the four heads."""
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.split = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return numbers of the same shape."""
        heads = (*x_BTD.shape[:2], 4, -1)
        parts = self.split(self.norms[0](x_BTD)).chunk(3, dim=-1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.join(mixed.transpose(1, 2).flatten(2))
        return x_BTD + self.network(self.norms[1](x_BTD))


class CharModel(nn.Module):  # type: ignore[misc]
    """A transformer that says which character comes next."""

    def __init__(self, size: Size) -> None:
        """Its parameters come from torch's random numbers."""
        super().__init__()
        self.characters = nn.Embedding(len(CHARACTERS), size.width)
        self.places = nn.Embedding(size.length, size.width)
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        blocks = [Block(size.width) for _ in range(size.layers)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(size.width))
        self.scores = nn.Linear(size.width, len(CHARACTERS))
        self.scores.weight = self.characters.weight

    def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
        """Return a score per character for every place."""
        places = self.places.weight[: x_BT.shape[1]]
        scores: torch.Tensor = self.scores(self.blocks(self.characters(x_BT) + places))
        return scores


class Text(Task):
    """A folder's Python files, in windows of characters."""

    def __init__(self, size: Size, folder: str) -> None:
        """`folder`: at the top of the repository."""
        self.size = size
        trained, aside = [], []
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text("utf-8")
            cut = len(text) * 9 // 10
            trained.append(text[:cut])
            aside.append(text[cut:])
        self._train = windows("".join(trained), size.length)
        self._aside = windows("".join(aside), size.length)

    def model(self) -> nn.Module:
        """See `Task`."""
        return CharModel(self.size)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._train

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of a character, in nats."""
        x, y = batch
        return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return torch.optim.AdamW(params, lr=lr)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the loss on windows from all over what was put aside."""
        x, y = self._aside
        places = torch.linspace(0, len(x) - 1, self.size.measured).long()
        return {"loss": float(self.loss(model, (x[places], y[places])))}


def windows(text: str, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows side by side, int64 [n, length], and the character after each place."""
    table = {character: number for number, character in enumerate(CHARACTERS)}
    numbers = torch.tensor([table.get(character, 1) for character in text])
    n = (len(numbers) - 1) // length
    return numbers[: n * length].view(n, length), numbers[1 : n * length + 1].view(n, length)


def run_ddp(size: Size, tasks: Sequence[Text], seed: int) -> float:
    """Return the loss of steps on the mean gradient of all peers' batches."""
    torch.manual_seed(seed)
    model = tasks[0].model()
    optimizer = tasks[0].optimizer(model.parameters(), size.lr)
    batches = [shuffled(task, size.batch_size) for task in tasks]
    model.train()
    for _ in range(size.steps):
        drawn = [next(each) for each in batches]
        x, y = (torch.cat(each) for each in zip(*drawn, strict=True))
        optimizer.zero_grad()
        tasks[0].loss(model, (x, y)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return fmean(task.metrics(model)["loss"] for task in tasks)


def shuffled(task: Text, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of a peer's windows without end."""
    x, y = task.train_data()
    while True:
        for places in torch.randperm(len(x)).split(batch_size):
            yield x[places], y[places]


def run_codec(
    size: Size, tasks: Sequence[Text], seed: int, codec: str, method: DiLoCo
) -> tuple[float, float]:
    """Return the loss of rounds in a codec, and the bytes that a peer sends in all of them."""
    learners = [TorchLearner(task, seed=seed) for task in tasks]
    run = CodedRun(method, learners, codec, chunk_numel=CHUNK_NUMEL)
    run.run(size.steps // size.per_round)
    params = next(iter(run.states.values())).params
    loss = fmean(learner.evaluate(params)["loss"] for learner in learners)
    return loss, run.bytes_sent / len(tasks)


def plain(size: Size, outer_lr: float = 1.0, outer_momentum: float = 0.0) -> DiLoCo:
    """Return DiLoCo whose outer step is the mean, unless told otherwise."""
    config = DiLoCoConfig(
        steps=size.per_round, lr=size.lr, batch_size=size.batch_size, weighted=False, outer_lr=outer_lr,
        outer_momentum=outer_momentum,
    )  # fmt: skip
    return DiLoCo(config)


def ddp_bytes(size: Size, tasks: Sequence[Text]) -> float:
    """Return what a peer sends in all steps of DDP: an all-reduce of float32 gradients in each."""
    numel = sum(p.numel() for p in CharModel(size).parameters())
    vectors = [np.zeros(numel, np.float32) for _ in tasks]
    step = Exchange(vectors, [1.0] * len(tasks), "float32", chunk_numel=CHUNK_NUMEL)
    step.run()
    return step.bytes_sent / len(tasks) * size.steps


def measure(size: Size, systems: Sequence[str], seeds: Sequence[int]) -> Iterator[Mapping[str, object]]:
    """Yield a line per system."""
    tasks = [Text(size, folder) for folder in FOLDERS]
    most = ddp_bytes(size, tasks)
    for system in systems:
        losses, n_bytes = [], most
        for seed in seeds:
            if system == DDP:
                losses.append(run_ddp(size, tasks, seed))
            else:
                loss, n_bytes = run_codec(size, tasks, seed, system, plain(size))
                losses.append(loss)
            print(f"{system}, seed {seed}: loss {losses[-1]:.4f}", file=sys.stderr, flush=True)
        yield {
            "system": system,
            "loss": round(fmean(losses), 4),
            "loss_spread": round(stdev(losses), 4) if len(losses) > 1 else 0.0,
            "bytes_a_peer": round(n_bytes),
            "times_fewer_than_ddp": round(most / n_bytes, 1),
        }


def shown(line: Mapping[str, object]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(str(value) for value in line.values()) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="reproduce_bytes.py", description="Measure loss and bytes of every codec beside DDP."
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--json", action="store_true", help="a line of JSON per system, not a table")
    parser.add_argument("--tiny", action="store_true", help="63 thousand parameters and 80 steps")
    parser.add_argument("--systems", nargs="+", choices=(DDP, *CODECS), default=SYSTEMS, metavar="NAME")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: choose 1 or more")
    torch.set_num_threads(1)
    for index, line in enumerate(measure(TINY if given.tiny else FULL, given.systems, range(given.seeds))):
        if not given.json and index == 0:
            print("| " + " | ".join(name.replace("_", " ") for name in line) + " |")
            print("|" + "---|" * len(line))
        print(json.dumps(line) if given.json else shown(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
