"""Needs: what a task must give each method beside a model and training data, and what else it makes use of.

A method says it in its class attribute `needs`; one without takes every task that can be trained. Whether a
given task gives it is asked in learning/task_fit.py. torch is never loaded here.
"""

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


LAST_LINEAR: Final = "a last nn.Linear"
NO_BUFFERS: Final = Need(
    what="a model without buffers",
    must=True,
    why="a secure sum carries changes of parameters; GroupNorm in place of BatchNorm",
)


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


def needs_of(method: Any) -> tuple[Need, ...]:
    """Return what a method asks for; `method`: its class, which says so in its attribute `needs`."""
    found: tuple[Need, ...] = tuple(getattr(method, "needs", ()))
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
