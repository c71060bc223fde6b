"""Start file: an earlier state of a run, signed, from which a new run without some peer begins.

    X.safetensors      the state, as it was saved; its metadata has a signed `Origin` under `ABOUT`

The state's hash is in what is signed, and the numbers must have it. A file says who vouches for it: the
records are of the node that wrote it. A node with records of its own compares.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from nacl.signing import SigningKey
from safetensors import SafetensorError

from shoal.crypto.keys import PeerId, peer_id_of
from shoal.node.errors import BadConfig
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.signed_document import BadDocument, opened, sign
from shoal.node.storage.checkpoint import Checkpoint, Layout, read_state, write_state

ABOUT: Final = "shoal.retraining"
DOMAIN: Final = b"shoal/retraining/1\x00"


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a start file says of its state, and signs."""

    peer: str
    """The peer that wrote the file."""
    run: str
    """The id of the run that the state is of."""
    name: str
    """That run's name."""
    round: int
    """The round that the state begins."""
    state: str
    """Its hash."""
    without: str
    """The peer whose contributions are not in it."""
    first_round: int
    """The first round that the peer was in."""
    members: tuple[str, ...]
    """The peers whose contributions are in it, by the records of `peer`."""


@dataclass(frozen=True, slots=True)
class StartFile:
    """A start file that was read, and found to be whole."""

    checkpoint: Checkpoint
    origin: Origin

    def of_run(self, run: bytes) -> Checkpoint:
        """Return the state as the first of another run; one that several made is not trained on alone."""
        had_company = len(self.origin.members) > 1
        return replace(self.checkpoint, run_id=run, previous_hash=b"", had_company=had_company)

    def record(self, run: bytes) -> RoundRecord:
        """Return the first record of a run that begins with it."""
        of = self.origin
        return RoundRecord(run=run.hex(), round=of.round - 1, before="", after=of.state, members=of.members)


def write_start(path: Path, key: SigningKey, kept: Path, origin: Origin) -> None:
    """Write a kept state as a start file.

    Raises:
        BadConfig: it cannot be written.
    """
    checkpoint, shared = _read(kept)[:2]
    about = sign(key, DOMAIN, msgspec.json.encode(origin)).decode()
    try:
        write_state(path, checkpoint, shared=shared, about={ABOUT: about})
    except OSError as error:
        raise BadConfig(f"cannot write {path}: {error.strerror}; choose another --out") from None


def read_start(path: Path, numel: int | None = None) -> StartFile:
    """Read a start file. `numel`: how many numbers the state of the new run has.

    Raises:
        BadConfig: it is none, was altered, or is of another model.
    """
    checkpoint, _, metadata = _read(path)
    try:
        peer, text = opened(DOMAIN, metadata.get(ABOUT, "").encode())
        origin = msgspec.json.decode(text, type=Origin)
    except (BadDocument, msgspec.MsgspecError) as error:
        raise _bad(path, f"nobody's signature holds on it ({error})") from None
    if peer != origin.peer or origin.state != checkpoint.state_hash.hex() or origin.round != checkpoint.round:
        raise _bad(path, "it is signed for another state")
    if numel not in (None, checkpoint.vector.size):
        raise BadConfig(
            f"--from {path}: its state has {checkpoint.vector.size} numbers, this model {numel}: start with"
            f" the task, the method and the options of run {origin.name}"
        )
    return StartFile(checkpoint, origin)


def read_kept(path: Path, run: bytes) -> Checkpoint | None:
    """Return a kept state of a run; None where its file is damaged."""
    try:
        return read_state(path, run_id=run)[0]
    except (ValueError, KeyError, TypeError, OSError, SafetensorError):
        return None


def _read(path: Path) -> tuple[Checkpoint, Layout, dict[str, str]]:
    try:
        return read_state(path)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise _bad(path, str(error)) from None


def _bad(path: Path, why: str) -> BadConfig:
    return BadConfig(
        f"{path} is no state to begin with: {why}; make one where the run's states are kept: shoal forget"
        " --retrain PEER"
    )


def origin_of(
    key: SigningKey,
    checkpoint: Checkpoint,
    *,
    name: str,
    without: PeerId,
    first: int,
    members: frozenset[str],
) -> Origin:
    """Return what this node says of a kept state."""
    return Origin(
        peer=peer_id_of(bytes(key.verify_key)),
        run=checkpoint.run_id.hex(),
        name=name,
        round=checkpoint.round,
        state=checkpoint.state_hash.hex(),
        without=without,
        first_round=first,
        members=tuple(sorted(members)),
    )
