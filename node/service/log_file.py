"""Log file: the lines of a node in a file that is put aside when it is large, so that it never fills a disk.

node.log  --max_mb reached-->  node.log.1  -->  node.log.2  ...  at most `keep` of them
"""

import logging
import logging.handlers
import os
import sys
import time
from contextlib import suppress
from io import FileIO, TextIOWrapper
from pathlib import Path

from shoal.node.errors import BadHome


class _Handler(logging.handlers.RotatingFileHandler):
    """As Python has it, but for its owner's eyes only; a disk that is full ends nothing, and is told once."""

    told = False

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(FileIO(descriptor, "ab"), "utf-8", "backslashreplace", write_through=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging calls it so
        """See `logging.Handler`."""
        if not self.told:
            self.told = True
            print(f"cannot write {self.baseFilename}: {sys.exc_info()[1]}; see to the disk", file=sys.stderr)


class LogFile:
    """Where lines go. Any thread may write."""

    def __init__(self, path: Path, max_mb: float, keep: int) -> None:
        """`max_mb`: at which a file is put aside; `keep`: how many of these are left.

        Raises:
            BadHome: it cannot be written.
        """
        try:
            self._handler = _Handler(path, maxBytes=int(max_mb * 1e6), backupCount=keep)
        except OSError as error:
            raise BadHome(
                f"cannot write {path}: {error.strerror}; give another place with --log-file"
            ) from None
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, line: str) -> None:
        """Add one line, or several in one piece."""
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of a disk that is full; it has been told
            self._handler.close()


def stamp(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 has them, in the time zone of this machine."""
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int(seconds % 1 * 1000):03}{zone[:3]}:{zone[3:]}"
