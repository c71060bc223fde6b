"""Learner: local training of a task's model with torch, vectors in and vectors out.

Which tensors are in the vector is said in methods/learning/model_tensors.py.

On the same machine, the same seed, params, data and round give the same result, bit for bit.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from shoal.gossip.events import Vector
from shoal.gossip.state.movement import is_finite
from shoal.methods.base import Array, Trained
from shoal.methods.errors import BadOption, BadTask, Diverged, Interrupted
from shoal.methods.learning.forgetting import Forgetting
from shoal.methods.learning.gradients import corrected, pulled, uphill
from shoal.methods.learning.model_tensors import ModelVector, Staying
from shoal.methods.learning.objective import Objective, Penultimate
from shoal.methods.learning.optimizer_memory import (
    BadMemory,
    Groups,
    LiveMemory,
    groups_of,
    keep_memory,
    load_memory,
    save_memory,
)
from shoal.methods.learning.parts import hold, prepared
from shoal.methods.learning.pinned_base import need_base
from shoal.methods.learning.private_steps import PrivateSteps
from shoal.methods.learning.task import Examples, Task, batch_of, count, to_device
from shoal.methods.overlap import Moved

log = logging.getLogger(__name__)

PREDICTION_BATCH = 1024


def choose_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is a GPU where there is one.

    Raises:
        BadOption: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch says it in many lines, and an AssertionError where it was built without CUDA.
        reason = str(error).splitlines()[0]
        raise BadOption(f"device = {name}: {reason}; choose auto or cpu") from error
    return device


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed for a while; afterwards torch's random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, slots=True)
class _Work:
    """Local work, as a method asks for it; see `Learner.train`."""

    objective: Objective
    optimizer: str
    lr: float
    steps: int
    batch_size: int
    seen: int
    """Examples per step, as they are counted."""
    proximal: float
    round: int
    corrections: Sequence[torch.Tensor | None]
    """Added to the gradients of the model's parameters, in their order; nothing where there are none."""
    ascent: float


def _nothing() -> None:
    return None


class Callbacks:
    """What a learner asks, and tells, whom it works for; here nobody."""

    def is_interrupted(self) -> bool:
        """Tell, before every step, whether to end the work with `Interrupted`."""
        return False

    def is_hurried(self) -> bool:
        """Tell, after every step, whether to end the work with what there is."""
        return False

    def problem(self, source: str, text: str) -> None:
        """Show what a person should see to but training goes on without; an empty text ends it."""
        if text:
            log.warning("%s", text)

    def fill_base(self, model: nn.Module, stays: Staying) -> None:
        """See to it that the frozen tensors of a new model have numbers."""
        need_base(model, stays)


