"""Sides: what a client and a host hold of a split model, with torch; arrays in and arrays out."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import Array
from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner, seeded
from shoal.methods.learning.model_tensors import ModelVector
from shoal.methods.learning.optimizer_memory import BadMemory, groups_of, load_memory, save_memory
from shoal.methods.learning.task import Examples, Task, batch_of, count
from shoal.methods.mpsl.asked import Known
from shoal.methods.mpsl.estimate import Sizes
from shoal.methods.mpsl.pieces import (
    ROW_BOUND,
    Judged,
    Piece,
    clip_rows,
    judge,
    scale_gradients,
    split_of,
)
from shoal.methods.mpsl.tokens import Array as Rows

MOMENTS: Final = "moments/"
BODY: Final = "body"
SPREAD: Final = 4.0
"""In `head` = client, rows of gradients are cut at so many times the median of the clients."""


class Shapes:
    """What crosses the cuts of a task's model, per example; found by one pass of one example."""

    def __init__(self, learner: TorchLearner, cut: int, stages: int, *, own_head: bool) -> None:
        """`own_head`: the client's, so that the host returns features.

        Raises:
            BadTask, BadOption: see `split_of`; or the task has no inputs to try it with.
        """
        split = split_of(learner.model, cut)
        data = next((each for each in (learner.data, learner.task.test_data()) if _has_one(each)), None)
        if data is None:
            raise BadTask("mpsl needs an example to see the shapes at the cut: give train_data() one")
        x, _ = batch_of(data, torch.zeros(1, dtype=torch.int64))
        modes = [(module, module.training) for module in learner.model.modules()]
        learner.model.eval()
        with torch.no_grad():
            z = split.front(x.to(learner.device))
            between = [z]
            for stage in split.stages(stages):
                between.append(stage(between[-1]))
            out = between[-1] if own_head else split.head(between[-1])
        for module, was in modes:
            module.training = was
        self.between = [tuple(each.shape[1:]) for each in between[:-1]]
        """At the entry of each stage."""
        self.out: tuple[int, ...] = tuple(out.shape[1:])
        front, body, head = split.numel
        self.sizes = Sizes(front, body, head, self.between[0], self.out, learner.examples)


class Trains:
    """What a client trains of a model: its params and its optimizer."""

    def __init__(self, learner: TorchLearner, weights: Sequence[nn.Parameter], lr: float) -> None:
        """`weights`: what is trained of the learner's model.

        Raises:
            BadTask: the task's loss is not the usual one.
        """
        if type(learner.task).loss is not Task.loss:
            raise BadTask(
                "split learning trains with cross entropy of (x, label): leave loss() of the task as it is"
            )
        self._learner = learner
        self._vector = ModelVector(learner.model, learner.stays)
        self._optimizer = torch.optim.Adam(weights, lr=lr)
        self._fresh = groups_of(self._optimizer)
        self.known = Known()
        """Which hosts were silent, or answered as no honest one does."""

    def begin(self, params: Vector, memory: Mapping[str, Array]) -> None:
        """Stand at these params; `memory`: of the optimizer, from `memory`."""
        self._vector.write(params)
        self._learner.model.train()
        if memory:
            try:
                load_memory(self._optimizer, memory)
            except BadMemory as error:
                self._learner.callbacks.problem("memory", f"the client's optimizer starts anew ({error})")

    def memory(self) -> Mapping[str, Array]:
        """Return what the optimizer remembers."""
        return save_memory(self._optimizer, self._fresh)[0]

    def params(self) -> Vector:
        """Return where what is trained stands."""
        return self._vector.read()

    def _take_step(self) -> bool:
        """Take a step of the optimizer, unless no honest host's answer leads to it; tells whether it did.

        The optimizer squares gradients: one that is too large for that would stay in its memory for good.
        """
        weights = (weight for group in self._optimizer.param_groups for weight in group["params"])
        squares = [weight.grad.float().square().sum() for weight in weights if weight.grad is not None]
        if not bool(torch.stack(squares).isfinite().all()):
            return False
        self._optimizer.step()
        return True


