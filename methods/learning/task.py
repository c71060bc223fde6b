"""Task: what is learned. The class a user subclasses, and how a task is found by its name.

    class Flowers(Task):
        def __init__(self, folder: str = "flowers", seed: int = 0) -> None: ...   # the task's options
        def model(self): return nn.Sequential(...)
        def train_data(self): return x, y           # this node's own examples; they never leave it
        def validation_data(self): return x, y      # what hyperparameters are chosen on; may be left out
        def test_data(self): return x, y            # what accuracy is measured on

    shoal start --task mypackage.flowers:Flowers

A task is installed code, named by its owner. It never comes from a peer.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Subset, default_collate

from shoal.gossip.run_spec import Scalar
from shoal.methods.errors import BadTask, TaskNotFound
from shoal.methods.extras import how_to_get
from shoal.methods.learning.noise_inputs import coloured_noise
from shoal.methods.learning.parts import Travels
from shoal.methods.learning.task_identity import Identity
from shoal.methods.options import call_with_options

Examples: TypeAlias = Any
"""A torch Dataset, or a tuple of tensors of equal length, such as (x, y)."""

Role: TypeAlias = Literal["body", "head", "frozen"]

TASKS: Final[Mapping[str, str]] = {
    "digits": "shoal.methods.tasks.digits:Digits",
    "digits_few_labels": "shoal.methods.tasks.digits_variants:PartlyLabelledDigits",
    "digits_noisy": "shoal.methods.tasks.digits_variants:NoisyDigits",
    "digits_captions": "shoal.methods.mpsl.pairs:DigitsCaptions",
    "digits_tones": "shoal.methods.mpsl.pairs:DigitsTones",
    "digits_compressible": "shoal.methods.tasks.digits_variants:CompressibleDigits",
    "speech_commands": "shoal.methods.tasks.speech_commands:SpeechCommands",
    "tones": "shoal.methods.tasks.tones:Tones",
    "digits_body": "shoal.methods.tasks.digits_pretrained:DigitsBody",
    "instructions": "shoal.methods.tasks.instructions:Instructions",
    "shifted": "shoal.methods.fedpeft.shifted:Shifted",
    "digit_tasks": "shoal.methods.tasks.digits_multitask:DigitTasks",
    "images": "shoal.methods.tasks.image_tasks:Images",
    "image_tasks": "shoal.methods.tasks.image_tasks:ImageTasks",
    "shapes": "shoal.methods.tasks.shapes:Shapes",
    "tables": "shoal.methods.tasks.tables:Tables",
}
"""Built-in name -> module:Class."""
EVALUATION_BATCH: Final = 1024


class Task:
    """A model, this node's data, a loss and metrics. The constructor's arguments are the options."""

    def model(self) -> nn.Module:
        """Return a new model; its initial params come from torch's random numbers, seeded by the node."""
        raise BadTask(f"{type(self).__name__} has no model(); return a torch.nn.Module from it")

    def train_data(self) -> Examples:
        """Return this node's own examples."""
        raise BadTask(f"{type(self).__name__} has no train_data(); return (x, y) tensors or a torch Dataset")

    def test_data(self) -> Examples | None:
        """Return the examples that `metrics` looks at, or None."""
        return None

    def validation_data(self) -> Examples | None:
        """Return examples on which to choose hyperparameters; None unless overridden.

        No node trains on them, and `metrics` does not look at them: what was chosen is then measured on
        the test data. scripts/reproduce.py does so.
        """
        return None

    def unlabelled_data(self) -> torch.Tensor | None:
        """Return this node's inputs whose labels nobody knows, or None."""
        return None

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return frozen representations of inputs, a row each; the flattened inputs unless overridden.

        Methods that compare examples with their neighbours use it: a pre-trained encoder does better.
        """
        return x.flatten(1)

    def ood_data(self, count: int, seed: int) -> torch.Tensor:
        """Return generated inputs of no class, the same on every node; coloured noise unless overridden.

        Methods compare two models on them, without anyone's data.
        """
        x = batch_of(self.train_data(), torch.zeros(1, dtype=torch.int64))[0]
        return coloured_noise(tuple(x.shape[1:]), count, seed)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss on a batch; cross entropy of (x, label) unless overridden."""
        x, y = batch
        return functional.cross_entropy(self.outputs(model, x), y)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Measure a model, which is in evaluation mode; accuracy on the test data unless overridden."""
        data = self.test_data()
        return {} if data is None else {"accuracy": self.accuracy(model, data)}

    def outputs(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return a score per class for each input: what the model says, unless the task's head is apart."""
        scores: torch.Tensor = model(x)
        return scores

    def accuracy(self, model: nn.Module, data: Examples) -> float:
        """Return the share of examples whose class has the highest score; call it without gradients.

        Raises:
            BadTask: there are no examples.
        """
        if count(data) == 0:
            raise BadTask("there are no examples to measure on: give test_data() some, or let it return None")
        device = next(model.parameters()).device
        right = 0
        for start in range(0, count(data), EVALUATION_BATCH):
            indices = torch.arange(start, min(start + EVALUATION_BATCH, count(data)))
            x, y = to_device(batch_of(data, indices), device)
            right += int((self.outputs(model, x).argmax(-1) == y).sum())
        return right / count(data)

    def parts(self) -> "Mapping[str, Task]":
        """Return the tasks that this one consists of, all on one model; nothing unless overridden."""
        return {}

    def identity(self) -> Identity:
        """Return what makes this the same task on two nodes, for methods whose nodes hold unlike ones."""
        return Identity(name=type(self).__name__)

    def role(self, name: str) -> Role:
        """Say what a tensor of the model is to methods that train only parts; all is body unless overridden.

        `body`: fine-tuned, or masked. `head`: the classifier on top. `frozen`: left as it is.
        """
        return "body"

    travels: Travels = "trained"
    """What travels between the nodes: ``trained``, ``all``, a set of the names of tensors, or a function of a
    name and a tensor. The rest is frozen, and the same on all nodes. It is read after `model` was called,
    which may set it: ``self.travels = shoal.select(model, "lora")``."""

    def part(self, name: str) -> str:
        """Say where a tensor of the model belongs, if `travels` is not to decide.

        ``params``: it travels. ``base``: it is frozen, and the same on all nodes. ``own:NAME``, such as
        ``own:head``: it stays on this node, which trains, measures and saves it.
        """
        return ""

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of local work; SGD without momentum unless overridden."""
        return torch.optim.SGD(params, lr=lr)


def count(data: Examples) -> int:
    """Return how many examples there are.

    Raises:
        BadTask: tensors that belong together are of unlike lengths.
    """
    if not isinstance(data, tuple):
        return len(data)
    lengths = [len(tensor) if getattr(tensor, "ndim", 1) else 0 for tensor in data]
    if len(set(lengths)) != 1:
        said = ", ".join(str(list(getattr(tensor, "shape", lengths))) for tensor in data)
        raise BadTask(f"examples are tensors of one length, and these are {said}: give each x its y")
    return lengths[0]


def batch_of(data: Examples, indices: torch.Tensor) -> Any:
    """Return the examples at these places as one batch."""
    if isinstance(data, tuple):
        return tuple(tensor[indices] for tensor in data)
    return default_collate([data[i] for i in indices.tolist()])


def subset(data: Examples, indices: torch.Tensor) -> Examples:
    """Return the examples at these places, as data of the same kind."""
    if isinstance(data, tuple):
        return tuple(tensor[indices] for tensor in data)
    return Subset(data, indices.tolist())


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch."""
    match batch:
        case torch.Tensor():
            return batch.to(device, non_blocking=True)
        case tuple() | list():
            return tuple(to_device(item, device) for item in batch)
        case dict():
            return {key: to_device(item, device) for key, item in batch.items()}
    return batch


