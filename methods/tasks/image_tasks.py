"""Image tasks: a user's own pictures, and the last blocks of CLIP's image encoder to fit to them.

    images        one dataset; its last blocks and a head, for deltamask and all methods that average
    image_tasks   several datasets on a node, a frozen head for each; low-rank changes of the blocks, for matu

The first blocks are frozen in either case. What they make of an image is computed once, when the node
starts, and kept in place of the image; they are no part of the model that travels.

Low-rank changes: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
https://arxiv.org/abs/2106.09685: W x becomes W x + B A x, with B zero at the start; only A and B are
trained and travel.
"""

from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from shoal.methods.coding.keystream import derive_key, uniform_words
from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Role, Task
from shoal.methods.learning.task_identity import Identity
from shoal.methods.tasks.clip_encoder import Encoder, Tail, find_model, load_encoder
from shoal.methods.tasks.image_folder import Split, find_split, find_training
from shoal.methods.tasks.partition import dirichlet, parse_share

CLIP: Final = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
BATCH: Final = 64
HEAD_FILE: Final = "head.safetensors"
"""In a dataset's folder: ``weight``, float32 [classes, hidden], such as a text encoder makes of the names."""
Tokens = tuple[torch.Tensor, torch.Tensor]


class Images(Task):
    """Which class is the image? The last blocks of CLIP's image encoder and a head."""

    def __init__(
        self,
        data: str,
        model: str = CLIP,
        share: str = "1/1",
        alpha: float = 10.0,
        seed: int = 0,
        blocks: int = 5,
        limit: int = 2000,
        validation: float = 0.0,
    ) -> None:
        """`data`: a folder with train and test, or a dataset on the hub. `model`: a folder, or a name there.

        `share`, `alpha`, `seed`: as for the task digits. `blocks`: how many are trained, from the end; the
        paper's five. `limit`: of this node's examples, and of the test's; each takes 75 kB of memory.
        `validation`: which share of the training images no node trains on, where there is no such folder.

        Raises:
            BadOption: an option makes no sense, or something is missing.
        """
        self._encoder = _encoder(model, blocks)
        self._blocks = blocks
        (train, held_out), test = find_training(data, validation), find_split(data, "test")
        self._classes = len(train.classes)
        self._train = tokens_of(self._encoder, train, _share(train, share, alpha, seed, limit), blocks)
        self._validation = _validation(self._encoder, held_out, limit, seed, blocks)
        self._test = tokens_of(self._encoder, test, _some(test, limit, seed), blocks)

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(
            Tail(load_copy(self._encoder), self._blocks).requires_grad_(True),
            nn.Linear(self._encoder.shape.hidden_size, self._classes),
        )

    def role(self, name: str) -> Role:
        """See `Task`: weights of attention and perceptrons are the body; biases and norms stay."""
        if name.startswith("1."):
            return "head"
        return "body" if name.endswith("weight") and "norm" not in name else "frozen"

    def train_data(self) -> Tokens:
        """See `Task`."""
        return self._train

    def validation_data(self) -> Tokens | None:
        """See `Task`."""
        return self._validation

    def test_data(self) -> Tokens:
        """See `Task`."""
        return self._test

    def optimizer(self, params: Any, lr: float) -> torch.optim.Optimizer:
        """See `Task`: Adam, as transformers are usually fine-tuned."""
        return torch.optim.Adam(params, lr=lr)


