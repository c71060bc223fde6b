"""Private state on disk: what a method carries from round to round and never tells, such as moments.

The trainer writes it itself, so that it never enters the daemon, whose states others may fetch. One file
per run, always the old one or the new one. Losing it costs a few steps of warming up, no more; so what
cannot be written or read is said and gone without.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec, run_id

log = logging.getLogger(__name__)


class PrivateState:
    """The private state of one run, in one folder."""

    def __init__(self, state_dir: Path, spec: RunSpec, kind: str = "private") -> None:
        """`state_dir`: the node's own; it exists. `kind`: whose it is, the beginning of the file's name."""
        self._path = state_dir / f"{kind}-{run_id(spec).hex()[:16]}.safetensors"

    def load(self) -> dict[str, Vector] | None:
        """Return what was saved last, or None."""
        try:
            return load(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("%s cannot be read (%s); going on without it", self._path, error)
            return None

    def save(self, vectors: Mapping[str, Vector]) -> None:
        """Put vectors in the place of those saved before; nothing is written for nothing."""
        if not vectors:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(save(dict(vectors)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s); going on without it", self._path, error.strerror)
            temporary.unlink(missing_ok=True)
