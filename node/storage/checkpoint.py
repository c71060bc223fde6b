"""Checkpoints: the shared state on disk, always the old one or the new one, never half of either.

    write NAME.tmp -> fsync file -> rename to NAME -> fsync directory -> drop files beyond the last `keep`

A rename is atomic, and the bytes behind it are on the disk before it happens; so a process killed at
any byte leaves a stray temporary file at worst, and the newest whole file is what was saved last.
Disks lie about fsync and bits rot, hence the second line of defence: a file is only believed if the
digest of its header and the state hash of its numbers both hold, else the one before it is taken.

A file is in the safetensors format (``params``, then ``shared.NAME`` for what travels with the params)
and opens with any safetensors reader. The header is written here, since the format is a length, a JSON
map and the raw numbers: so the vector goes to the disk from where it lies, without a copy. A chunk that was
overwritten meanwhile no longer has its hash, and then nothing is saved: the newer state comes next.

Names are RUN-SERIAL-roundN.safetensors. The serial grows with every save, because "newest" means saved
last: a node that fetched the state of an earlier round must not wake up in the later one it gave up.
"""

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open

from shoal.gossip.events import Vector
from shoal.gossip.state.movement import is_finite
from shoal.gossip.state.tree_hash import leaf, leaf_of, n_chunks, span, state_hash
from shoal.node.errors import UserError
from shoal.node.storage.files import TEMPORARY, write_whole

log = logging.getLogger(__name__)

FORMAT: Final = "shoal-state-1"
KEPT: Final = 3
"""States of a run that are left on the disk."""
KEPT_LARGE: Final = 2
LARGE: Final = 1_000_000_000
"""Bytes from which on a state counts as large."""
MAX_HEADER_BYTES: Final = 1 << 20
"""A thousand shared vectors with the longest names stay below this; garbage is refused before it is read."""
_NAME: Final = re.compile(r"([0-9a-f]{16})-(\d{10})-round(\d+)\.safetensors")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Layout: TypeAlias = Sequence[tuple[str, int]]
"""Names and sizes of the shared vectors, in the order in which they follow the params."""


