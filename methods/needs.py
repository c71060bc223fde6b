"""Needs: what a task must give each method beside a model and training data, and what else it makes use of.

torch is never loaded here. Whether a given task gives it is asked in learning/task_fit.py. A method of an
installed package says so itself, in a class attribute `needs`.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from shoal.methods.base import ModelSize


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a method asks of a task."""

    what: str
    """As it is written in the task: ``unlabelled_data()``."""
    must: bool
    """Whether the method refuses a task without it."""
    why: str
    """What it is for, or what happens without it."""


_LINEAR: Final = "a last nn.Linear"
_MANY: Final = "fedcompress keeps a tenth out of training, to see whether kappa should grow"
_NO_BUFFERS: Final = "a secure sum carries changes of parameters; GroupNorm in place of BatchNorm"
NEEDS: Final[Mapping[str, tuple[Need, ...]]] = {
    "local": (),
    "fedavg": (),
    "fedprox": (),
    "diloco": (),
    "fedavgm": (),
    "fedadam": (),
    "fedyogi": (),
    "fedspeed": (),
    "scaffold": (),
    "feddyn": (),
    "fedpeft": (
        Need(
            what="a pre-trained model()",
            must=False,
            why="the same on all nodes: what is frozen never changes, and its hash is in the run's name",
        ),
        Need(
            what=_LINEAR,
            must=False,
            why="the head, which is trained in every family but trained",
        ),
    ),
    "fedit": (
        Need(
            what="a pre-trained model()",
            must=False,
            why="the same on all nodes, with linear layers: what is frozen never changes, and its hash is in"
            " the run's name",
        ),
    ),
    "fedstar": (
        Need(
            what="unlabelled_data()",
            must=False,
            why="inputs without labels, of the classes that train_data() has; without it FedSTAR is"
            " supervised training",
        ),
        Need(
            what="10 labelled examples",
            must=False,
            why="some are held out by each peer to judge the gate; a node may have none where others do",
        ),
    ),
    "fedln": (
        Need(
            what="embed()",
            must=False,
            why="rows in which near means alike, from a frozen encoder; unless overridden the flattened"
            " inputs, which will do where raw inputs tell the classes apart",
        ),
        Need(
            what=_LINEAR,
            must=False,
            why="the representation before it, for remedy = distil; no other remedy asks for it",
        ),
    ),
    "fedcompress": (
        Need(
            what=_LINEAR,
            must=False,
            why="the representation before it, where kappa adapts; a fixed kappa does not ask for it",
        ),
        Need(what="10 labelled examples", must=False, why=_MANY),
    ),
    "enccluster": (Need(what="a model without buffers", must=True, why=_NO_BUFFERS),),
    "efu": (
        Need(what="a model without buffers", must=True, why=_NO_BUFFERS),
        Need(what="(x, label) examples", must=False, why="what is forgotten is chosen by label or by input"),
    ),
    "matu": (
        Need(
            what="parts()",
            must=False,
            why="the node's tasks by name, all on one model; with a single task fedavg sends less",
        ),
        Need(
            what="identity()",
            must=False,
            why="of each part: what makes it the same task on two nodes; its class's name unless overridden",
        ),
        Need(
            what="outputs()",
            must=False,
            why="of each part: a frozen head of its own on the common model, where classes differ",
        ),
    ),
    "deltamask": (
        Need(
            what="role()",
            must=True,
            why="which tensors are the body, whose weights are masked, and which the head, trained before;"
            " without a head set head_rounds = 0",
        ),
        Need(
            what="a pre-trained model()",
            must=False,
            why="masks choose among its weights; random ones are worth little",
        ),
    ),
    "mpsl": (
        Need(
            what="front, body and head",
            must=True,
            why="of the model, body an nn.Sequential, as the cuts; or an nn.Sequential, with the option cut",
        ),
    ),
}
"""Built-in method -> what it asks for; those without any take every task that can be trained."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a task gives what a method asks for."""

    need: Need
    is_given: bool | None
    """None where that cannot be seen from outside."""
    found: str = ""
    """What is there, such as ``1,280 inputs``."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a method takes a task."""

    fits: bool
    problem: str = ""
    """Why not; one line that says what to change."""
    given: tuple[Given, ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `shoal methods show NAME --task TASK` must know of a task."""

    size: ModelSize
    fit: Fit


def needs_of(name: str, method: Any) -> tuple[Need, ...]:
    """Return what a method asks for; `method`: its class, which says so itself if it is not ours."""
    found: tuple[Need, ...] = NEEDS[name] if name in NEEDS else tuple(getattr(method, "needs", ()))
    return found


def needs_table(needs: tuple[Need, ...]) -> str:
    """Return a method's needs in Markdown, as its page has them."""
    lines = [
        "| a task gives | | what for |",
        "|---|---|---|",
        "| `model()`, `train_data()` | must | a `torch.nn.Module`; (x, label) tensors or a torch Dataset |",
        "| `validation_data()` | can | examples that no node trains on, to choose hyperparameters on |",
        "| `test_data()` | can | accuracy is measured on it; without it none is told |",
    ]
    for need in needs:
        what = f"`{need.what}`" if need.what.endswith("()") and " " not in need.what else need.what
        lines.append(f"| {what} | {'must' if need.must else 'should'} | {need.why} |")
    return "\n".join(lines)
