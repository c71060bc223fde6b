"""Sides: what a client and a host hold of a split model whose front and body are frozen, with torch."""

import math
from collections import OrderedDict
from copy import deepcopy
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from shoal.crypto.keys import PeerId
from shoal.methods.errors import BadTask, Interrupted
from shoal.methods.learning.learner import TorchLearner, seeded
from shoal.methods.learning.task import Examples, batch_of, count
from shoal.methods.mpsl.estimate import Sizes
from shoal.methods.mpsl.pieces import Judged, Piece, judge, scale_gradients, split_of
from shoal.methods.mpsl.sides import Trains
from shoal.methods.mpsl.tokens import Array as Rows
from shoal.methods.sfprompt.leak import MOST_EXAMPLES, decoded_share

Places = npt.NDArray[np.int64]
"""Which of a node's examples."""

PROMPT: Final = "prompt"
LEAST_HARDEST: Final = 0.5
"""Below it what is kept is drawn: the hardest alone are worse than any (docs/methods/sfprompt.md)."""
MOST_HELD: Final = 32
"""Peers of which a host holds the last pass."""


def width_of(head: nn.Module) -> int:
    """Return how wide the features are that a head takes.

    Raises:
        BadTask: it has no linear layer.
    """
    first = next((each for each in head.modules() if isinstance(each, nn.Linear)), None)
    if first is None:
        raise BadTask("sfprompt needs a head with an nn.Linear, whose inputs are as wide as the prompt")
    return int(first.in_features)


