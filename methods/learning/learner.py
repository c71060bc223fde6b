"""Learner: local training of a task's model with torch, vectors in and vectors out.

The vector holds the model's floating parameters and buffers (the running means of batch norm too) in the
order in which the model registers them. Integer buffers, such as batch counters, stay on the node. What
is frozen travels as well: peers that froze other values must not go unnoticed.

On the same machine, the same seed, params, data and round give the same result, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Trained
from shoal.methods.errors import BadOption, BadTask, Diverged, Interrupted
from shoal.methods.learning.objective import Objective, Penultimate
from shoal.methods.learning.task import Examples, Task, batch_of, count, to_device
from shoal.methods.overlap import Moved

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


def float_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that travel; a tensor with two names comes once."""
    saved = model.state_dict(keep_vars=True).keys()
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: t for name, t in named if name in saved and t.is_floating_point()}


def manifest(model: nn.Module) -> tuple[TensorSpec, ...]:
    """Return the manifest of a model.

    Raises:
        BadTask: it has no parameters.
    """
    found = float_tensors(model).items()
    if not found:
        raise BadTask("the model has no floating parameters; there is nothing to train")
    return tuple(TensorSpec(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in found)


def read_model(model: nn.Module) -> Vector:
    """Return a model's vector, as a copy."""
    parts = [t.detach().reshape(-1).to(torch.float32) for t in float_tensors(model).values()]
    vector: Vector = torch.cat(parts).cpu().numpy()
    return vector


def write_model(model: nn.Module, params: Vector) -> None:
    """Set a model to a vector."""
    tensors = list(float_tensors(model).values())
    flat = torch.tensor(params, device=tensors[0].device)
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def move_model(model: nn.Module, moved: Moved) -> None:
    """Carry a model in training over to a new agreed state.

    Parameters keep their progress. Buffers are taken as agreed: a variance that kept a difference could
    become negative.
    """
    tensors = list(float_tensors(model).values())
    sizes = [tensor.numel() for tensor in tensors]
    agreed = torch.tensor(moved.agreed, device=tensors[0].device).split(sizes)
    since = torch.tensor(moved.since, device=tensors[0].device).split(sizes)
    with torch.no_grad():
        for tensor, new, old in zip(tensors, agreed, since, strict=True):
            place = new.view_as(tensor)
            if isinstance(tensor, nn.Parameter):
                place = place + (tensor.to(torch.float32) - old.view_as(tensor))
            tensor.copy_(place)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed for a while; afterwards torch's random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


class TorchLearner:
    """See `Learner`."""

    def __init__(
        self,
        task: Task,
        *,
        device: str = "cpu",
        seed: int = 0,
        interrupt: Callable[[], bool] = _never,
        hurry: Callable[[], bool] = _never,
    ) -> None:
        """Build the task's model; `seed` decides its initial params and the batches.

        `interrupt` is asked before every step, and ends the work with `Interrupted`; `hurry` after every
        step, and ends it with what there is.

        Raises:
            BadTask: the task has no examples, or a model without parameters.
            BadOption: there is no such device.
        """
        self.device = choose_device(device)
        self.task = task
        self.seed = seed
        self._interrupt = interrupt
        self._hurry = hurry
        self.arrived: Callable[[], Moved | None] = _nothing
        """Asked after every step: what has arrived since the last one, if means travel meanwhile."""
        self.data = task.train_data()
        self.examples = count(self.data)
        if self.examples == 0 and task.unlabelled_data() is None:
            raise BadTask(f"{type(task).__name__}.train_data() is empty; a node needs at least one example")
        with seeded(seed, self.device):
            self.model = task.model().to(self.device)
        self.manifest = manifest(self.model)
        self.initial = read_model(self.model)
        """The params before round 0."""

    def train(
        self,
        params: Vector,
        *,
        steps: int,
        lr: float,
        batch_size: int,
        proximal: float = 0.0,
        optimizer: str = "task",
        memory: Mapping[str, Vector] | None = None,
        round_: int = 0,
        objective: Objective | None = None,
    ) -> Trained:
        """See `Learner`. `objective`: what is minimised in place of the task's own loss.

        Raises:
            BadTask: there are no examples for the default objective.
        """
        if objective is None and self.examples == 0:
            raise BadTask("this node has no labelled examples; choose a method that uses unlabelled ones")
        chosen_objective = objective or Objective(self.task, self.data)
        write_model(self.model, params)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        weights += chosen_objective.local_parameters()
        chosen = self._optimizer(optimizer, weights, lr)
        load_memory(chosen, weights, memory or {})
        with seeded(self.seed * 1_000_003 + round_, self.device):
            loss, taken = self._steps(chosen, chosen_objective, weights, steps, batch_size, proximal)
        trained = read_model(self.model)
        if not (np.isfinite(loss) and np.isfinite(trained).all()):
            raise Diverged(f"the training diverged (loss {loss:g} in round {round_}); lower lr = {lr:g}")
        seen = taken * (batch_size if objective else min(batch_size, self.examples))
        return Trained(trained, loss, seen, taken, save_memory(chosen, weights))

    def evaluate(self, params: Vector) -> dict[str, float]:
        """Return the task's metrics at these params."""
        # It may be asked in the middle of local work, which goes on afterwards.
        before, was_training = read_model(self.model), self.model.training
        write_model(self.model, params)
        self.model.eval()
        try:
            with torch.no_grad():
                return {name: float(value) for name, value in self.task.metrics(self.model).items()}
        finally:
            write_model(self.model, before)
            self.model.train(was_training)

    def carry(self, params: Vector, moved: Moved) -> Vector:
        """Return where local work that stands at these params goes on; see `move_model`."""
        write_model(self.model, params)
        move_model(self.model, moved)
        return read_model(self.model)

    def predict(self, params: Vector, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (outputs, penultimate representations) of inputs at these params, on the CPU."""
        write_model(self.model, params)
        self.model.eval()
        outputs, hidden = [], []
        with torch.no_grad(), Penultimate(self.model) as seen:
            for part in x.split(PREDICTION_BATCH):
                outputs.append(self.model(part.to(self.device)).cpu())
                hidden.append(seen.z.cpu())
        return torch.cat(outputs), torch.cat(hidden)

    def score(self, params: Vector, data: Examples) -> tuple[int, int]:
        """Return how many of the (x, label) examples the model at these params gets right, of how many."""
        if count(data) == 0:
            return 0, 0
        x, y = batch_of(data, torch.arange(count(data)))
        outputs, _ = self.predict(params, x)
        return int((outputs.argmax(-1) == y).sum()), count(data)

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
        objective: Objective,
        weights: Sequence[nn.Parameter],
        steps: int,
        batch_size: int,
        proximal: float,
    ) -> tuple[float, int]:
        self.model.train()
        anchors = [p.detach().clone() for p in weights] if proximal else []
        total = torch.zeros((), device=self.device)
        taken = 0
        for batch in objective.batches(batch_size):
            if self._interrupt():
                raise Interrupted("the node asked to stop")
            optimizer.zero_grad()
            loss = objective.loss(self.model, to_device(batch, self.device))
            loss.backward()
            objective.before_step(self.model)
            for weight, anchor in zip(weights, anchors, strict=False):
                if weight.grad is not None:
                    # The gradient of proximal/2 · |w − anchor|².
                    weight.grad.add_(weight.detach() - anchor, alpha=proximal)
            optimizer.step()
            total += loss.detach()
            taken += 1
            moved = self.arrived()
            if moved is not None:
                self._move(moved, weights, anchors)
            if taken == steps or self._hurry():
                break
        return float(total) / taken, taken

    def _move(self, moved: Moved, weights: Sequence[nn.Parameter], anchors: Sequence[torch.Tensor]) -> None:
        before = [weight.detach().clone() for weight in weights[: len(anchors)]]
        move_model(self.model, moved)
        # Without a pull there are no anchors.
        for anchor, weight, old in zip(anchors, weights, before, strict=False):
            # Held near the common params: the anchor goes where they went.
            anchor.add_(weight.detach() - old)


def save_memory(optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]) -> dict[str, Vector]:
    """Return what an optimizer remembers, such as Adam's moments, one vector per kind.

    A kind that is not there for every parameter, or is no tensor, is left out.
    """
    kinds = sorted({kind for state in optimizer.state.values() for kind in state})
    found: dict[str, Vector] = {}
    for kind in kinds:
        values = [optimizer.state[weight].get(kind) for weight in weights]
        if all(isinstance(value, torch.Tensor) for value in values):
            flat = [value.detach().reshape(-1).to("cpu", torch.float32) for value in values]
            found[kind] = torch.cat(flat).numpy()
    return found


def load_memory(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter], memory: Mapping[str, Vector]
) -> None:
    """Let a new optimizer go on from what `save_memory` returned.

    A vector has either a number per weight or, as Adam's step count, a number per parameter tensor.
    """
    sizes = [weight.numel() for weight in weights]
    for kind, vector in memory.items():
        flat = torch.tensor(vector)
        if flat.numel() == sum(sizes):
            for weight, part in zip(weights, flat.split(sizes), strict=True):
                optimizer.state[weight][kind] = part.view_as(weight).to(weight.device, weight.dtype)
        elif flat.numel() == len(weights):
            for weight, value in zip(weights, flat, strict=True):
                optimizer.state[weight][kind] = value.clone()
