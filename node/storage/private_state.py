"""Private state on disk: what a node carries from round to round and never tells, such as what codecs owe.

One file per run, always the old one or the new one, whatever round it is of: losing it costs little, so what
cannot be written or read is said and gone without. What methods keep is in private_rounds.py.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from shoal.gossip.run_spec import RunSpec, run_id
from shoal.methods.base import Array
from shoal.node.storage.arrays import pieces
from shoal.node.storage.files import TEMPORARY, write_whole

log = logging.getLogger(__name__)


class PrivateState:
    """The private state of one run, in one folder."""

    def __init__(self, state_dir: Path, spec: RunSpec, kind: str) -> None:
        """`state_dir`: the node's own; it exists. `kind`: whose it is, the beginning of the file's name."""
        self._path = state_dir / f"{kind}-{run_id(spec).hex()[:16]}.safetensors"

    def load(self) -> dict[str, Array] | None:
        """Return what was saved last, or None."""
        try:
            return load(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            self.set_aside(f"cannot be read ({error})")
            return None

    def set_aside(self, reason: str) -> None:
        """Keep a file that is of no use out of the way, and say so."""
        set_aside(self._path, reason)

    def save(self, vectors: Mapping[str, Array]) -> None:
        """Put vectors in the place of those saved before; nothing is written for nothing."""
        if not vectors:
            return
        # A trainer that is killed while it saves leaves half a file; nobody else writes here.
        for stray in self._path.parent.glob(f"{self._path.name}.*{TEMPORARY}"):
            stray.unlink(missing_ok=True)
        try:
            write_whole(self._path, *pieces(dict(vectors)))
        except (OSError, SafetensorError, KeyError) as error:
            why = getattr(error, "strerror", None) or error
            log.warning("%s cannot be written (%s); going on without it", self._path, why)


def set_aside(path: Path, reason: str) -> None:
    """Keep a file that is of no use out of the way, and say so."""
    aside = path.with_suffix(".unusable")
    try:
        path.replace(aside)
    except OSError:
        # It is not there, or the folder cannot be written: what is saved next takes its place.
        log.warning("%s %s; going on without it", path, reason)
    else:
        log.warning("%s %s; going on without it, and keeping it as %s", path, reason, aside.name)
