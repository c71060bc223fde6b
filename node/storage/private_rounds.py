"""Private states by round: each is kept with the shared state that it was made with, and used with no other.

    round t:  S_t, P_t  --local work, exchange-->  P_(t+1) on disk  -->  S_(t+1) told, hashed, on disk
                                                        '-- a node may be killed anywhere here --'

P_(t+1) is written before anyone learns of S_(t+1), and P_t stays until a checkpoint of a later round is on
disk. So whichever shared state a node wakes up with, what was made with it is there. A state is named by its
round and its hash: one that was made and then lost, because the swarm agreed on another, has another hash.

    begins from S (round, hash)  -->  the private state of just this S
                                      else the newest that the swarm went on from, of an earlier round: the
                                           node was away since
                                      else that before round 0

Where the private state is worth something beside any shared state, as moments are (`matches_state` is false),
only the round is compared, and the newest is better than none.

Files are named KIND-RUN-SERIAL-roundN-HASH-made.safetensors, of kind ``private`` for what methods keep and
``own`` for a model's own parts; ``made`` becomes ``agreed`` when the swarm has gone on from that state. The
serial grows with every file. Nothing here is ever told: the trainer writes the files itself, so that they
never enter the daemon, whose states others may fetch.

Large moments that live on in an optimizer are written every `WRITE_EVERY` rounds, and when the trainer is
told to end: one that is killed goes on from older ones.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from safetensors import SafetensorError
from safetensors.numpy import load

from shoal.gossip.run_spec import RunSpec, run_id
from shoal.methods.base import Array, Deferred
from shoal.node.storage.arrays import pieces
from shoal.node.storage.checkpoint import newest_round
from shoal.node.storage.files import TEMPORARY, write_whole
from shoal.node.storage.private_state import set_aside

log = logging.getLogger(__name__)

WRITE_EVERY: Final = 10
"""Rounds between two files of large moments."""
LARGE: Final = 64_000_000
"""Bytes from which on they are."""
Kind: TypeAlias = Literal["private", "own"]
MAX_KEPT: Final = 8
"""Files at most: where checkpoints cannot be written, older private states are given up."""
_NAME: Final = re.compile(
    r"(?P<kind>private|own)-(?P<run>[0-9a-f]{16})-(?P<serial>\d{10})-round(?P<round>\d+)-(?P<state>[0-9a-f]*)-(?P<place>made|agreed)\.safetensors"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Which shared state: that before this round, with this hash; none where the hash does not matter."""

    round: int
    state: bytes = b""


@dataclass(slots=True)
class _Kept:
    mark: Mark
    serial: int
    is_agreed: bool
    """Whether the swarm went on from its shared state."""
    vectors: Mapping[str, Array] | None
    """None where they are on disk only."""
    path: Path | None


