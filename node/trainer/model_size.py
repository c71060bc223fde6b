"""Task size: what of a task's model decides how many bytes a method sends, and whether the method takes it.

    python -P -m shoal.node.trainer.model_size TASK OPTIONS METHOD OPTIONS        OPTIONS: JSON objects

Prints a `Measured` as JSON. A process of its own, because it needs torch, which the command line never
loads; what a person must mend is one line on standard error.
"""

import logging
import sys

import msgspec
from torch import nn

from shoal.gossip.run_spec import Scalar
from shoal.methods.base import ModelSize
from shoal.methods.deltamask.masking import names_of
from shoal.methods.errors import BadTask, MethodsError
from shoal.methods.learning.model_tensors import manifest
from shoal.methods.learning.objective import head_of
from shoal.methods.learning.parts import prepared
from shoal.methods.learning.task import Task, load_task
from shoal.methods.learning.task_fit import fit_of
from shoal.methods.needs import Measured
from shoal.methods.registry import load_method
from shoal.node.text import log_to_stderr
from shoal.node.trainer.spec import FAILED
from shoal.node.trainer.user_folder import search_user_folder


def size_of(task: Task, method: object = None) -> ModelSize:
    """Measure a task's model, as a method wants it.

    Raises:
        BadTask: there is no model, or it has no parameters.
    """
    model, stays = prepared(task, method)
    tensors = manifest(model, stays)
    body, head = (set(names_of(task, model, role)) for role in ("body", "head"))
    return ModelSize(
        numel=sum(spec.numel for spec in tensors),
        body=sum(spec.numel for spec in tensors if spec.name in body),
        head=sum(spec.numel for spec in tensors if spec.name in head),
        tensors=len(tensors),
        embedding=_embedding(model),
        parts=max(1, len(task.parts())),
    )


def _embedding(model: nn.Module) -> int:
    try:
        return int(head_of(model).in_features)
    except BadTask:
        return 0


def main() -> int:
    """Print the size; returns the exit code."""
    log_to_stderr(logging.WARNING, logging.BASIC_FORMAT)
    search_user_folder()
    name, text, method, method_text = sys.argv[1:]
    try:
        task = load_task(name, msgspec.json.decode(text, type=dict[str, Scalar]))
        options = msgspec.json.decode(method_text, type=dict[str, Scalar])
        found = Measured(size=size_of(task, load_method(method, options)), fit=fit_of(task, method, options))
    except MethodsError as error:
        print(error, file=sys.stderr)
        return FAILED
    print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
