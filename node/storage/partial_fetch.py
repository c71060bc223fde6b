"""Half-fetched states on disk: what was verified before a fetch broke off need not be sent again.

    Behind  --> read what lies here --> CachedChunks        the member asks donors for the rest
    ChunksVerified --> append                               one record per chunk, in the order of arrival
    saved   --> remove

    STATE.part = magic | state hash (32) | n_bytes (8) | { chunk (4) | size (4) | bytes }*

A file is named after the state it was begun for, and is never one itself: it has another name and another
form than what checkpoint.py reads. It is written without fsync and believed in nothing. A record counts
by the hash of its bytes alone, and the member compares that with the leaf hashes of what it
fetches; so torn ends and rotten bits are merely asked for again, and chunks that did not change between two
states serve for both.
"""

import logging
import mmap
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final

import trio

from shoal.gossip.events import Data
from shoal.gossip.member.commands import Behind, CachedChunks, ChunksVerified
from shoal.gossip.state.tree_hash import CHUNK_BYTES, leaf

log = logging.getLogger(__name__)

WORTH_BYTES: Final = 8 << 20
"""Smaller states are fetched again sooner than they are written."""
MAGIC: Final = b"shoal half 1\n"
_HEAD: Final = Struct("!32sQ")
_RECORD: Final = Struct("!II")
_SUFFIX: Final = ".part"


class HalfFetched:
    """The folder of half-fetched states; at most one lies there. All methods block."""

    def __init__(self, directory: Path) -> None:
        """Nothing is read or made yet."""
        self._directory = directory
        self._is_failing = False

    def load(self) -> dict[bytes, Data]:
        """Return every chunk that lies here by its leaf hash, mapped and not copied."""
        found: dict[bytes, Data] = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            try:
                records, end = _read(path)
            except (OSError, ValueError) as error:
                log.info("half-fetched state %s is of no use: %s", path.name, error)
                path.unlink(missing_ok=True)
                continue
            with path.open("r+b") as file:
                file.truncate(end)
            found |= {leaf(data): data for data in records}
        return found

    def append(self, arrived: ChunksVerified) -> None:
        """Add verified chunks; those of another state make way."""
        if arrived.n_bytes < WORTH_BYTES:
            return
        path = self._directory / f"{arrived.state.hex()}{_SUFFIX}"
        try:
            if not path.exists():
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._remove_all()
                path.write_bytes(MAGIC + _HEAD.pack(arrived.state, arrived.n_bytes))
            with path.open("ab", buffering=0) as file:
                for chunk, data in arrived.chunks:
                    file.write(_RECORD.pack(chunk, len(data)) + bytes(data))
        except OSError as error:
            # Without it the fetch goes on all the same.
            if not self._is_failing:
                log.warning("cannot keep what is fetched in %s: %s", self._directory, error)
            self._remove_all()
        self._is_failing = not path.exists()

    def remove(self, state: bytes) -> None:
        """The state is whole, and saved as such."""
        (self._directory / f"{state.hex()}{_SUFFIX}").unlink(missing_ok=True)

    def _remove_all(self) -> None:
        for path in self._directory.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[list[memoryview], int]:
    """Return the chunks of a file and where the last whole one ends.

    Raises:
        ValueError: not such a file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < len(MAGIC) + _HEAD.size:
        raise ValueError("it has another form")
    state, _ = _HEAD.unpack_from(view, len(MAGIC))
    if state.hex() != path.stem:
        raise ValueError("it was begun for another state")
    at, chunks = len(MAGIC) + _HEAD.size, []
    while at + _RECORD.size <= len(view):
        _, size = _RECORD.unpack_from(view, at)
        if size > CHUNK_BYTES or at + _RECORD.size + size > len(view):
            break
        at += _RECORD.size
        chunks.append(view[at : at + size])
        at += size
    return chunks, at


class ChunkKeeper:
    """Reads and writes the half-fetched states beside the network, one thing after the other."""

    def __init__(self, directory: Path, tell: Callable[[CachedChunks], None]) -> None:
        """`tell` gets what lay on the disk, in the trio thread."""
        self._files, self._tell = HalfFetched(directory), tell
        self._put, self._take = trio.open_memory_channel[Callable[[], CachedChunks | None]](10_000)

    def notice(self, notice: Any) -> None:
        """Take note of what the member says."""
        match notice:
            case Behind():
                self._soon(lambda: CachedChunks(self._files.load()))
            case ChunksVerified():
                self._soon(lambda: self._files.append(notice))

    def saved(self, state: bytes) -> None:
        """A state is on the disk, whole."""
        self._soon(lambda: self._files.remove(state))

    def _soon(self, job: Callable[[], CachedChunks | None]) -> None:
        try:
            self._put.send_nowait(job)
        except trio.WouldBlock:
            log.debug("the disk does not keep up; a chunk is not kept")

    async def run(self) -> None:
        """Work until cancelled."""
        async for job in self._take:
            try:
                found = await trio.to_thread.run_sync(job)
            except OSError as error:
                # What lies here only saves sending it again.
                log.warning("half-fetched states cannot be kept: %s", error)
                continue
            if found is not None and found.chunks:
                log.info("%d chunks of a half-fetched state lie on the disk", len(found.chunks))
                self._tell(found)