class ImageTask(Task):
    """One dataset of several, with a frozen head on the common encoder."""

    def __init__(
        self,
        identity: Identity,
        head: torch.Tensor,
        train: Tokens,
        test: Tokens,
        validation: Tokens | None = None,
    ) -> None:
        """`head`: [classes, hidden]."""
        self._identity, self._head = identity, head
        self._train, self._validation, self._test = train, validation, test

    def train_data(self) -> Tokens:
        """See `Task`."""
        return self._train

    def validation_data(self) -> Tokens | None:
        """See `Task`."""
        return self._validation

    def test_data(self) -> Tokens:
        """See `Task`."""
        return self._test

    def outputs(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """See `Task`."""
        scores: torch.Tensor = model(x) @ self._head.to(x.device).T
        return scores

    def identity(self) -> Identity:
        """See `Task`."""
        return self._identity


class ImageTasks(Task):
    """Several datasets, one encoder with low-rank changes. As one task it trains them on all datasets."""

    def __init__(
        self,
        data: str,
        model: str = CLIP,
        share: str = "1/1",
        alpha: float = 10.0,
        seed: int = 0,
        blocks: int = 5,
        rank: int = 16,
        limit: int = 1000,
        validation: float = 0.0,
    ) -> None:
        """`data`: this node's datasets with commas between. `rank`: of the changes; the paper's 16.

        The others as for the task images; `limit` is for each dataset.

        Raises:
            BadOption: an option makes no sense, or something is missing.
        """
        if not 1 <= rank <= 1024:
            raise BadOption(f"rank = {rank}: choose from 1 to 1024; the paper takes 16")
        self._encoder, self._blocks, self._rank = _encoder(model, blocks), blocks, rank
        self._parts: dict[str, ImageTask] = {}
        for each in (text.strip() for text in data.split(",")):
            (train, held_out), test = find_training(each, validation), find_split(each, "test")
            head = frozen_head(each, train.classes, self._encoder.shape.hidden_size)
            identity = identity_of(Path(each).name, train.classes, head, self._encoder)
            self._parts[identity.name] = ImageTask(
                identity,
                head,
                tokens_of(self._encoder, train, _share(train, share, alpha, seed, limit), blocks),
                tokens_of(self._encoder, test, _some(test, limit, seed), blocks),
                _validation(self._encoder, held_out, limit, seed, blocks),
            )

    def model(self) -> nn.Module:
        """Return the last blocks, of which only the low-rank changes are parameters."""
        tail = Tail(load_copy(self._encoder), self._blocks)
        for block in tail.layers:
            for name in ("q_proj", "v_proj"):
                setattr(block.self_attn, name, LowRank(getattr(block.self_attn, name), self._rank))
        _hide(tail)
        return tail

    def parts(self) -> dict[str, ImageTask]:
        """See `Task`."""
        return dict(self._parts)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return tokens, labels and which of our datasets each is from."""
        data = [part.train_data() for part in self._parts.values()]
        which = torch.cat([torch.full((len(y),), i) for i, (_, y) in enumerate(data)])
        return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]), which

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`: the mean over all examples, each under the head of its dataset."""
        x, y, which = batch
        losses = [
            functional.cross_entropy(part.outputs(model, x[which == i]), y[which == i], reduction="sum")
            for i, part in enumerate(self._parts.values())
            if (which == i).any()
        ]
        return torch.stack(losses).sum() / len(y)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """See `Task`: the mean accuracy over this node's datasets, and each."""
        found = {name: part.accuracy(model, part.test_data()) for name, part in self.parts().items()}
        return {
            "accuracy": sum(found.values()) / len(found),
            **{f"accuracy {name}": value for name, value in found.items()},
        }

    def optimizer(self, params: Any, lr: float) -> torch.optim.Optimizer:
        """See `Images`."""
        return torch.optim.Adam(params, lr=lr)


class LowRank(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy, see pyproject.toml
    """A linear layer and a low-rank change of it."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        """`layer`: stays as it is."""
        super().__init__()
        self.layer = layer
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + B A x."""
        changed: torch.Tensor = self.layer(x) + x @ self.a.T @ self.b.T
        return changed


def frozen_head(data: str, classes: tuple[str, ...], hidden: int) -> torch.Tensor:
    """Return the head in a dataset's folder, or else one drawn from the names of the classes.

    Raises:
        BadOption: the file holds something else.
    """
    path = Path(data) / HEAD_FILE
    if not path.is_file():
        key = derive_key("image head", *(name.encode() for name in classes))
        words = uniform_words(key, len(classes) * hidden)
        signs = np.where(words & 1, np.float32(1), np.float32(-1)) / np.float32(hidden**0.5)
        return torch.tensor(signs.reshape(len(classes), hidden))
    try:
        weight = load_file(path)["weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise BadOption(f"{path} has no weight: {error}; remove it or write it anew") from error
    if weight.shape != (len(classes), hidden):
        wanted = [len(classes), hidden]
        raise BadOption(f"{path} is {list(weight.shape)}, not {wanted}; remove it or write it anew")
    return weight.to(torch.float32)


def identity_of(name: str, classes: tuple[str, ...], head: torch.Tensor, encoder: Encoder) -> Identity:
    """Return what makes a dataset the same task: its name and classes, and all that is frozen around it."""
    digest = blake2b(head.numpy().tobytes(), digest_size=32)
    for tensor in encoder.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return Identity(name=name[-100:], classes=classes, head=digest.digest())


def tokens_of(encoder: Encoder, split: Split, indices: Any, blocks: int) -> Tokens:
    """Return what the first blocks make of images, and the labels."""
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(indices), BATCH):
            pixels = torch.stack(list(split.pixels(indices[start : start + BATCH], encoder.shape.image_size)))
            found.append(encoder.stem(pixels, blocks).half())
    return torch.cat(found), torch.tensor(split.labels[indices])


def load_copy(encoder: Encoder) -> Encoder:
    """Return a copy, so that a model's training leaves the encoder as it was."""
    copy = Encoder(encoder.shape)
    copy.load_state_dict(encoder.state_dict())
    return copy


def _encoder(model: str, blocks: int) -> Encoder:
    encoder = load_encoder(find_model(model))
    most = encoder.shape.num_hidden_layers
    if not 1 <= blocks <= most:
        raise BadOption(f"blocks = {blocks}: choose from 1 to {most}, which is how many {model} has")
    return encoder


def _share(split: Split, share: str, alpha: float, seed: int, limit: int) -> Any:
    mine, shares = parse_share(share)
    part = dirichlet(
        split.labels, shares, alpha=alpha, seed=seed, minimum=min(8, len(split.labels) // shares)
    )
    return np.sort(np.random.default_rng(seed).permutation(part[mine])[:limit])


def _some(split: Split, limit: int, seed: int) -> Any:
    return np.sort(np.random.default_rng(seed).permutation(len(split.labels))[:limit])


def _validation(encoder: Encoder, split: Split | None, limit: int, seed: int, blocks: int) -> Tokens | None:
    return None if split is None else tokens_of(encoder, split, _some(split, limit, seed), blocks)


def _hide(model: nn.Module) -> None:
    """Make every parameter but the low-rank ones a buffer that is no part of the vector that travels."""
    for module in model.modules():
        if isinstance(module, LowRank):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