class TorchLearner:
    """See `Learner`."""

    def __init__(
        self,
        task: Task,
        *,
        device: str = "cpu",
        seed: int = 0,
        callbacks: Callbacks | None = None,
        method: object = None,
    ) -> None:
        """Build the task's model; `seed` decides its initial params and the batches.

        `method`: what may prepare the model.

        Raises:
            BadTask: the task has no examples, or a model without parameters.
            BadOption: there is no such device.
        """
        self.device = choose_device(device)
        self.task = task
        self.seed = seed
        self.callbacks = callbacks or Callbacks()
        self._unmeasured: Mapping[str, str] = {}
        self.arrived: Callable[[], Moved | None] = _nothing
        """Asked after every step: what has arrived since the last one, if means travel meanwhile."""
        self.data = task.train_data()
        self.examples = count(self.data)
        if self.examples == 0 and task.unlabelled_data() is None:
            raise BadTask(f"{type(task).__name__}.train_data() is empty; a node needs at least one example")
        with seeded(seed, self.device):
            self.model, self.stays = prepared(task, method)
            self.callbacks.fill_base(self.model, self.stays)
            self.model.to(self.device)
        """What does not travel."""
        self._vector = ModelVector(self.model, self.stays)
        self.manifest = self._vector.manifest
        self.buffers = self._vector.buffers
        """How many numbers at the end of the params are the model's buffers."""
        self.initial = self._vector.read()
        """The params before round 0, until `forget_initial`."""
        self.out: Vector | None = None
        """Where `train` leaves the params; new memory unless set. The next `train` overwrites them."""
        self.keeps_optimizer = False
        """Whether an optimizer lives on from round to round, so that its memory is not copied: after a round
        that failed it goes on from where it stands."""
        self.forgetting: Forgetting | None = None
        """What this node was asked to forget, for methods that can; set by whoever runs the rounds."""
        self.private: PrivateSteps | None = None
        """Makes the gradients, in a run whose steps are private; set by whoever runs the rounds."""
        self._is_at_work = False

    @property
    def numel(self) -> int:
        """How many numbers the params have."""
        return self._vector.numel

    def forget_initial(self) -> None:
        """Give back the memory of `initial`, which nobody needs after the first state was made."""
        self.initial = np.empty(0, np.float32)

    def train(
        self,
        params: Vector,
        *,
        steps: int,
        lr: float,
        batch_size: int,
        proximal: float = 0.0,
        optimizer: str = "task",
        memory: Mapping[str, Array] | None = None,
        round_: int = 0,
        objective: Objective | None = None,
        correction: Vector | None = None,
        ascent: float = 0.0,
    ) -> Trained:
        """See `Learner`. `objective`: what is minimised in place of the task's own loss.

        Raises:
            BadTask: there are no examples for the default objective.
        """
        if objective is None and self.examples == 0:
            raise BadTask("this node has no labelled examples; choose a method that uses unlabelled ones")
        work = _Work(
            objective=objective or Objective(self.task, self.data),
            optimizer=optimizer,
            lr=lr,
            steps=steps,
            batch_size=batch_size,
            seen=batch_size if objective else min(batch_size, self.examples),
            proximal=proximal,
            round=round_,
            corrections=self._corrections(correction),
            ascent=ascent,
        )
        try:
            return self._train(params, work, memory or {})
        except BadMemory as error:
            self.callbacks.problem(
                "memory", f"what the optimizer remembered cannot be used ({error}): it starts anew"
            )
            return self._train(params, work, {})

    def _train(self, params: Vector, work: "_Work", memory: Mapping[str, Array]) -> Trained:
        """Train once.

        Raises:
            BadMemory: the optimizer cannot go on from `memory`.
            Diverged: the loss or the params are no longer finite.
        """
        self._vector.write(params)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        weights += work.objective.local_parameters()
        optimizer, fresh = self._resumed(work, weights, memory)
        self._is_at_work = True
        try:
            with seeded(self.seed * 1_000_003 + work.round, self.device):
                loss, taken = self._steps(optimizer, weights, work, is_new=not memory)
        finally:
            self._is_at_work = False
        trained = self._vector.read(self.out)
        if not (np.isfinite(loss) and is_finite(trained)):
            raise Diverged(
                f"the training diverged (loss {loss:g} in round {work.round}); lower lr = {work.lr:g}"
            )
        if self.keeps_optimizer:
            kept, left_out = keep_memory(optimizer, fresh, (work.optimizer, work.lr, weights))
        else:
            kept, left_out = save_memory(optimizer, fresh)
        if left_out:
            self.callbacks.problem("memory", f"{left_out}: that starts anew in every round")
        return Trained(trained, loss, taken * work.seen, taken, kept)

    def _resumed(
        self, work: "_Work", weights: Sequence[nn.Parameter], memory: Mapping[str, Array]
    ) -> tuple[torch.optim.Optimizer, Groups]:
        """Return the optimizer that goes on from a memory, and its settings when it was new.

        Raises:
            BadMemory: it cannot.
        """
        if isinstance(memory, LiveMemory) and memory.fits((work.optimizer, work.lr, weights)):
            return memory.optimizer, memory.fresh
        optimizer = self._optimizer(work.optimizer, weights, work.lr)
        fresh = groups_of(optimizer)
        load_memory(optimizer, memory)
        return optimizer, fresh

    def evaluate(self, params: Vector) -> dict[str, float]:
        """Return the task's metrics at these params. What cannot be measured is absent, and told once.

        The model holds these params afterwards, unless it is asked in the middle of local work, which goes on
        as if nothing had been asked.
        """
        if type(self.task).metrics is Task.metrics and self.task.test_data() is None:
            return {}
        was_training = self.model.training
        with self._vector.put_back(all_tensors=self._is_at_work), seeded(self.seed, self.device):
            self._vector.write(params)
            self.model.eval()
            try:
                with torch.no_grad():
                    return self._measured()
            finally:
                self.model.train(was_training)

    def _measured(self) -> dict[str, float]:
        """Return the metrics of the model as it is, but those that are none."""
        name = type(self.task).__name__
        try:
            found = dict(self.task.metrics(self.model))
        except Exception as error:  # noqa: BLE001  # the user's metrics may raise anything, and cost no round
            self._tell_unmeasured({"": f"{name}.metrics() failed: {type(error).__name__}: {error}"})
            return {}
        metrics, unmeasured = {}, {}
        for key, value in found.items():
            number = as_number(value)
            if number is None:
                shown = str(value)[:80]
                unmeasured[str(key)] = f"{name}.metrics() gives {key} = {shown}, which is no finite number"
            else:
                metrics[str(key)] = number
        self._tell_unmeasured(unmeasured)
        return metrics

    def _tell_unmeasured(self, reasons: Mapping[str, str]) -> None:
        """Say what is not measured: once, until that changes."""
        if reasons.keys() != self._unmeasured.keys():
            self.callbacks.problem(
                "metrics", "; ".join(text.splitlines()[0] for text in reasons.values())[:2000]
            )
        self._unmeasured = reasons

    def carry(self, params: Vector, moved: Moved) -> Vector:
        """Return where local work that stands at these params goes on; see `ModelVector.move`."""
        self._vector.write(params)
        self._vector.move(moved)
        return self._vector.read()

    def predict(self, params: Vector, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (outputs, penultimate representations) of inputs at these params, on the CPU."""
        self._vector.write(params)
        self.model.eval()
        outputs, hidden = [], []
        with torch.no_grad(), Penultimate(self.model) as seen:
            for part in x.split(PREDICTION_BATCH):
                outputs.append(self.model(part.to(self.device)).cpu())
                hidden.append(seen.z.cpu())
        return torch.cat(outputs), torch.cat(hidden)

    def accuracy(self, task: Task, params: Vector, data: Examples) -> float:
        """Return a task's accuracy on these examples, at these params.

        Raises:
            BadTask: there are none.
        """
        self._vector.write(params)
        self.model.eval()
        with torch.no_grad():
            return task.accuracy(self.model, data)

    def score(self, params: Vector, data: Examples) -> tuple[int, int]:
        """Return how many of the (x, label) examples the model at these params gets right, of how many."""
        if count(data) == 0:
            return 0, 0
        x, y = batch_of(data, torch.arange(count(data)))
        outputs, _ = self.predict(params, x)
        return int((outputs.argmax(-1) == y).sum()), count(data)

    def _corrections(self, correction: Vector | None) -> Sequence[torch.Tensor | None]:
        """Return the parts of a vector that belong to the parameters that are trained, on the device."""
        if correction is None:
            return ()
        parts = self._vector.parts_of(correction)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return [parts[p].to(p.device, p.dtype) if p in parts else None for p in trained]

    def _optimizer(self, name: str, weights: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        match name:
            case "sgd":
                return torch.optim.SGD(weights, lr=lr)
            case "adam":
                return torch.optim.Adam(weights, lr=lr)
            case "adamw":
                return torch.optim.AdamW(weights, lr=lr)
        return self.task.optimizer(weights, lr)

    def _steps(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Sequence[nn.Parameter],
        work: "_Work",
        *,
        is_new: bool,
    ) -> tuple[float, int]:
        self.model.train()
        hold(self.model, self.stays)
        anchors = [p.detach().clone() for p in weights] if work.proximal else []
        total = torch.zeros((), device=self.device)
        taken = 0
        for batch in self._batches(work):
            if self.callbacks.is_interrupted():
                raise Interrupted("the node asked to stop")
            loss = self._loss(optimizer, weights, work, batch)
            _add_terms(weights, anchors, work)
            _step(optimizer, is_first=taken == 0 and not is_new)
            total += loss.detach().to(total.dtype)
            taken += 1
            moved = self.arrived()
            if moved is not None:
                self._move(moved, weights, anchors)
            if taken == work.steps or self.callbacks.is_hurried():
                break
        return float(total) / taken, taken

    def _batches(self, work: _Work) -> Iterator[Any]:
        if self.private is None:
            return work.objective.batches(work.batch_size)
        self.private.check(self.model, work.objective)
        if work.ascent:
            raise BadOption(
                "privacy examples: a step that goes uphill first asks twice: take --method fedavg"
            )
        return self.private.batches(work.objective, work.batch_size)

    def _loss(
        self, optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter], work: _Work, batch: Any
    ) -> torch.Tensor:
        """Leave the gradient of a step in the weights; returns the loss."""
        if self.private is not None:
            return self.private.gradient(self.model, work.objective, batch, self.device)
        on_device = to_device(batch, self.device)
        loss = self._gradient(optimizer, work.objective, on_device)
        if work.ascent:
            with uphill(weights, work.ascent):
                self._gradient(optimizer, work.objective, on_device)
        return loss

    def _gradient(self, optimizer: torch.optim.Optimizer, objective: Objective, batch: Any) -> torch.Tensor:
        """Leave the gradient of the loss on a batch in the weights; returns the loss."""
        optimizer.zero_grad()
        loss = objective.loss(self.model, batch)
        loss.backward()
        objective.before_step(self.model)
        return loss

    def _move(self, moved: Moved, weights: Sequence[nn.Parameter], anchors: Sequence[torch.Tensor]) -> None:
        before = [weight.detach().clone() for weight in weights[: len(anchors)]]
        self._vector.move(moved)
        # Without a pull there are no anchors.
        for anchor, weight, old in zip(anchors, weights, before, strict=False):
            # Held near the common params: the anchor goes where they went.
            anchor.add_(weight.detach() - old)


def _add_terms(weights: Sequence[nn.Parameter], anchors: Sequence[torch.Tensor], work: _Work) -> None:
    """Add to the gradients what a method adds to the loss of every step: a constant, a pull."""
    for weight, correction in zip(weights, work.corrections, strict=False):
        if weight.grad is not None and correction is not None:
            weight.grad = corrected(weight.grad, correction)
    for weight, anchor in zip(weights, anchors, strict=False):
        if weight.grad is not None:
            weight.grad = pulled(weight.grad, weight.detach() - anchor, work.proximal)


def _step(optimizer: torch.optim.Optimizer, *, is_first: bool) -> None:
    """Let an optimizer step; `is_first`: after it was given a memory.

    Raises:
        BadMemory: the memory was nothing that it could go on from.
    """
    try:
        optimizer.step()
    except Exception as error:
        # A lack of memory in the machine says nothing about what was kept.
        is_full = isinstance(error, MemoryError) or "out of memory" in str(error)
        if is_first and not is_full:
            raise BadMemory(f"{type(error).__name__}: {error}") from error
        raise


def as_number(value: Any) -> float | None:
    """Return a metric as a finite float, or None where it is none."""
    try:
        number = float(value.detach()) if isinstance(value, torch.Tensor) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None
