"""What the commands about admission share: charters, keys, words and the file of a roster."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shoal.crypto.keys import PeerId, peer_id_of, public_key_of
from shoal.gossip.admission.charter import Charter, parse
from shoal.gossip.admission.edicts import TEXT_PREFIX, Edict, edict_of
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import TEXT_PREFIX as ROTATION_PREFIX
from shoal.gossip.admission.rotations import Rotation, rotation_of
from shoal.gossip.admission.tokens import token_of
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, BadHome, NotRunning
from shoal.node.storage.home import Home, read_seed

if TYPE_CHECKING:
    from nacl.signing import SigningKey


DAY: Final = 86_400
UNITS: Final = {"m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}

Keys = Annotated[
    list[Path] | None,
    typer.Option("--sign", help="A founder's key file. Repeatable.", show_default=False),
]
Reason = Annotated[str, typer.Option("--reason", help="Kept with it, for others to read.")]
For = Annotated[str, typer.Option("--for", help="How long, such as 12h, 7d or 4w; empty: for ever.")]
CharterOption = Annotated[
    str, typer.Option("--charter", help="Of which run, where no node runs and no setting says it.")
]


def charter_of(place: Home, chosen: str) -> Charter:
    """Return the charter that is meant: the one given, the running node's, or that of the settings.

    Raises:
        BadConfig: there is none.
    """
    from shoal.node.web import client

    if not chosen:
        try:
            chosen = client.fetch_status(place.path).charter
        except NotRunning:
            chosen = load(place.path, {}, os.environ)[0].run.charter
    found = parsed(chosen)
    if not found.founders:
        raise BadConfig(
            "this run has no founders: it is open, and nobody governs; begin one that has with: shoal found,"
            " or say which with --charter"
        )
    return found


def parsed(text: str) -> Charter:
    """Return the charter of a text; a `BadConfig` says what is wrong with it."""
    try:
        return parse(text)
    except AdmissionError as error:
        raise BadConfig(f"--charter: {error}") from None


def roster_of(place: Home, charter: Charter) -> Roster:
    """Return the roster in the home of a node."""
    from shoal.node.storage.roster_file import load_roster

    return load_roster(place, charter)[0]


def keep(place: Home, roster: Roster) -> None:
    """Write a roster to the home of a node."""
    from shoal.node.storage.roster_file import load_roster, save_roster

    place.create()
    try:
        save_roster(place, roster.charter, roster.words, load_roster(place, roster.charter)[1])
    except OSError as error:
        raise BadHome(
            f"cannot write {place.path}: {error.strerror}; make room or choose another --home"
        ) from None


def refuse(place: Home, peer: str, until: float) -> None:
    """Have this node refuse a peer until a time, whether it runs or not."""
    from shoal.node.storage.roster_file import load_refused, save_refused
    from shoal.node.web import client

    subject_of(peer)
    try:
        client.refuse(place.path, peer, until)
    except NotRunning:
        refused = load_refused(place) | {PeerId(peer): until}
        place.create()
        save_refused(place, {each: end for each, end in refused.items() if end > time.time()})


def subject_of(peer: str) -> bytes:
    """Return the public key of a peer id; a `BadConfig` says what is wrong with it."""
    from shoal.crypto.errors import BadKey

    try:
        return public_key_of(PeerId(peer))
    except BadKey as error:
        raise BadConfig(f"{peer[:80]!r}: {error}; shoal id prints that of a node") from None


def sender_of(word: str, charter: Charter) -> str:
    """Return the peer that a word is for, where it names one, else the node that printed it.

    Raises:
        BadConfig: it is no invite, or of another run.
    """
    try:
        token = token_of(word)
    except AdmissionError as error:
        raise BadConfig(str(error)) from None
    if token.settings.get("charter", "") != str(charter):
        raise BadConfig("this word is of another run: its charter is not that of this node's run")
    named = token.chain[-1].key if token.chain and token.chain[-1].is_named else token.inviter
    return peer_id_of(named)


def word_of(text: str) -> Edict | Rotation:
    """Return the edict or the rotation of a text, or of a file that holds one.

    Raises:
        BadConfig: it is none.
    """
    if not text.startswith((TEXT_PREFIX, ROTATION_PREFIX)):
        try:
            text = Path(text).read_text("utf-8")[:100_000]
        except (OSError, UnicodeDecodeError, ValueError):
            raise BadConfig(f"{text[:60]!r} is neither an edict nor a file with one") from None
    try:
        return rotation_of(text) if text.startswith(ROTATION_PREFIX) else edict_of(text)
    except AdmissionError as error:
        raise BadConfig(str(error)) from None


def founder_key(path: Path) -> "SigningKey":
    """Return the key in a founder's file."""
    advice = "sign with another founder's key, or copy this one back"
    return read_seed(path, f"there is no {path}; {advice}", advice)


def moment(until: int) -> str:
    """Return a time as people write it; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(until)) if until else "-"


def seconds(text: str) -> float:
    """Return how long a text such as 7d means, in seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isdecimal() or not 0 < int(number) < 10_000:
        raise BadConfig(f"--for {text!r}: write a number and m, h, d or w, such as 7d")
    return int(number) * UNITS[unit]
