"""Forms: what a verb takes and gives, and tensors as bytes within them.

Both ends know a verb's form from the method, so a receiver knows how many bytes a tensor of given sizes has
before it reads any. A tensor travels as the numbers of one of the codecs float32, float16 and int8
(gossip/averaging/tensor_codecs.py); at both ends it is float32.
"""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.errors import GossipError, RemoteViolation
from shoal.gossip.messages import Named, Shape, Shapes

MAX_BYTES: Final = 4 << 20
"""Of all tensors of a call or an answer: what a bulk frame holds."""
MAX_TENSORS: Final = 16
MAX_VERBS: Final = 32

Tensors: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""float32, of any shape within the form; finite."""
Number = Literal["float32", "float16", "int8"]


class BadTensors(GossipError):
    """This node's own tensors do not fit the form of the verb: a bug of the method."""


class TensorForm(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The bounds of one tensor."""

    most: Shape
    """The largest size in each dimension; a tensor has exactly as many dimensions."""
    number: Number = "float32"
    """How its numbers travel. float16 loses 2^-11 of each, int8 1/254 of the largest of 1024."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a tensor of this shape may travel."""
        return len(shape) == len(self.most) and all(
            size <= most for size, most in zip(shape, self.most, strict=True)
        )

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of this shape."""
        return CODECS[self.number].size(prod(shape))


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a verb takes and gives. What breaks it is refused before memory is taken for it."""

    takes: Annotated[dict[Named, TensorForm], msgspec.Meta(max_length=MAX_TENSORS)]
    """By name; all of them are in every call."""
    gives: Annotated[dict[Named, TensorForm], msgspec.Meta(max_length=MAX_TENSORS)] | None
    """By name; all of them are in every answer. None: a push, which nobody answers."""

    def __post_init__(self) -> None:
        """Refuse what no frame holds.

        Raises:
            ValueError: the largest call or answer has more than 4 MiB.
        """
        for tensors in (self.takes, self.gives or {}):
            if (most := sum(each.n_bytes(each.most) for each in tensors.values())) > MAX_BYTES:
                raise ValueError(f"a call or an answer of up to {most} bytes; at most {MAX_BYTES} travel")


Forms: TypeAlias = Annotated[dict[Named, Form], msgspec.Meta(max_length=MAX_VERBS)]
"""By verb."""


def pack(tensors: Tensors, forms: Mapping[str, TensorForm]) -> tuple[Shapes, bytes]:
    """Return tensors as they travel.

    Raises:
        BadTensors: other names than the form's, a size above it, or a number that is not finite.
    """
    if tensors.keys() != forms.keys():
        raise BadTensors(f"tensors {sorted(tensors)}, where the form has {sorted(forms)}")
    shapes, pieces = [], []
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], np.float32)
        shape = np.shape(tensors[name])
        if not forms[name].fits(shape):
            raise BadTensors(f"tensor {name} has shape {shape}, where the form has {forms[name].most}")
        if not np.isfinite(array).all():
            raise BadTensors(f"tensor {name} has numbers that are not finite")
        shapes.append((name, shape))
        pieces.append(bytes(CODECS[forms[name].number].encode(array.reshape(-1))))
    return tuple(shapes), b"".join(pieces)


def check(shapes: Shapes, n_bytes: int, forms: Mapping[str, TensorForm]) -> None:
    """Check what a peer says of its tensors, before they are read.

    Raises:
        RemoteViolation: other names than the form's, a size above it, or another number of bytes.
    """
    if [name for name, _ in shapes] != sorted(forms):
        raise RemoteViolation("call with other tensors than its form")
    if not all(forms[name].fits(shape) for name, shape in shapes):
        raise RemoteViolation("call with a shape outside its form")
    if sum(forms[name].n_bytes(shape) for name, shape in shapes) != n_bytes:
        raise RemoteViolation("call with other bytes than its shapes")


def unpack(shapes: Shapes, data: bytes | memoryview, forms: Mapping[str, TensorForm]) -> Tensors:
    """Return tensors that came, float32 of the shapes told.

    Raises:
        RemoteViolation: they break the form, or have numbers that are not finite.
    """
    check(shapes, len(data), forms)
    view, tensors = memoryview(data), {}
    for name, shape in shapes:
        n_bytes = forms[name].n_bytes(shape)
        vector = CODECS[forms[name].number].decode(view[:n_bytes], prod(shape))
        if not np.isfinite(vector).all():
            raise RemoteViolation("call with numbers that are not finite")
        tensors[name] = vector.reshape(shape)
        view = view[n_bytes:]
    return tensors