class ClientSide(Trains):
    """The front and, in `head` = client, the head."""

    def __init__(self, learner: TorchLearner, cut: int, lr: float, *, own_head: bool) -> None:
        """See `Shapes`.

        Raises:
            BadTask, BadOption: see `split_of`; or the task's loss is not the usual one.
        """
        split = split_of(learner.model, cut)
        trained = [split.front, *([split.head] if own_head else [])]
        super().__init__(learner, [p for module in trained for p in module.parameters()], lr)
        self._front, self._head = Piece(split.front), split.head if own_head else None
        self._labels = torch.zeros(0, dtype=torch.int64)
        self._sent: tuple[int, ...] = ()
        self._out = Shapes(learner, cut, 1, own_head=own_head).out
        self._turns = 0

    def batches(self, steps: int, most: int, round_: int) -> list[torch.Tensor]:
        """Return which examples each step takes: all of them once, in parts of equal size, `most` at most."""
        learner = self._learner
        order = np.random.default_rng([learner.seed, round_, 3]).permutation(learner.examples)
        return [torch.from_numpy(part[:most]) for part in np.array_split(order, steps)]

    def forward(self, places: torch.Tensor) -> Rows:
        """Return activations, float32 [b, ...], of these examples."""
        x, y = batch_of(self._learner.data, places)
        self._labels = y.to(self._learner.device)
        self._turns += 1
        with seeded(self._learner.seed * 1_000_003 + self._turns, self._learner.device):
            z = _array(self._front.forward([x.to(self._learner.device)])[0])
        self._sent = z.shape
        return z

    def judge(self, outputs: Rows) -> Judged | None:
        """Compare what the host returned of these examples with their labels.

        None: no honest host returns that. Its sizes are others, or the loss of it is not finite.
        """
        if outputs.shape != (len(self._labels), *self._out):
            return None
        self._optimizer.zero_grad()
        judged = judge(_tensor(outputs, self._learner), self._labels, self._head)
        return judged if np.isfinite(judged.loss) and bool(judged.gradient.isfinite().all()) else None

    def step(self, gradient: Rows, rows: Rows) -> bool:
        """Take a step of the optimizer, unless no honest host returns that; tells whether it did.

        `gradient`: of z. `rows`: of the whole step, of all clients, float32 [1].
        """
        if gradient.shape != self._sent or rows.shape != (1,) or rows[0] < len(self._labels):
            return False
        self._front.backward([_tensor(gradient, self._learner)])
        if self._head is not None:
            scale_gradients(self._head, float(rows[0]))
        return self._take_step()

    def test_rows(self, most: int) -> list[tuple[Rows, torch.Tensor]]:
        """Return activations and labels of test examples, in evaluation mode, at most so many at once."""
        data = self._learner.task.test_data()
        if data is None:
            return []
        self._learner.model.eval()
        found = []
        with torch.no_grad():
            for part in torch.arange(count(data)).split(most):
                x, y = batch_of(data, part)
                found.append((_array(split_front(self._front, x, self._learner)), y))
        return found

    def probe(self, most: int) -> Rows:
        """Return activations of this node's first examples, in evaluation mode, as for a measurement."""
        x, _ = batch_of(self._learner.data, torch.arange(min(most, self._learner.examples)))
        self._learner.model.eval()
        with torch.no_grad():
            return _array(split_front(self._front, x, self._learner))

    def right(self, outputs: Rows, labels: torch.Tensor) -> int | None:
        """Return how many examples the model gets right; None: no honest host returns that."""
        if outputs.shape != (len(labels), *self._out):
            return None
        with torch.no_grad():
            scores = _tensor(outputs, self._learner)
            scores = scores if self._head is None else self._head(scores)
            return int((scores.argmax(-1).cpu() == labels).sum())


@dataclass(frozen=True, slots=True)
class Passed:
    """A pass through a stage, before its gradients have come."""

    piece: Piece
    inputs: Sequence[torch.Tensor]
    rows: Sequence[int]
    """Of each client."""
    version: int
    """Of the params."""
    onward: tuple[PeerId, bytes] | None = None
    """The host that made the rest of the pass, and as which step."""
    left: tuple[int, ...] = ()
    """Shape of what it was given."""