class ClientSide(Trains):
    """The frozen front, the prompt and the tail."""

    def __init__(self, learner: TorchLearner, cut: int, lr: float, noise: float) -> None:
        """`cut`: see `split_of`. `noise`: see `SFPromptConfig`.

        Raises:
            BadTask, BadOption: see `split_of`; or the front's outputs are not as wide as the head's inputs.
        """
        split = split_of(learner.model, cut)
        self._prompt: nn.Parameter = getattr(learner.model, PROMPT)
        self._front, self._tail, self._body = split.front, split.head, list(split.body)
        super().__init__(learner, [self._prompt, *self._tail.parameters()], lr)
        self._noise = noise
        self._turns = 0
        self._labels = torch.zeros(0, dtype=torch.int64)
        z, width = self._embedded(_one(learner)), self._prompt.shape[1]
        b = z
        with torch.no_grad():
            for block in self._body:
                b = block.eval()(b)
        if z.dim() not in (2, 3) or z.shape[-1] != width or b.shape[1:] != (width,):
            raise BadTask(
                f"sfprompt needs activations as wide as what the head takes, {width}, and features of that"
                f" width; the front gives {tuple(z.shape[1:])} and the body {tuple(b.shape[1:])}: choose"
                " another cut"
            )
        self.entry = tuple(self._prompted(z).shape[1:])
        """Shape of an example's activations, prompt included."""
        self.out = tuple(b.shape[1:])
        """Shape of what the host returns of an example."""
        self.sizes = Sizes(*split.numel, self.entry, self.out, learner.examples)
        self.prompt_numel = self._prompt.numel()

    # --- phase 1: without the host ------------------------------------------------------------------

    def train_locally(self, epochs: int, rows: int, round_: int) -> float:
        """Train prompt and tail with the body left out; returns the mean loss of the last pass.

        Raises:
            Interrupted: the node wants the round thrown away.
        """
        loss = 0.0
        for epoch in range(epochs):
            order = self._order(np.arange(self._learner.examples), round_, epoch)
            total = 0.0
            for part in _parts(order, rows):
                if self._learner.callbacks.is_interrupted():
                    raise Interrupted("the node asked to stop")
                x, y = self._batch(part)
                self._optimizer.zero_grad()
                mean = functional.cross_entropy(
                    self._tail(self._skipped(self._prompted(self._embedded(x)))), y
                )
                mean.backward()
                self._optimizer.step()
                total += float(mean.detach()) * len(part)
            loss = total / len(order)
        return loss

    def hardest(self, share: float, rows: int, round_: int) -> Places:
        """Return the share of the examples that is hardest, by EL2N of the model without its body; sorted.

        Paul, Ganguli, Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021,
        https://arxiv.org/abs/2107.07075. A share below a half is drawn.
        """
        n = self._learner.examples
        keep = max(1, math.ceil(share * n))
        if share < LEAST_HARDEST:
            drawn = self._order(np.arange(n), round_, -1)[:keep]
            return np.sort(drawn)
        scores = np.concatenate([self._el2n(part) for part in _parts(np.arange(n), rows)])
        found: Places = np.sort(np.argsort(-scores, kind="stable")[:keep]).astype(np.int64)
        return found

    def leak(self, round_: int) -> float | None:
        """Return how much of the inputs a linear decoder finds in what the host is sent; see leak.py."""
        places = self._order(np.arange(self._learner.examples), round_, -2)[:MOST_EXAMPLES]
        if not len(places):
            return None
        x, _ = self._batch(places)
        with torch.no_grad():
            sent = self._noisy(self._prompted(self._embedded(x)))
        return decoded_share(_array(sent), _array(x))

    def _el2n(self, part: Places) -> npt.NDArray[np.float64]:
        x, y = self._batch(part)
        with torch.no_grad():
            scores = self._tail(self._skipped(self._prompted(self._embedded(x))))
            error = scores.softmax(-1) - functional.one_hot(y, scores.shape[-1])
        found: npt.NDArray[np.float64] = error.norm(dim=-1).double().cpu().numpy()
        return found

    # --- phase 2: with the host ---------------------------------------------------------------------

    def batches(self, kept: Places, epochs: int, rows: int, round_: int) -> list[Places]:
        """Return which examples each step takes."""
        orders = [self._order(kept, round_, 1000 + epoch) for epoch in range(epochs)]
        return [part for order in orders for part in _parts(order, rows)]

    def forward(self, part: Places) -> Rows:
        """Return activations, float32 [b, ...], of these examples."""
        x, self._labels = self._batch(part)
        with torch.no_grad():
            return _array(self._noisy(self._prompted(self._embedded(x))))

    def judge(self, outputs: Rows) -> Judged | None:
        """Compare what the host returned with the labels; None: no honest host returns that."""
        if outputs.shape != (len(self._labels), *self.out):
            return None
        self._optimizer.zero_grad()
        judged = judge(torch.tensor(outputs, device=self._learner.device), self._labels, self._tail)
        return judged if math.isfinite(judged.loss) and bool(judged.gradient.isfinite().all()) else None

    def features(self, rows: Rows) -> Rows:
        """Return what an honest host returns of these activations; to judge two that do not agree.

        The node has the body, since its hash is in the run's name. It is slow here, and seldom asked.
        """
        with torch.no_grad():
            b = torch.tensor(rows, device=self._learner.device)
            for block in self._body:
                b = block.eval()(b)
        return _array(b)

    @property
    def secret(self) -> bytes:
        """Bytes that no host knows: labels of the step, and the tail where it stands now."""
        return bytes(self._labels.cpu().numpy()) + self.params().tobytes()

    def step(self, gradient: Rows) -> bool:
        """Take a step of the optimizer, unless no honest host returns that; tells whether it did.

        `gradient`: of the activations, summed over the examples: the prompt is the same for all of them.
        """
        if gradient.shape != self.entry:
            return False
        rows = float(len(self._labels))
        summed = torch.tensor(gradient, device=self._learner.device, dtype=self._prompt.dtype)
        of_prompt = summed[: len(self._prompt)] if summed.dim() == 2 else summed.expand_as(self._prompt)
        self._prompt.grad = of_prompt / rows
        scale_gradients(self._tail, rows)
        return self._take_step()

    def test_rows(self, most: int) -> list[tuple[Rows, torch.Tensor]]:
        """Return activations and labels of test examples, at most so many at once."""
        data = self._learner.task.test_data()
        found = []
        for part in [] if data is None else _parts(np.arange(count(data)), most):
            x, y = self._batch(part, data)
            with torch.no_grad():
                found.append((_array(self._prompted(self._embedded(x))), y))
        return found

    def right(self, outputs: Rows, labels: torch.Tensor) -> int | None:
        """Return how many examples the model gets right; None: no honest host returns that."""
        if outputs.shape != (len(labels), *self.out):
            return None
        self._tail.eval()
        with torch.no_grad():
            scores = self._tail(torch.tensor(outputs, device=self._learner.device))
        return int((scores.argmax(-1) == labels).sum())

    # --- inside -------------------------------------------------------------------------------------

    def _batch(self, part: Places, data: Examples | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch_of(self._learner.data if data is None else data, torch.from_numpy(part))
        return x.to(self._learner.device), y.to(self._learner.device)

    def _order(self, places: Places, round_: int, turn: int) -> Places:
        found: Places = np.random.default_rng([self._learner.seed, round_, turn + 10]).permutation(places)
        return found

    def _embedded(self, x: torch.Tensor) -> torch.Tensor:
        self._front.eval()
        with torch.no_grad():
            z: torch.Tensor = self._front(x)
        return z

    def _prompted(self, z: torch.Tensor) -> torch.Tensor:
        """Return activations with the prompt: before tokens [b, t, w], or added to a vector [b, w]."""
        if z.dim() == 3:
            return torch.cat([self._prompt.expand(len(z), -1, -1), z], dim=1)
        return z + self._prompt.sum(0)

    @staticmethod
    def _skipped(a: torch.Tensor) -> torch.Tensor:
        """Return features as if there were no body."""
        return a.mean(dim=1) if a.dim() == 3 else a

    def _noisy(self, a: torch.Tensor) -> torch.Tensor:
        if not self._noise:
            return a
        self._turns += 1
        with seeded(self._learner.seed * 1_000_003 + self._turns, self._learner.device):
            return a + self._noise * a.square().mean().sqrt() * torch.randn_like(a)


class HostSide:
    """The frozen body. It is used as a trained model is, and never changes."""

    def __init__(self, learner: TorchLearner, cut: int) -> None:
        """`cut`: see `split_of`."""
        self.module = nn.Sequential(*split_of(deepcopy(learner.model), cut).body)
        self.module.eval().requires_grad_(False)
        self._device = learner.device
        self._held: OrderedDict[PeerId, tuple[bytes, Piece]] = OrderedDict()
        self.steps = 0
        """Passes there and back."""
        self.rows = 0
        """Of these passes."""

    def predict(self, rows: Rows) -> Rows:
        """Return outputs; nothing is held."""
        with torch.no_grad():
            return _array(self.module(torch.tensor(rows, device=self._device)))

    def forward(self, peer: PeerId, step: bytes, rows: Rows) -> Rows:
        """Return outputs, and hold the pass until this peer's next one."""
        piece = Piece(self.module)
        (out,) = piece.forward([torch.tensor(rows, device=self._device)])
        self._held.pop(peer, None)
        self._held[peer] = step, piece
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)
        return _array(out)

    def backward(self, peer: PeerId, step: bytes, gradient: Rows) -> Rows | None:
        """Return the gradient of what went in, summed over examples; None: the pass is not held."""
        held = self._held.get(peer)
        if held is None or held[0] != step:
            return None
        del self._held[peer]
        return self._back(held[1], gradient)

    def again(self, rows: Rows, gradient: Rows) -> Rows:
        """Return the same of a pass that another host made."""
        piece = Piece(self.module)
        piece.forward([torch.tensor(rows, device=self._device)])
        return self._back(piece, gradient)

    def _back(self, piece: Piece, gradient: Rows) -> Rows:
        (found,) = piece.backward([torch.tensor(gradient, device=self._device)])
        self.steps += 1
        self.rows += len(gradient)
        return _array(found.sum(0))


def _one(learner: TorchLearner) -> torch.Tensor:
    """Return one input.

    Raises:
        BadTask: the task has none.
    """
    for data in (learner.data, learner.task.test_data()):
        if data is not None and count(data) > 0:
            x, _ = batch_of(data, torch.zeros(1, dtype=torch.int64))
            found: torch.Tensor = x.to(learner.device)
            return found
    raise BadTask("sfprompt needs an example to see the shapes at the cut: give train_data() one")


def _parts(places: Places, rows: int) -> list[Places]:
    """Cut into runs of about equal size, `rows` at most."""
    return (
        [part for part in np.array_split(places, -(-len(places) // rows)) if len(part)] if len(places) else []
    )


def _array(tensor: torch.Tensor) -> Rows:
    found: Rows = tensor.detach().cpu().float().numpy()
    return found
