"""The roster of a run on disk: ``roster/CHARTER.msgpack`` in the home, always the old file or the new one.

Beside it ``roster/refused.json`` holds the peers that the user of this node refuses. Both are written by the
running node, and by commands while none runs.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import Charter
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.grants import Redeem
from shoal.gossip.admission.roster import (
    MAX_EDICTS,
    MAX_PRESENTED,
    MAX_REDEEMS,
    MAX_ROTATIONS,
    Roster,
    Word,
)
from shoal.gossip.admission.rotations import Rotation
from shoal.node.storage.files import write_whole
from shoal.node.storage.home import Home

log = logging.getLogger(__name__)

FOLDER: Final = "roster"
MAX_BYTES: Final = 64 << 20
"""A full roster has about 20 MB; a larger file is not ours, and is not read."""
MAX_REFUSED: Final = 10_000


class RosterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds."""

    edicts: Annotated[tuple[Edict, ...], msgspec.Meta(max_length=MAX_EDICTS)] = ()
    redeems: Annotated[tuple[Redeem, ...], msgspec.Meta(max_length=MAX_REDEEMS + MAX_PRESENTED)] = ()
    own: Redeem | None = None
    """The words with which this node joins."""
    rotations: Annotated[tuple[Rotation, ...], msgspec.Meta(max_length=MAX_ROTATIONS)] = ()


def roster_path(home: Home, charter: Charter) -> Path:
    """Return where the roster of a charter is kept."""
    return home.path / FOLDER / f"{charter.id.hex()[:16]}.msgpack"


def load_roster(home: Home, charter: Charter) -> tuple[Roster, Redeem | None]:
    """Return the roster that was kept, and the words with which this node joins.

    A file that cannot be used is said, and laid aside: peers tell all that was in it.
    """
    path, roster = roster_path(home, charter), Roster(charter)
    try:
        found = msgspec.msgpack.decode(_read(path), type=RosterFile)
    except FileNotFoundError:
        return roster, None
    except (OSError, ValueError) as error:
        aside = path.with_suffix(".bad")
        log.warning("%s cannot be used (%s): it is laid aside as %s", path, error, aside.name)
        if path.exists():
            path.replace(aside)
        return roster, None
    words: list[Word] = [*found.edicts, *found.redeems, *found.rotations]
    n_bad = roster.merge(words)
    if n_bad:
        log.warning("%s holds %d words that nobody with the right to them signed", path, n_bad)
    return roster, found.own


def save_roster(home: Home, charter: Charter, words: Iterable[Word], own: Redeem | None) -> None:
    """Put this in the place of what was kept before.

    Raises:
        OSError: the disk fails; nothing has changed.
    """
    said = list(words)
    file = RosterFile(
        edicts=tuple(each for each in said if isinstance(each, Edict)),
        redeems=tuple(each for each in said if isinstance(each, Redeem)),
        rotations=tuple(each for each in said if isinstance(each, Rotation)),
        own=own,
    )
    path = roster_path(home, charter)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, msgspec.msgpack.encode(file))


def load_refused(home: Home) -> dict[PeerId, float]:
    """Return the peers that the user refuses, and until when by the wall clock."""
    path = home.path / FOLDER / "refused.json"
    try:
        found = msgspec.json.decode(_read(path), type=dict[str, float])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used (%s): nobody is refused by it", path, error)
        return {}
    now = time.time()
    return {PeerId(peer): until for peer, until in found.items() if until > now}


def save_refused(home: Home, refused: dict[PeerId, float]) -> None:
    """Keep whom the user refuses.

    Raises:
        OSError: the disk fails; nothing has changed.
    """
    path = home.path / FOLDER / "refused.json"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = sorted(refused.items(), key=lambda each: -each[1])[:MAX_REFUSED]
    write_whole(path, msgspec.json.encode(dict(kept)))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("it is too large")
    return data