class HostSide:
    """A stage of the body and, at the last one in `head` = host, the head."""

    def __init__(
        self, learner: TorchLearner, cut: int, lr: float, stage: int, stages: int, *, own_head: bool
    ) -> None:
        """`stage`: from 0. `own_head`: the clients'. It begins as the run's first model does."""
        model = deepcopy(learner.model)
        frozen = getattr(learner.model, "split_frozen", frozenset[str]())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        split = split_of(model, cut)
        module = split.stages(stages)[stage]
        if stage == stages - 1 and not own_head:
            module.append(split.head)
        self._learner = learner
        self.module: nn.Sequential = module
        self.module.train()
        self._vector = ModelVector(self.module)
        self._optimizer = torch.optim.Adam(self.module.parameters(), lr=lr)
        self._fresh = groups_of(self._optimizer)
        self._version = 0
        self._bounds_labels = not own_head
        self.cut_rows = 0
        """Rows of gradients that were longer than an honest client's."""

    @property
    def numel(self) -> int:
        """How many numbers the stage has."""
        return self._vector.numel

    def vector(self) -> Vector:
        """Return the stage's params."""
        return self._vector.read()

    def load(self, params: Vector) -> None:
        """Stand at these params."""
        self._vector.write(params)
        self._version += 1

    def save(self) -> dict[str, Array]:
        """Return all that the next start needs."""
        moments = save_memory(self._optimizer, self._fresh)[0]
        return {BODY: self.vector(), **{MOMENTS + name: value for name, value in moments.items()}}

    def restore(self, saved: Mapping[str, Array]) -> bool:
        """Go on from what `save` returned; tells whether it fits."""
        if BODY not in saved or saved[BODY].shape != (self.numel,):
            return False
        self.load(np.asarray(saved[BODY], np.float32))
        moments = {k.removeprefix(MOMENTS): v for k, v in saved.items() if k.startswith(MOMENTS)}
        try:
            load_memory(self._optimizer, moments)
        except BadMemory as error:
            self._learner.callbacks.problem("memory", f"the body's optimizer starts anew ({error})")
        return True

    def predict(self, rows: Rows) -> Rows:
        """Return outputs in evaluation mode; nothing is held."""
        self.module.eval()
        with torch.no_grad():
            out: torch.Tensor = self.module(_tensor(rows, self._learner))
        self.module.train()
        return _array(out)

    def forward(self, rows: Sequence[Rows]) -> tuple[list[Rows], "Passed"]:
        """Return outputs, of one pass for the rows of all clients, and what `step` needs of it."""
        piece = Piece(self.module)
        inputs = [_tensor(each, self._learner) for each in rows]
        outputs = piece.forward(inputs)
        return [_array(each) for each in outputs], Passed(
            piece, inputs, [len(each) for each in rows], self._version
        )

    def step(
        self, passed: "Passed", gradients: Sequence[Rows | None], divisor: float, *, bounded: bool = True
    ) -> list[Rows]:
        """Take a step of the optimizer, and return the gradients of what went in.

        `gradients`: of the sums over each client's rows; None where they did not come. `divisor`: the rows
        that came. `bounded`: rows are cut to what an honest client's can be.
        """
        told = [None if each is None else _tensor(each, self._learner) for each in gradients]
        if bounded:
            told = self._bounded(told)
        if passed.version != self._version:
            # The params have moved since: autograd refuses to go back to what they were.
            passed.piece.forward(passed.inputs)
        self._optimizer.zero_grad()
        found = passed.piece.backward(told, divisor)
        self._optimizer.step()
        self._version += 1
        return [_array(each) for each in found]

    def _bounded(self, told: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        bound = ROW_BOUND
        if not self._bounds_labels:
            norms = [
                float(each.flatten(1).norm(dim=1).max()) for each in told if each is not None and len(each)
            ]
            bound = SPREAD * float(np.median(norms)) if norms else 0.0
        cut: list[torch.Tensor | None] = []
        for each in told:
            if each is None:
                cut.append(None)
                continue
            kept, n_longer = clip_rows(each, bound)
            self.cut_rows += n_longer
            cut.append(kept)
        return cut


def split_front(front: Piece, x: torch.Tensor, learner: TorchLearner) -> torch.Tensor:
    """Return activations without holding anything."""
    z: torch.Tensor = front.module(x.to(learner.device))
    return z


def _has_one(data: Examples | None) -> bool:
    return data is not None and count(data) > 0


def _array(tensor: torch.Tensor) -> Rows:
    found: Rows = tensor.detach().cpu().float().numpy()
    return found


def _tensor(rows: Any, learner: TorchLearner) -> torch.Tensor:
    return torch.tensor(np.asarray(rows, np.float32), device=learner.device)