class PrivateRounds:
    """The private states of one node in one run. See the module's docstring."""

    def __init__(
        self,
        initial: Mapping[str, Array],
        spec: RunSpec,
        folder: Path | None,
        *,
        matches_state: bool,
        kind: Kind = "private",
    ) -> None:
        """`initial`: before round 0. `folder`: the node's own for states; None: keep no files."""
        self._kind = kind
        self.matches_state = matches_state
        self.initial = initial
        self._folder, self._run_id = folder, run_id(spec)
        self._run = self._run_id.hex()[:16]
        self._kept: list[_Kept] = []
        """By serial."""
        self._unwritten = 0
        """How many that were made since the last file."""
        self._used: _Kept | None = None
        """What the round at hand began with; None: with `initial`."""

    def restore(self) -> None:
        """Take up what is on disk; without this, it is in vain and goes with the next state."""
        self._kept = sorted(self._files(), key=lambda kept: kept.serial)

    def at(self, mark: Mark) -> tuple[Mapping[str, Array], int]:
        """Return the private state that belongs to a shared one, and how many rounds this node was away."""
        while True:
            found = self._choose(mark)
            if found is None:
                self._used = None
                return self.initial, mark.round
            vectors = found.vectors if found.vectors is not None else self._read(found)
            if vectors is None:
                self._kept.remove(found)
                continue
            if found.mark == mark and not found.is_agreed:
                self._agree(found)
            for other in self._kept:
                # One is worked with; the one made last may turn out to be the swarm's.
                is_last = other is self._kept[-1]
                other.vectors = vectors if other is found else other.vectors if is_last else None
            self._used = found
            return vectors, max(0, mark.round - found.mark.round)

    def look(self, mark: Mark) -> Mapping[str, Array]:
        """Return what belongs to a shared state, and change nothing: the node may be at work."""
        found = self._choose(mark)
        return {} if found is None else found.vectors or self._read(found) or {}

    def made(self, mark: Mark, vectors: Mapping[str, Array]) -> None:
        """Keep the private state that belongs to a new shared one, before anyone learns of that."""
        if not vectors:
            return
        serial = 1 + max((kept.serial for kept in [*self._kept, *self._files()]), default=0)
        is_due = self._unwritten + 1 >= WRITE_EVERY or not self._may_wait(vectors)
        new = _Kept(mark, serial, False, vectors, self._path(mark, serial, "made") if is_due else None)
        saved = newest_round(self._folder, self._run_id) if self._folder is not None else None
        needed = [kept for kept in self._kept if kept is self._used or _is_needed(kept, saved)]
        needed = needed[1 - MAX_KEPT :]
        if is_due:
            self._unwritten = 0
            self._kept = [*needed, new]
            self._write(new)
            self._prune()
            return
        self._unwritten += 1
        on_disk = [kept for kept in self._kept if kept.path is not None]
        # What is on the disk stays there until something newer is.
        self._kept = [*on_disk, *(kept for kept in needed if kept.path is None), new]

    def settle(self) -> None:
        """Write what was made last, if it is not on the disk yet."""
        if not self._unwritten:
            return
        last, self._unwritten = self._kept[-1], 0
        last.path = self._path(last.mark, last.serial, "made")
        self._write(last)

    def _may_wait(self, vectors: Mapping[str, Array]) -> bool:
        """Tell whether it does no harm that an older one is on the disk for some rounds, and saves much."""
        is_live = isinstance(vectors, Deferred) and vectors.nbytes >= LARGE
        return is_live and not self.matches_state and any(kept.path is not None for kept in self._kept)

    def set_aside(self, reason: str) -> None:
        """Keep what the round at hand began with out of the way, and say so."""
        if self._used is not None:
            self._set_aside(self._used, reason)
            self._kept.remove(self._used)
            self._used = None

    def _choose(self, mark: Mark) -> _Kept | None:
        newest_first = self._kept[::-1]
        exact = [kept for kept in newest_first if kept.mark == mark]
        earlier = [kept for kept in newest_first if kept.is_agreed and kept.mark.round < mark.round]
        if self.matches_state:
            return next(iter([*exact, *earlier]), None)
        # What was made last may be of a round that is not to be: it is of use only where nothing else is.
        before = [kept for kept in newest_first if kept.mark.round <= mark.round]
        return next(iter([*exact, *before, *newest_first]), None)

    def _agree(self, kept: _Kept) -> None:
        """Note that the swarm goes on from what this belongs to."""
        kept.is_agreed = True
        path = self._path(kept.mark, kept.serial, "agreed")
        if kept.path is None or path is None:
            return
        try:
            kept.path.replace(path)
        except OSError as error:
            log.warning("%s cannot be renamed (%s)", kept.path, error.strerror or error)
        else:
            kept.path = path

    def _files(self) -> list[_Kept]:
        if self._folder is None or not self._folder.is_dir():
            return []
        named = ((_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return [
            _Kept(
                Mark(int(match["round"]), bytes.fromhex(match["state"])),
                int(match["serial"]),
                match["place"] == "agreed",
                None,
                path,
            )
            for match, path in named
            if match and match["kind"] == self._kind and match["run"] == self._run
        ]

    def _path(self, mark: Mark, serial: int, place: str) -> Path | None:
        if self._folder is None:
            return None
        name = (
            f"{self._kind}-{self._run}-{serial:010d}-round{mark.round}-{mark.state.hex()}-{place}.safetensors"
        )
        return self._folder / name

    def _read(self, kept: _Kept) -> Mapping[str, Array] | None:
        if kept.path is None:
            return None
        try:
            return load(kept.path.read_bytes())
        except (OSError, SafetensorError, KeyError) as error:
            self._set_aside(kept, f"cannot be read ({error})")
            return None

    def _write(self, kept: _Kept) -> None:
        if self._folder is None or kept.path is None or kept.vectors is None:
            return
        # A trainer that is killed while it saves leaves half a file; nobody else writes here.
        for stray in self._folder.glob(f"{self._kind}-{self._run}-*{TEMPORARY}"):
            stray.unlink(missing_ok=True)
        try:
            write_whole(kept.path, *pieces(dict(kept.vectors)))
        except (OSError, SafetensorError, KeyError) as error:
            why = getattr(error, "strerror", None) or error
            log.warning("%s cannot be written (%s); a restart goes on without it", kept.path, why)

    def _prune(self) -> None:
        kept = {each.serial for each in self._kept}
        for file in self._files():
            if file.serial not in kept and file.path is not None:
                file.path.unlink(missing_ok=True)

    def _set_aside(self, kept: _Kept, reason: str) -> None:
        """Keep a file that is of no use out of the way, and say so."""
        if kept.path is not None:
            set_aside(kept.path, reason)


def _is_needed(kept: _Kept, saved: int | None) -> bool:
    """Tell whether a node may wake up with its shared state; `saved`: the newest round on disk."""
    return kept.is_agreed and (saved is None or kept.mark.round >= saved)


def own_parts(folder: Path, spec: RunSpec, round_: int) -> Mapping[str, Array]:
    """Return what a node's model keeps to itself beside the state before a round, or nothing."""
    kept = PrivateRounds({}, spec, folder, matches_state=False, kind="own")
    kept.restore()
    return kept.look(Mark(round_))
