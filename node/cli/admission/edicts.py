"""Commands by which founders decide: admit, ban, pardon, cosign, edict.

Edicts need founders' keys, which are files that need not lie on the node's machine: what lacks signatures is
printed as text for the next founder. Where a node runs, it is told; else the file in its home is changed.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.gossip.admission.charter import MAX_FOUNDERS, Founders, key_of
from shoal.gossip.admission.edicts import Edict, Verb
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.admission.tokens import PREFIX as TOKEN_PREFIX
from shoal.node.cli.admission.common import (
    CharterOption,
    For,
    Keys,
    Reason,
    charter_of,
    founder_key,
    keep,
    moment,
    refuse,
    roster_of,
    seconds,
    sender_of,
    subject_of,
    word_of,
)
from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.errors import BadConfig, NotRunning, Refused
from shoal.node.roster_status import FOR_EVER, edict_status
from shoal.node.storage.home import Home

if TYPE_CHECKING:
    from nacl.signing import SigningKey


def admit(
    peer: Annotated[
        str,
        typer.Argument(
            help="The peer id of a node, as shoal id prints it, or the word of its shoal invite.",
            show_default=False,
        ),
    ],
    home: HomeOption = None,
    sign: Keys = None,
    long: For = "",
    reason: Reason = "",
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Put a node on the roster, with the key of a founder."""
    place = home_of(home)
    if not sign:
        raise BadConfig("sign it with a founder's key: --sign founder-1.key")
    whom = sender_of(peer, charter_of(place, charter)) if peer.startswith(f"{TOKEN_PREFIX}1") else peer
    _decide(place, "admit", whom, sign, long, reason, charter, json=json)


