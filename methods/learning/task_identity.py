"""Identity: what makes a task the same task on two peers.

The id is the hash of the identity, so whoever tells an id can be asked for what it stands for, and cannot
tell two stories about one id. What nobody can prove is that a peer trains on what it says.
"""

from hashlib import blake2b
from typing import Annotated, Final

import msgspec

ID_BYTES: Final = 16


class Identity(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """A task, in words."""

    name: Annotated[str, msgspec.Meta(max_length=100)]
    """Of the task, such as ``rotated``."""
    classes: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=1000)
    ] = ()
    """In the order of the outputs: two tasks with other orders are two tasks."""
    head: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """The hash of the frozen classifier, or of what it is made from; empty where the model has it."""

    @property
    def id(self) -> bytes:
        """Sixteen bytes that stand for all of it."""
        return blake2b(msgspec.msgpack.encode(self), digest_size=ID_BYTES, person=b"shoal/task").digest()