def load_task(name: str, options: Mapping[str, Scalar]) -> Task:
    """Make the task of this name: built in, or ``package.module:Class``.

    Raises:
        TaskNotFound: it cannot be imported, or is no task.
        BadOption: an option is unknown, of the wrong type or refused by the task.
    """
    found = _import(TASKS.get(name, name))
    task: Task = call_with_options(found, options, f"task {name}")
    return task


def _import(target: str) -> type[Task]:
    module_name, _, attribute = target.partition(":")
    if not (module_name and attribute):
        raise TaskNotFound(
            f"no task {target}; write package.module:Class, or one of: {', '.join(TASKS)};"
            " shoal task new NAME makes one"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise TaskNotFound(
                f"no module {error.name}; start in the folder that holds it, or install it"
            ) from error
        missing = (error.name or "").partition(".")[0]
        raise TaskNotFound(
            f"{module_name} needs {missing}, which is not installed; {how_to_get(missing)}"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise TaskNotFound(f"{module_name} does not load: {error}") from error
    found: Any = getattr(module, attribute, None)
    if not _is_task(found):
        tasks = [name for name, value in vars(module).items() if _is_task(value)]
        listed = ", ".join(tasks) or "no subclass of shoal.Task"
        raise TaskNotFound(f"{module_name} has no task {attribute}; it has: {listed}")
    task: type[Task] = found
    return task


def _is_task(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value is not Task
