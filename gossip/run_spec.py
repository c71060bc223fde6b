"""Run specs: what peers must agree on before they average, and the hash that names it.

The run id is BLAKE2b-256 over the canonical msgpack of the spec: fields in the order of the class,
maps with sorted keys. Peers with different run ids never average; `difference` says in words what
to change so that they would.
"""

from hashlib import blake2b
from typing import Annotated, Final, Literal

import msgspec

NATIVE: Final = "native"
"""The engine that this project brings."""
MAX_TENSORS: Final = 20_000
"""Tensors of a model that travel."""
NAME_LENGTH: Final = 200
"""Characters of a name: of a tensor, a run, a task."""
TENSOR_DIMENSIONS: Final = 8
"""Dimensions of a tensor that travels."""
Scalar = bool | int | float | str
Name = Annotated[str, msgspec.Meta(max_length=NAME_LENGTH)]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A named tensor of the model."""

    name: Name
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=TENSOR_DIMENSIONS)]

    def __str__(self) -> str:
        """Print as ``fc.weight float32[64, 10]``."""
        return f"{self.name} {self.dtype}{list(self.shape)}"

    @property
    def numel(self) -> int:
        """How many numbers the tensor has."""
        product = 1
        for size in self.shape:
            product *= size
        return product


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training effort: equal on every peer that averages in it."""

    name: Name = "run"
    method: Name
    options: Annotated[dict[Name, Scalar], msgspec.Meta(max_length=64)] = {}
    """The method's hyperparameters, every one of them, defaults included."""
    task: Name
    """What is learned, such as ``digits`` or ``mypackage.mymodule:MyTask``."""
    tensors: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MAX_TENSORS)]
    """The model's manifest, in the order in which the vector holds them."""
    buffers: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many numbers at the end of the params are a model's buffers, such as the running variances of batch
    norm: they are averaged, never stepped, and travel as float32 whatever the codec."""
    shared: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=1_000)] = ()
    """Further vectors equal on all peers, such as an outer momentum."""
    rounds: int = 0
    """The run ends after this many rounds; 0: never."""
    seed: int = 0
    """Of the initial params."""
    group_size: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16
    """At most this many peers average in one group."""
    codec: Annotated[str, msgspec.Meta(max_length=32)] = "float32"
    """How numbers travel in the all-reduce."""
    exchange: Literal["group", "pairwise"] = "group"
    """Whether means are those of groups, or neighbours give each other mass (averaging/push_sum.py)."""
    pushes_per_round: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Pairwise only: how often a round gives away half of what a peer has."""
    quorum: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """A round with fewer contributors keeps the old state."""
    delay: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    """Rounds by which a mean comes late: with 1, local work goes on while the last one travels."""

    engine: Annotated[str, msgspec.Meta(max_length=32)] = NATIVE
    """What makes the means: ``native``, or ``hivemind``."""

    @property
    def params_numel(self) -> int:
        """How many numbers the model has."""
        return sum(t.numel for t in self.tensors)

    @property
    def state_numel(self) -> int:
        """How many numbers the shared state has: the params and what travels with them."""
        return self.params_numel + sum(t.numel for t in self.shared)


_AGREED = (
    *("name", "method", "task", "rounds", "seed", "group_size", "codec", "exchange", "pushes_per_round"),
    *("quorum", "delay", "engine", "buffers"),
)
_encode = msgspec.msgpack.Encoder(order="sorted").encode


def run_id(spec: RunSpec) -> bytes:
    """Return the 32-byte name of the run."""
    return blake2b(_encode(spec), digest_size=32, person=b"shoal/runspec").digest()


def difference(ours: RunSpec, theirs: RunSpec) -> str:
    """Say in one line where two specs differ, or return an empty text.

    Only the first difference of the manifest is named: a newcomer needs one thing to fix.
    """
    parts: list[str] = []
    for field in _AGREED:
        mine, other = getattr(ours, field), getattr(theirs, field)
        if mine != other:
            parts.append(f"{field}: {mine} here, {other} there")
    for key in sorted(ours.options.keys() | theirs.options.keys()):
        mine, other = ours.options.get(key, "unset"), theirs.options.get(key, "unset")
        if mine != other and ours.method == theirs.method:
            parts.append(f"{key}: {mine} here, {other} there")
    for label, mine_all, other_all in (
        ("tensor", ours.tensors, theirs.tensors),
        ("shared vector", ours.shared, theirs.shared),
    ):
        for mine_t, other_t in zip(mine_all, other_all, strict=False):
            if mine_t != other_t:
                parts.append(f"{label} {mine_t} here, {other_t} there")
                break
        else:
            if len(mine_all) != len(other_all):
                parts.append(f"{len(mine_all)} {label}s here, {len(other_all)} there")
    return "; ".join(parts)[:600]
