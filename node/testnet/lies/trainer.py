"""The real trainer, on wrong labels: what the testnet's lie ``label-flip`` is told by."""

import sys
from typing import Any

from shoal.methods.learning.task import Task, load_task
from shoal.node.trainer import process


def flipped(task: Task) -> Task:
    """Return a task whose training labels are turned round: the first for the last, and so on.

    Raises:
        TypeError: its training examples are no inputs and labels.
    """
    found: Any = task.train_data()
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError("only a task of inputs and labels has labels to turn round")
    inputs, labels = found
    last = max(9, int(labels.max()))  # a share of digits need not have a nine
    task.train_data = lambda: (inputs, last - labels)  # type: ignore[method-assign]
    return task


def main() -> int:
    """Run a trainer; returns its exit code."""
    process.load_task = lambda *args: flipped(load_task(*args))  # type: ignore[attr-defined]
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