def ban(
    peer: Annotated[str, typer.Argument(help="The peer id of a node.", show_default=False)],
    home: HomeOption = None,
    sign: Keys = None,
    long: For = "",
    reason: Reason = "",
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Keep a node out: of the run with a founder's key, else only away from this node."""
    place = home_of(home)
    if sign:
        _decide(place, "ban", peer, sign, long, reason, charter, json=json)
        return
    refuse(place, peer, time.time() + seconds(long) if long else FOR_EVER)
    if json:
        print_json({"peer": peer, "scope": "this node", "for": long})
        return
    print(f"this node refuses {peer}{f' for {long}' if long else ''}; the others do as they like.")
    print("With a founder's key the whole run does: add --sign founder-1.key")


def pardon(
    peer: Annotated[str, typer.Argument(help="The peer id of a node.", show_default=False)],
    home: HomeOption = None,
    sign: Keys = None,
    reason: Reason = "",
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """End a ban: of the founders with their keys, else that of this node."""
    place = home_of(home)
    if sign:
        _decide(place, "pardon", peer, sign, "", reason, charter, json=json)
        return
    refuse(place, peer, 0.0)
    if json:
        print_json({"peer": peer, "scope": "this node"})
    else:
        print(f"this node refuses {peer} no longer; a ban of the founders ends with: --sign founder-1.key")


def cosign(
    edict: Annotated[
        str, typer.Argument(help="The text of an edict, or a file with it.", show_default=False)
    ],
    home: HomeOption = None,
    sign: Keys = None,
    json: JsonOption = False,
) -> None:
    """Add a founder's signature to an edict; it is put on the roster once enough have signed."""
    if not sign:
        raise BadConfig("sign it with a founder's key: --sign founder-2.key")
    signed = word_of(edict).signed_by(*map(founder_key, sign))
    place = home_of(home)
    try:
        roster = roster_of(place, charter_of(place, ""))
    except BadConfig:
        roster = None  # a founder need not have a node
    finish(place, roster, signed, json=json)


edict_app = typer.Typer(no_args_is_help=True, help="What founders have said of who takes part.")


@edict_app.command("add")
def edict_add(
    edict: Annotated[
        str, typer.Argument(help="The text of an edict, or a file with it.", show_default=False)
    ],
    home: HomeOption = None,
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Put an edict that enough founders signed on the roster of this node, which tells the others."""
    place = home_of(home)
    found = word_of(edict)
    submit(place, roster_of(place, charter_of(place, charter)), found)
    if json:
        print_json({"added": True, "edict": edict_status(found)})
    else:
        print(f"added: {edict_status(found).verb} {edict_status(found).subject}")


@edict_app.command("list")
def edict_list(home: HomeOption = None, charter: CharterOption = "", json: JsonOption = False) -> None:
    """Show every edict that this node keeps."""
    place = home_of(home)
    roster = roster_of(place, charter_of(place, charter))
    shown = [*map(edict_status, roster.edicts), *map(edict_status, roster.rotations)]
    if json:
        print_json(shown)
        return
    made = table(
        "edict", "verb", "of", "epoch", "until", "signed by", "reason", numbers=("epoch", "signed by")
    )
    for each in shown:
        row(
            made,
            each.id,
            each.verb,
            each.subject,
            each.epoch,
            moment(each.until),
            each.signatures,
            each.reason,
        )
    console().print(made if shown else "none")


@edict_app.command("revoke")
def edict_revoke(
    grant: Annotated[
        str, typer.Argument(help="The id of a grant, as shoal invite --json prints it.", show_default=False)
    ],
    home: HomeOption = None,
    sign: Keys = None,
    reason: Reason = "",
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """End an invite and the memberships that it gave."""
    place = home_of(home)
    if len(grant) != 64 or set(grant) - set("0123456789abcdef"):
        raise BadConfig("the id of a grant has 64 hex digits; shoal invite --json prints it")
    if not sign:
        raise BadConfig("sign it with a founder's key: --sign founder-1.key")
    roster = roster_of(place, charter_of(place, charter))
    keys = list(map(founder_key, sign))
    made = edict_by(roster, "revoke_grant", bytes.fromhex(grant), keys=keys, reason=reason)
    finish(place, roster, made, json=json)


@edict_app.command("founders")
def edict_founders(
    keys: Annotated[list[str], typer.Argument(help="Their public keys, all of them.", show_default=False)],
    threshold: Annotated[int, typer.Option("--threshold", min=1, max=MAX_FOUNDERS)] = 1,
    home: HomeOption = None,
    sign: Keys = None,
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Put other founders in the place of those that govern now; the old ones and all new ones must sign."""
    place = home_of(home)
    roster = roster_of(place, charter_of(place, charter))
    try:
        new = tuple(sorted({key_of(each) for each in keys}))
    except AdmissionError as error:
        raise BadConfig(str(error)) from None
    made = edict_by(
        roster, "set_founders", roster.founders.id, keys=list(map(founder_key, sign or [])), new=new,
        threshold=threshold,
    )  # fmt: skip
    finish(place, roster, made, json=json)


def _decide(
    place: Home, verb: Verb, peer: str, sign: list[Path], long: str, reason: str, charter: str, *, json: bool
) -> None:
    roster = roster_of(place, charter_of(place, charter))
    until = int(time.time() + seconds(long)) if long else 0
    keys = list(map(founder_key, sign))
    made = edict_by(roster, verb, subject_of(peer), keys=keys, until=until, reason=reason)
    finish(place, roster, made, json=json)


def edict_by(
    roster: Roster,
    verb: Verb,
    subject: bytes,
    *,
    keys: "list[SigningKey]",
    until: int = 0,
    reason: str = "",
    new: tuple[bytes, ...] = (),
    threshold: int = 0,
) -> Edict:
    """Return an edict that these founders sign."""
    governing: Founders = roster.founders
    for key in keys:
        if bytes(key.verify_key) not in {*governing.keys, *new}:
            raise BadConfig("this key is of no founder of the run; take one that shoal found wrote")
    made = Edict(
        charter=roster.charter.id,
        under=governing.id,
        epoch=roster.next_epoch(subject),
        verb=verb,
        subject=subject,
        until=until,
        reason=reason[:200],
        keys=new,
        threshold=threshold,
    )
    return made.signed_by(*keys)


def finish(place: Home, roster: Roster | None, edict: Edict | Rotation, *, json: bool) -> None:
    """Put an edict on the roster if enough have signed it; else print it for the next founder."""
    lacking = put(place, roster, edict)
    if json:
        print_json(
            {"added": not lacking, "lacking": lacking, "text": edict.text(), "edict": edict_status(edict)}
        )
        return
    if not lacking:
        print(f"done: {edict_status(edict).verb} {edict_status(edict).subject}")
        return
    print(edict.text())
    tell_next(lacking)


def put(place: Home, roster: Roster | None, word: Edict | Rotation) -> str:
    """Put a word on the roster; returns why not, where it lacks something."""
    if roster is None or roster.charter.id != word.charter:
        return "this home has no run with that charter: add it at a node that has"
    try:
        word.check(roster.founders)
    except AdmissionError as error:
        return str(error)
    submit(place, roster, word)
    return ""


def tell_next(lacking: str) -> None:
    """Say how a printed word gets further signatures."""
    print(
        f"{lacking}. The next founder signs it with: shoal cosign TEXT --sign founder-2.key", file=sys.stderr
    )
    print("and any node of the run takes it with: shoal edict add TEXT", file=sys.stderr)


def submit(place: Home, roster: Roster, edict: Edict | Rotation) -> None:
    """Tell the running node of a word, or put it on the roster in its home."""
    from shoal.node.web import roster_client

    try:
        roster_client.add_words(place.path, (edict,))
    except NotRunning:
        try:
            roster.add(edict)
        except AdmissionError as error:
            raise Refused(str(error)) from None
        keep(place, roster)
