"""Run specs: what peers must agree on before they average, and the hash that names it.

`RunSettings` is what a person chooses of it. A new setting is one field there, with its bounds and docstring:
config.toml, the environment, the flags of `shoal start` and `shoal testnet up`, their help, the command for
the next node and `difference` are made from the fields (node/config/run_flags.py).

The run id is BLAKE2b-256 over the canonical msgpack of the spec: fields in the order of the class,
maps with sorted keys. Peers with different run ids never average; `difference` says in words what
to change so that they would.
"""

from hashlib import blake2b
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from shoal.gossip.admission.charter import MAX_TEXT, canonical, parse
from shoal.gossip.admission.errors import BadCharter
from shoal.gossip.patterns import PatternName

NATIVE: Final = "native"
"""The engine that this project brings."""
MAX_TENSORS: Final = 20_000
"""Tensors of a model that travel."""
NAME_LENGTH: Final = 200
"""Characters of a name: of a tensor, a run, a task."""
TENSOR_DIMENSIONS: Final = 8
"""Dimensions of a tensor that travels."""
CHUNK_NUMEL: Final = 524_288
"""Numbers in a chunk unless a run says otherwise: 2 MiB of float32. With 8 peers half of it takes 3 % more
time, for messages, and twice as much a tenth more memory."""
LEAST_SECURE: Final = 3
"""Contributors of a secure sum: of two each would know what the other gave."""
ChunkNumel: TypeAlias = Literal[65_536, 131_072, 262_144, 524_288]
"""Numbers in a chunk: one of four powers of two."""
Combine: TypeAlias = Literal["mean", "clip", "trimmed", "median"]
"""How a group makes one change of its contributions: see gossip/averaging/bounds.py."""
PrivacyKind: TypeAlias = Literal["none", "local", "distributed", "examples"]
"""Where the noise of differential privacy is added: see gossip/policies/privacy.py."""
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


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every peer of a run must choose alike. `extra` holds a flag's name where it is not the field's."""

    name: Annotated[str, msgspec.Meta(max_length=NAME_LENGTH, extra={"flag": "--run"})] = "run"
    """The run's name, which tells apart runs that are otherwise equal."""
    task: Name = ""
    """What is learned: a built-in name such as digits, or package.module:Class. Empty: only help others."""
    method: Name = "fedavg"
    """The training method; `shoal methods` lists them."""
    options: Annotated[dict[Name, Scalar], msgspec.Meta(max_length=64, extra={"flag": "--option"})] = {}
    """Hyperparameters of the method that differ from its defaults; `shoal methods show NAME` lists them."""
    rounds: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """The run ends after this many rounds; 0: never."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """Seed of the initial model."""
    group_size: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16
    """At most this many peers average in one group; groups mix over the rounds."""
    quorum: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """A round with fewer contributors keeps the old state; 1 lets a node train alone."""
    exchange: PatternName = "group"
    """group: means of groups. pairwise: each gives half to one neighbour at a time, over any sparse graph."""
    pushes_per_round: Annotated[int, msgspec.Meta(ge=1, le=64, extra={"flag": "--pushes"})] = 4
    """With pairwise: to how many neighbours, one after the other, a round gives."""
    combine: Combine = "mean"
    """What a group makes of its contributions. mean: the weighted mean. clip: the same, but what is far
    from the last change is drawn towards it. trimmed: the mean without the largest and smallest quarter of
    every number. median: the middle one of every number. The last two count each peer once, whatever it
    claims; where data are unlike they cost accuracy. A node that is not told clips in an open run whose peers
    average in groups, and takes the mean in any other; a testnet takes the mean."""
    secure: bool = False
    """Sum under masks: peers learn the mean of what a group contributes, and nobody sees what one of them
    does. Needs three peers that stay to the end, and two thirds of those that began."""
    grid_bits: Annotated[int, msgspec.Meta(ge=2, le=16)] = 8
    """With secure: bits of a number before the sum, which takes the place of a codec."""
    accept_unseen_updates: bool = False
    """With secure, in a run that is not closed: let anybody contribute what nobody can look at."""
    privacy: PrivacyKind = "none"
    """Where noise is added, so that what is sent tells little of a node's data (docs/privacy.md). local: each
    node adds all of it. distributed: each its share, under --secure. examples: to every step of training."""
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    """With privacy: the largest norm of a node's change of the model in a round, to which a longer one is
    shortened; with examples, of the gradient of one example."""
    noise_multiplier: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)] = 1.0
    """With privacy: the standard deviation of the noise, in clip norms. More tells less, and learns less."""
    codec: Annotated[str, msgspec.Meta(max_length=32)] = "float32"
    """How numbers travel: float32, float16, bfloat16, int8, int4, int2, topk or sign. float32 is exact, int8
    sends a quarter of its bytes, int4 an eighth; the last three are for changes, as diloco averages them."""
    delay: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    """1: train on while the mean of the last round travels. 0: wait for it."""
    engine: Literal["native", "hivemind"] = "native"
    """What makes the means. native: this node's own all-reduce. hivemind: hivemind's averager in a process
    beside, so that any hivemind script can take part."""
    charter: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] = ""
    """The charter that says who may take part, as shoal found prints it; empty: open to all."""
    max_chunk_numel: ChunkNumel = CHUNK_NUMEL
    """Numbers in the largest chunk in which a vector travels: 65536, 131072, 262144 or 524288."""

    def __post_init__(self) -> None:
        """Check what the types do not.

        Raises:
            ValueError: the charter is none, or not written as it is everywhere.
        """
        if self.charter and canonical(self.charter) != self.charter:
            raise BadCharter("a charter stands in a run as shoal found prints it")


def usual_combine(run: RunSettings) -> Combine:
    """Return how a run combines whose user does not say so: who is open to all guards against all."""
    is_guarded = bool(run.charter) or run.exchange != "group" or run.engine != NATIVE or run.secure
    return "mean" if is_guarded else "clip"


def least_of(run: RunSettings) -> int:
    """Return how many must contribute for a round to count: the quorum, and three where sums are secure."""
    return max(run.quorum, LEAST_SECURE) if run.secure else run.quorum


class RunSpec(RunSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training effort: equal on every peer that averages in it.

    Here `options` holds every hyperparameter, so that peers agree on defaults too.
    """

    tensors: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MAX_TENSORS)]
    """The model's manifest, in the order in which the vector holds them."""
    buffers: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many numbers at the end of the params are a model's buffers, such as the running variances of batch
    norm: they are averaged, never stepped, and travel as float32 whatever the codec."""
    pinned: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MAX_TENSORS)] = ()
    """Tensors of the model that never change and do not travel, in the order of their names."""
    pinned_hash: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """The hash of their bytes: see gossip/state/pinned_hash.py."""
    shared: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=1_000)] = ()
    """Further vectors equal on all peers, such as an outer momentum."""

    @property
    def params_numel(self) -> int:
        """How many numbers of the model travel."""
        return sum(t.numel for t in self.tensors)

    @property
    def state_numel(self) -> int:
        """How many numbers the shared state has: the params and what travels with them."""
        return self.params_numel + sum(t.numel for t in self.shared)


AGREED: Final = (*RunSettings.__struct_fields__, "buffers")
"""What `difference` looks at beside options and tensors."""
_encode = msgspec.msgpack.Encoder(order="sorted").encode


def run_id(spec: RunSpec) -> bytes:
    """Return the 32-byte name of the run."""
    return blake2b(_encode(spec), digest_size=32, person=b"shoal/runspec").digest()


def difference(ours: RunSpec, theirs: RunSpec) -> str:
    """Say in one line where two specs differ, or return an empty text.

    Only the first difference of the manifest is named: a newcomer needs one thing to fix.
    """
    parts: list[str] = []
    for field in AGREED:
        if field == "options":
            continue
        mine, other = getattr(ours, field), getattr(theirs, field)
        if mine != other:
            if field == "charter":
                mine, other = parse(mine).summary, parse(other).summary
            parts.append(f"{field}: {mine} here, {other} there")
    for key in sorted(ours.options.keys() | theirs.options.keys()):
        mine, other = ours.options.get(key, "unset"), theirs.options.get(key, "unset")
        if mine != other and ours.method == theirs.method:
            parts.append(f"{key}: {mine} here, {other} there")
    for label, mine_all, other_all in (
        ("tensor", ours.tensors, theirs.tensors),
        ("pinned tensor", ours.pinned, theirs.pinned),
        ("shared vector", ours.shared, theirs.shared),
    ):
        for mine_t, other_t in zip(mine_all, other_all, strict=False):
            if mine_t != other_t:
                parts.append(f"{label} {mine_t} here, {other_t} there")
                break
        else:
            if len(mine_all) != len(other_all):
                parts.append(f"{len(mine_all)} {label}s here, {len(other_all)} there")
    if ours.pinned == theirs.pinned and ours.pinned_hash != theirs.pinned_hash:
        parts.append(
            "other numbers in the frozen tensors: take the same base, in the same revision, on all peers"
        )
    return "; ".join(parts)[:600]
