"""Files that are there whole or not at all: written beside their place, then renamed into it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".tmp"
"""What the name of a file ends with while it is being written."""


def write_whole(
    path: Path,
    *pieces: bytes | memoryview | Iterator[bytes | memoryview],
    is_durable: bool = True,
    may_replace: bool = True,
    before_rename: Callable[[], None] = lambda: None,
) -> None:
    """Put bytes in the place of a file so that nobody ever sees half of them. The file has mode 0600.

    An iterator is asked for its bytes when they are to be written, and may raise to leave all as it was.
    `is_durable`: whether it outlives a loss of power. `may_replace`: whether such a file may exist already.
    `before_rename` is called when all is written and nothing is yet in place, for tests of crashes.

    Raises:
        FileExistsError: there is such a file and it may not be replaced.
        OSError: it cannot be written; nothing has changed.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                for part in piece if isinstance(piece, Iterator) else (piece,):
                    done = 0
                    while done < len(part):
                        done += file.write(part[done:]) or 0
            if is_durable:
                os.fsync(file.fileno())
        before_rename()
        if may_replace:
            temporary.replace(path)
        else:
            _place_as_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if is_durable:
        _sync_directory(path.parent)


def _place_as_new(temporary: Path, path: Path) -> None:
    # A hard link fails where the name is taken; a rename would overwrite it.
    try:
        os.link(temporary, path)
    except PermissionError:  # a file system without hard links
        if path.exists():
            raise FileExistsError from None
        temporary.replace(path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
