"""What a trainer is told when it starts, in one argument; torch-free, so that the daemon can write it.

python -P -m shoal.node.trainer.process --socket PATH --state-dir PATH --spec JSON
"""

from typing import Annotated, Any, Final

import msgspec

from shoal.gossip.admission.errors import BadToken
from shoal.gossip.admission.tokens import token_of
from shoal.gossip.run_spec import RunSettings, RunSpec, Scalar, TensorSpec
from shoal.methods.errors import BadOption
from shoal.node.errors import BadConfig

FAILED: Final = 3
"""Exit code of a trainer that cannot go on, and of a check that found why."""


MARK: Final = "error: "
"""Begins what a check that found something says."""


def settings_of(run: RunSettings) -> dict[str, Any]:
    """Return the values of `RunSettings` in a struct that extends it, by field."""
    return {name: getattr(run, name) for name in RunSettings.__struct_fields__}


def token_settings(invite: str) -> dict[str, Any]:
    """Return what an invite says of the run, by field of `RunSettings`.

    Raises:
        BadConfig: it is no invite.
    """
    try:
        return dict(token_of(invite).settings)
    except BadToken as error:
        raise BadConfig(f"invite: {error}") from None


class TrainerSpec(RunSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of node/config/settings.py's run that concerns the trainer."""

    task_options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Arguments of the task; this node's own."""
    device: str = "auto"
    """Where torch computes."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Torch's threads; one, since several nodes may share a machine."""
    cpu_share: Annotated[float, msgspec.Meta(ge=0.01, le=1)] = 1.0
    """Of the time in which steps are made, how much they may take."""
    memory_gb: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What the node may take of the machine's memory; 0: all of it."""
    base: str = ""
    """The name of the frozen base to fetch, in hex."""
    share_base: bool = True
    """Whether the frozen base is kept in a file, for newcomers to fetch."""


def run_spec(
    run: RunSettings,
    options: dict[str, Scalar],
    tensors: tuple[TensorSpec, ...],
    shared: tuple[TensorSpec, ...],
    buffers: int = 0,
    pinned: tuple[TensorSpec, ...] = (),
    pinned_hash: bytes = b"",
) -> RunSpec:
    """Return the run spec: `options` has every hyperparameter, so that defaults are agreed upon too.

    `buffers`: how many numbers at the end of the params are the model's buffers. `pinned`: the tensors that
    never change, with their hash.

    Raises:
        BadOption: something in it is beyond what a node takes.
    """
    agreed = settings_of(run) | {"options": options}
    made = RunSpec(
        **agreed,
        tensors=tensors,
        shared=shared,
        buffers=buffers,
        pinned=pinned,
        pinned_hash=pinned_hash,
    )
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=RunSpec)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadOption(f"the run cannot be told to a node: {error}; mend that setting") from None
    return made
