"""What a trainer is told when it starts, in one argument; torch-free, so that the daemon can write it.

python -P -m shoal.node.trainer.process --socket PATH --state-dir PATH --spec JSON
"""

from typing import Annotated, Final, Literal

import msgspec

from shoal.gossip.run_spec import NATIVE, RunSpec, Scalar, TensorSpec
from shoal.methods.errors import BadOption

FAILED: Final = 3
"""Exit code of a trainer that cannot go on, and of a check that found why."""


MARK: Final = "error: "
"""Begins what a check that found something says."""


class TrainerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of node/config/settings.py's run that concerns the trainer."""

    name: str = "run"
    """Of the run."""
    task: str
    """A built-in task, or package.module:Class."""
    task_options: dict[str, Scalar] = {}
    """Arguments of the task; this node's own."""
    method: str = "fedavg"
    """Of training; as in methods/registry.py."""
    options: dict[str, Scalar] = {}
    """Hyperparameters that differ from the method's defaults."""
    rounds: int = 0
    """Of the whole run; 0: no end."""
    seed: int = 0
    """Of the initial params and of the batches."""
    group_size: int = 16
    """Of the run spec."""
    exchange: Literal["group", "pairwise"] = "group"
    """Of the run spec."""
    pushes_per_round: int = 4
    """Of the run spec."""
    quorum: int = 1
    """Of the run spec."""
    codec: str = "float32"
    """Of the run spec."""
    delay: int = 0
    """Of the run spec."""
    engine: str = NATIVE
    """Of the run spec."""
    device: str = "auto"
    """Where torch computes."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Torch's threads; one, since several nodes may share a machine."""


def run_spec(
    spec: TrainerSpec,
    options: dict[str, Scalar],
    tensors: tuple[TensorSpec, ...],
    shared: tuple[TensorSpec, ...],
    buffers: int = 0,
) -> RunSpec:
    """Return the run spec: `options` has every hyperparameter, so that defaults are agreed upon too.

    `buffers`: how many numbers at the end of the params are the model's buffers.

    Raises:
        BadOption: something in it is beyond what a node takes.
    """
    made = RunSpec(
        name=spec.name,
        method=spec.method,
        options=options,
        task=spec.task,
        tensors=tensors,
        shared=shared,
        rounds=spec.rounds,
        seed=spec.seed,
        group_size=spec.group_size,
        codec=spec.codec,
        exchange=spec.exchange,
        pushes_per_round=spec.pushes_per_round,
        quorum=spec.quorum,
        delay=spec.delay,
        engine=spec.engine,
        buffers=buffers,
    )
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=RunSpec)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadOption(f"the run cannot be told to a node: {error}; mend that setting") from None
    return made