class DiskFull(UserError):
    """The disk is full: free space or move the node with --home; the last saved state is untouched."""

    def __init__(self, path: Path, needed_bytes: int) -> None:
        """`path`: where it was to go."""
        megabytes = needed_bytes / 1e6
        super().__init__(
            f"no space left for {megabytes:.1f} MB in {path}: free some, or start with --home on another "
            "disk; the last saved state is untouched"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The shared state after a round."""

    run_id: bytes
    """32 bytes."""
    round: int
    state_hash: bytes
    """32 bytes, of `vector`."""
    previous_hash: bytes
    """Of the state before the round; empty for the first."""
    vector: Vector
    """The params and what travels with them, flat."""
    had_company: bool = False
    """Whether it was made with others, in this round or before."""
    leaves: bytes = b""
    """Hashes of the vector's chunks, where its memory may be written anew while it is saved."""


class Overwritten(Exception):
    """The state is no longer there: a newer one has been written over it."""


def save(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    shared: Layout = (),
    keep: int = KEPT,
    before_rename: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint; `keep` are left of this run, the new one included.

    `before_rename` is called when all is written and nothing is yet in place, for tests of crashes.

    Raises:
        Overwritten: a chunk has other bytes than `Checkpoint.leaves` says; nothing has changed.
        DiskFull: no space, or a quota or file limit is reached; nothing has changed.
        OSError: the disk fails in another way; nothing has changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run = checkpoint.run_id.hex()[:16]
    for stray in directory.glob(f"{run}-*{TEMPORARY}"):
        stray.unlink(missing_ok=True)
    mine = _serials(directory, run)
    serial = mine[-1][0] + 1 if mine else 1
    path = directory / f"{run}-{serial:010d}-round{checkpoint.round}.safetensors"
    write_state(path, checkpoint, shared=shared, before_rename=before_rename)
    for _, old in mine[: len(mine) + 1 - keep]:
        old.unlink(missing_ok=True)
    return path


def write_state(
    path: Path,
    checkpoint: Checkpoint,
    *,
    shared: Layout = (),
    about: Mapping[str, str] | None = None,
    before_rename: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint into a file, whole or not at all; `about` goes into its metadata.

    Raises:
        Overwritten, DiskFull, OSError: as `save` does.
    """
    header = _header(checkpoint, shared, about or {})
    numbers = np.ascontiguousarray(checkpoint.vector, dtype="<f4").data.cast("B")
    try:
        written = _verified(numbers, checkpoint.leaves) if checkpoint.leaves else numbers
        write_whole(path, header, written, before_rename=before_rename)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(path.parent, len(header) + len(numbers)) from error
        raise


def _verified(numbers: memoryview, leaf_hashes: bytes) -> Iterator[bytes]:
    """Yield a copy of each chunk, after checking that it is what was hashed."""
    for chunk in range(n_chunks(len(numbers))):
        copy = bytes(numbers[span(chunk, len(numbers))])
        if leaf(copy) != leaf_of(leaf_hashes, chunk):
            raise Overwritten(f"chunk {chunk} was overwritten while it was saved")
        yield copy


def _serials(directory: Path, run: str) -> list[tuple[int, Path]]:
    """Return this run's files with their serials, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[2]), path) for match, path in found if match and match[1] == run)


def _header(checkpoint: Checkpoint, shared: Layout, about: Mapping[str, str]) -> bytes:
    """Return the safetensors header, its length in front, padded so that the numbers lie aligned."""
    params = checkpoint.vector.size - sum(size for _, size in shared)
    if params < 0:
        raise ValueError("the shared vectors are larger than the whole state")
    metadata = {
        **about,
        "format": FORMAT,
        "run_id": checkpoint.run_id.hex(),
        "round": str(checkpoint.round),
        "state_hash": checkpoint.state_hash.hex(),
        "previous_hash": checkpoint.previous_hash.hex(),
        "had_company": str(checkpoint.had_company).lower(),
        "layout": json.dumps([["params", params], *([f"shared.{name}", size] for name, size in shared)]),
    }
    metadata["digest"] = _digest(metadata)
    tensors: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, size in json.loads(metadata["layout"]):
        tensors[name] = {"dtype": "F32", "shape": [size], "data_offsets": [at, at + 4 * size]}
        at += 4 * size
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(metadata: dict[str, str]) -> str:
    """Return the digest of all fields but itself: the state hash does not cover the header."""
    rest = {key: value for key, value in metadata.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True).encode()
    return blake2b(text, digest_size=32, person=b"shoal/state").hexdigest()


def _log_skip(path: Path, reason: str) -> None:
    log.warning("state file %s skipped: %s", path.name, reason)


def newest_round(directory: Path, run_id: bytes) -> int | None:
    """Return the round of what was saved last for this run, by its name; None where nothing is."""
    files = _serials(directory, run_id.hex()[:16]) if directory.is_dir() else []
    match = _NAME.fullmatch(files[-1][1].name) if files else None
    return int(match[3]) if match else None


def load_newest(
    directory: Path,
    run_id: bytes,
    *,
    numel: int | None = None,
    before: int | None = None,
    on_skip: Callable[[Path, str], None] = _log_skip,
) -> Checkpoint | None:
    """Return what was saved last for this run, or None. Torn and foreign files are reported and skipped.

    `numel`: how many numbers the state has; a file with another count is skipped unread. `before`: only
    states of earlier rounds than this are wanted.
    """
    if not directory.is_dir():
        return None
    for _, path in reversed(_serials(directory, run_id.hex()[:16])):
        try:
            found = _load(path, run_id, numel)
            if before is None or found.round < before:
                return found
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            on_skip(path, str(error))
    return None


def _load(path: Path, run_id: bytes, numel: int | None) -> Checkpoint:
    """Read one file of a run.

    Raises:
        ValueError: it is torn, altered, or of another run.
        SafetensorError: it is not a safetensors file.
        OSError: it cannot be read.
    """
    found, _, _ = read_state(path, numel=numel, run_id=run_id)
    return found


def read_state(
    path: Path, *, numel: int | None = None, run_id: bytes | None = None
) -> tuple[Checkpoint, Layout, dict[str, str]]:
    """Return the state in a file, its shared vectors' names and sizes, and the metadata.

    `numel`: how many numbers it must have. `run_id`: of which run it must be.

    Raises:
        ValueError, KeyError, TypeError: it is torn, altered, or another's.
        SafetensorError: it is not a safetensors file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
    if header_bytes > MAX_HEADER_BYTES or size < 8 + header_bytes:
        raise ValueError("torn or no state file")
    if numel is not None and size - 8 - header_bytes != 4 * numel:
        raise ValueError(f"holds {(size - 8 - header_bytes) // 4} numbers, the model has {numel}")
    with safe_open(path, framework="numpy") as tensors:
        metadata = tensors.metadata() or {}
        if metadata.get("format") != FORMAT or metadata.get("digest") != _digest(metadata):
            raise ValueError("the header is altered, or not ours")
        if run_id is not None and metadata["run_id"] != run_id.hex():
            raise ValueError("of another run")
        layout = [(str(name), int(count)) for name, count in json.loads(metadata["layout"])]
        vector = np.empty((size - 8 - header_bytes) // 4, dtype=np.float32)
        at = 0
        for name, count in layout:
            vector[at : at + count] = tensors.get_tensor(name)
            at += count
    expected = bytes.fromhex(metadata["state_hash"])
    if state_hash(vector.data) != expected:
        raise ValueError("the numbers do not have the state hash that the header names")
    if not is_finite(vector):
        raise ValueError("it holds numbers that are not finite")
    previous = bytes.fromhex(metadata["previous_hash"])
    # A file of an earlier version does not say.
    had_company = metadata.get("had_company") == "true"
    of = bytes.fromhex(metadata["run_id"])
    found = Checkpoint(of, int(metadata["round"]), expected, previous, vector, had_company)
    return found, [(name.removeprefix("shared."), count) for name, count in layout[1:]], metadata
