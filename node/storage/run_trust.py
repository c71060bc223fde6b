"""Run trust on disk: with whom a node has averaged in a run, and how far its rounds move the state.

One small file per run, always the old one or the new one. It may be a round late: losing a few rounds costs
a colleague a few rounds, and losing all of it makes the node one that goes by the peers its user names.
"""

import logging
from pathlib import Path
from typing import Annotated, Final

import msgspec

from shoal.gossip.membership.colleagues import MAX_KNOWN, Acquaintance
from shoal.gossip.state.movement import MAX_KNOWN as MAX_MOVEMENTS
from shoal.gossip.state.movement import Movement
from shoal.node.storage.files import TEMPORARY, write_whole

log = logging.getLogger(__name__)

MAX_BYTES: Final = 1 << 20
"""A thousand peers stay far below this; a larger file is not ours, and is not read."""


class RunTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a node remembers of its peers and rounds in one run."""

    run: Annotated[str, msgspec.Meta(max_length=64)]
    """The run id in hex."""
    known: Annotated[tuple[Acquaintance, ...], msgspec.Meta(max_length=MAX_KNOWN)] = ()
    """The peer met last is the last."""
    movements: Annotated[tuple[Movement, ...], msgspec.Meta(max_length=MAX_MOVEMENTS)] = ()
    """How far this node's last rounds moved the state: see gossip/state/movement.py."""
    is_unanchored: bool = False
    """Whether the state was taken over from the most peers, and from nobody this node knew."""


def trust_path(state_dir: Path, run: bytes) -> Path:
    """Return where the trust of a run is kept."""
    return state_dir / f"trust-{run.hex()[:16]}.json"


def forget_trust(state_dir: Path) -> int:
    """Forget all runs' trust; returns of how many there was some.

    Raises:
        OSError: a file cannot be removed.
    """
    found = list(state_dir.glob("trust-*.json"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def load_trust(state_dir: Path, run: bytes) -> RunTrust:
    """Return what was kept of a run. A file that cannot be used is said, and gone without."""
    path, nothing = trust_path(state_dir, run), RunTrust(run=run.hex())
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        found = msgspec.json.decode(data, type=RunTrust)
        if found.run != nothing.run:
            raise ValueError("it is of another run")
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used (%s): this node begins without colleagues", path, error)
        return nothing
    return found


def save_trust(state_dir: Path, trust: RunTrust) -> None:
    """Put it in the place of what was kept before.

    Raises:
        OSError: the disk fails; nothing has changed.
    """
    path = trust_path(state_dir, bytes.fromhex(trust.run))
    for stray in state_dir.glob(f"{path.name}.*{TEMPORARY}"):
        stray.unlink(missing_ok=True)
    state_dir.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.encode(trust), is_durable=False)
