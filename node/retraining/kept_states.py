"""Kept states: earlier states of a run, few and far apart, to go back to.

    state/kept/RUN-roundN.safetensors      a second name of a file that was saved (node/storage/checkpoint.py)

Rounds are shared out over stretches of 1, 2, 4, 8... rounds, as long as are needed for no more than so many
stretches. Of each the first state is kept. So the last one before any round is at most a stretch away, and a
run of any length keeps no more than it was told to.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey

from shoal.node.retraining.round_records import RoundRecord, seal
from shoal.node.storage.checkpoint import Checkpoint
from shoal.node.storage.database import Store
from shoal.node.storage.files import TEMPORARY, write_whole

FOLDER: Final = "kept"
PIECE: Final = 1 << 20
"""Bytes that are copied at a time, where a file can have no second name."""
_NAME: Final = re.compile(r"([0-9a-f]{16})-round(\d+)\.safetensors")


def chosen(rounds: Iterable[int], most: int) -> set[int]:
    """Return which of these rounds' states stay: at most `most`, the earliest among them."""
    ordered = sorted(set(rounds))
    stretch = 1
    while ordered and ordered[-1] // stretch >= most:
        stretch *= 2
    first: dict[int, int] = {}
    for round_ in ordered:
        first.setdefault(round_ // stretch, round_)
    return set(first.values())


def kept(state_dir: Path, run: bytes) -> dict[int, Path]:
    """Return the kept states of a run by round, earliest first."""
    folder = state_dir / FOLDER
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and match[1] == run.hex()[:16]:
            found[int(match[2])] = path
    return dict(sorted(found.items()))


class StateKeeper:
    """Keeps the states of one node, and the records of its rounds."""

    def __init__(self, state_dir: Path, store: Store, key: SigningKey, most: int) -> None:
        """`most`: states of each run."""
        self._state_dir, self._store, self._key, self._most = state_dir, store, key, most

    def note(self, record: RoundRecord) -> None:
        """Sign a record and write it."""
        self._store.add_record(record.run, seal(self._key, record))

    def keep(self, saved: Path, checkpoint: Checkpoint) -> None:
        """Keep a state that was just saved, if its round is to be kept, and drop what is one too many.

        Raises:
            OSError: the disk fails; what was kept before is kept still.
        """
        there = kept(self._state_dir, checkpoint.run_id)
        stay = chosen((*there, checkpoint.round), self._most)
        if checkpoint.round in stay:
            folder = self._state_dir / FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            _name_too(saved, folder / f"{checkpoint.run_id.hex()[:16]}-round{checkpoint.round}.safetensors")
        for round_, path in there.items():
            if round_ not in stay:
                path.unlink(missing_ok=True)


def _name_too(saved: Path, path: Path) -> None:
    """Give a file a second name, in the place of what has it."""
    temporary = path.with_name(path.name + TEMPORARY)
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(saved, temporary)
    except OSError:  # a file system without hard links says so in several ways; a full disk fails below too
        write_whole(path, _pieces(saved))
        return
    temporary.replace(path)
    # Where both were names of one file already, a rename leaves both.
    temporary.unlink(missing_ok=True)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
