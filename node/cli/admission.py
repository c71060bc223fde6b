"""Commands that say who may take part in a run: found, invite, admit, ban, pardon, cosign, edict, members.

Edicts need founders' keys, which are files that need not lie on the node's machine: what lacks signatures is
printed as text for the next founder. Where a node runs, it is told; else the file in its home is changed.
"""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from shoal.crypto.keys import PeerId, new_key, peer_id_of, public_key_of
from shoal.gossip.admission.charter import MAX_DELEGATES, MAX_FOUNDERS, Charter, Founders, key_of, parse
from shoal.gossip.admission.edicts import TEXT_PREFIX, Edict, Verb, edict_of
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.grants import MAX_USES, Grant, check_chain
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import TEXT_PREFIX as ROTATION_PREFIX
from shoal.gossip.admission.rotations import Rotation, rotation_of
from shoal.gossip.admission.tokens import PREFIX as TOKEN_PREFIX
from shoal.gossip.admission.tokens import token_of
from shoal.node.cli.common import HomeOption, JsonOption, console, home_flag, home_of, print_json, row, table
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, BadHome, NotRunning, Refused
from shoal.node.roster_status import FOR_EVER, RosterStatus, edict_status, roster_status
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


# --- founding -----------------------------------------------------------------------------------------


def found(
    home: HomeOption = None,
    mode: Annotated[
        Literal["closed", "invite", "open"],
        typer.Option(
            "--mode", help="closed: whom founders admit. invite: and whom members invite. open: all."
        ),
    ] = "invite",
    founders: Annotated[
        int, typer.Option("--founders", min=1, max=MAX_FOUNDERS, help="Keys to make, one per founder.")
    ] = 1,
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, max=MAX_FOUNDERS, help="How many of them must sign.")
    ] = 1,
    delegates: Annotated[
        int,
        typer.Option("--delegates", min=0, max=MAX_DELEGATES, help="How far invites may be passed on."),
    ] = 1,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the founders' keys.", file_okay=False)
    ] = Path(),
    admit_me: Annotated[
        bool, typer.Option("--admit-me/--no-admit-me", help="Put this node on the roster at once.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Begin a run that has a door: make founders' keys and a charter, and set it for this node."""
    from shoal.node.config.toml_file import change_setting
    from shoal.node.storage.files import write_whole

    place = home_of(home)
    config, origins = load(place.path, {}, os.environ)
    if config.run.charter and origins["run.charter"] != "default":
        raise BadHome(
            f"{place.path} has a charter already; take run.charter out of {place.config_file}, or choose"
            " another --home"
        )
    keys = sorted((new_key() for _ in range(founders)), key=lambda each: bytes(each.verify_key))
    try:
        charter = Charter(
            mode=mode,
            founders=tuple(bytes(key.verify_key) for key in keys),
            threshold=threshold,
            delegates=delegates,
        )
    except AdmissionError as error:
        raise BadConfig(str(error)) from None
    files = [out / f"founder-{number}.key" for number in range(1, founders + 1)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for key, path in zip(keys, files, strict=True):
            write_whole(path, f"{bytes(key).hex()}\n".encode(), may_replace=False)
    except FileExistsError:
        raise BadHome(f"{path} exists: it may govern a run; choose another folder with --out") from None
    except OSError as error:
        raise BadHome(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from None
    place.create()
    me = peer_id_of(bytes(place.load_or_create_key().verify_key))
    change_setting(place.config_file, "run", "charter", str(charter))
    if admit_me:
        roster = Roster(charter)
        roster.add_edict(_edict(roster, "admit", public_key_of(me), keys=keys))
        _keep(place, roster)
    if json:
        print_json(
            {"charter": str(charter), "keys": list(map(str, files)), "peer_id": me, "admitted": admit_me}
        )
        return
    print(f"charter: {charter}")
    print(f"It is set in {place.config_file}: every node of the run needs it, and an invite brings it along.")
    print(f"founders' keys: {', '.join(map(str, files))}")
    print("Keep them away from this machine, on paper or a stick each; who has them decides who takes part.")
    if admit_me:
        print(f"This node is on the roster. Start it with: shoal start{home_flag(place)} --task ...")
    if mode == "invite":
        print(f"While it runs, let others in with: shoal invite{home_flag(place)}")
    else:
        print(f"Let others in with: shoal admit PEER_ID --sign {files[0]}{home_flag(place)}")


# --- inviting -----------------------------------------------------------------------------------------


def invite(
    home: HomeOption = None,
    to: Annotated[
        str, typer.Option("--to", help="Peer id of the one node it is for; empty: of use to any bearer.")
    ] = "",
    uses: Annotated[int, typer.Option("--uses", min=1, max=MAX_USES, help="How many nodes may use it.")] = 1,
    days: Annotated[float, typer.Option("--days", min=0.001, help="How long it can be used.")] = 7.0,
    depth: Annotated[
        int, typer.Option("--depth", min=0, max=MAX_DELEGATES - 1, help="How far it may be passed on.")
    ] = 0,
    member_days: Annotated[
        float, typer.Option("--member-days", min=0, help="How long the membership lasts; 0: for ever.")
    ] = 0.0,
    json: JsonOption = False,
) -> None:
    """Print one word with which another node joins the run of this one: shoal start --invite WORD."""
    import msgspec

    from shoal.node.web import client

    place = home_of(home)
    token = client.fetch_invite(place.path)
    charter = parse(str(token.settings.get("charter", "")))
    status = client.fetch_roster(place.path)
    if charter.mode == "invite":
        now = int(time.time())
        chain, seed = _grant(
            place, charter, to=to, uses=uses, depth=depth,
            not_after=now + int(days * DAY), member_until=now + int(member_days * DAY) if member_days else 0,
        )  # fmt: skip
        token = msgspec.structs.replace(token, chain=chain, seed=seed)
        if not status.is_member:
            raise Refused("this node is not on the roster, so it can invite nobody; see: shoal members")
    text = token.text()
    if json:
        named = {"to": to, "uses": 1 if to else uses, "mode": charter.mode}
        print_json({"token": text, "grant": token.chain[-1].id.hex() if token.chain else "", **named})
        return
    print(text)
    command = "On the other device: shoal start --invite WORD"
    if charter.mode == "closed":
        command += f"; a founder admits it with: shoal admit PEER_ID --sign founder-1.key{home_flag(place)}"
    elif charter.mode == "invite":
        whom = f"one node, {to}" if to else f"{uses} node{'s' if uses > 1 else ''}, whoever has it"
        command += f"  (for {whom}, within {days:g} days)"
    print(command, file=sys.stderr)


def _grant(
    home: Home, charter: Charter, *, to: str, uses: int, depth: int, not_after: int, member_until: int
) -> tuple[tuple[Grant, ...], bytes]:
    """Return the chain of grants for a newcomer, and the seed of the last one's key if anybody may use it.

    Raises:
        Refused: this node may not invite so far.
    """
    key, roster = home.load_key(), roster_of(home, charter)
    own = roster.chain_of(peer_id_of(bytes(key.verify_key)), time.time())
    before = own.chain if own is not None else ()
    if before:
        parent = before[-1]
        not_after = min(not_after, parent.not_after)
        if parent.member_until:
            member_until = min(member_until or parent.member_until, parent.member_until)
    bearer = new_key()
    grant = Grant(
        charter=charter.id,
        issuer=bytes(key.verify_key),
        key=_subject(to) if to else bytes(bearer.verify_key),
        serial=secrets.token_bytes(16),
        not_after=not_after,
        parent=before[-1].id if before else b"",
        is_named=bool(to),
        uses=1 if to else uses,
        depth=depth,
        member_until=member_until,
    ).signed_by(key)
    chain = (*before, grant)
    try:
        check_chain(chain, charter)
    except AdmissionError as error:
        raise Refused(f"this node may not invite like that: {error}") from None
    return chain, b"" if to else bytes(bearer)


# --- edicts -------------------------------------------------------------------------------------------


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
    whom = _sender(peer, charter_of(place, charter)) if peer.startswith(f"{TOKEN_PREFIX}1") else peer
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
    _refuse(place, peer, time.time() + seconds(long) if long else FOR_EVER)
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
    _refuse(place, peer, 0.0)
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
    signed = _word_of(edict).signed_by(*map(founder_key, sign))
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
    found = _word_of(edict)
    _submit(place, roster_of(place, charter_of(place, charter)), found)
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
    made = _edict(roster, "revoke_grant", bytes.fromhex(grant), keys=keys, reason=reason)
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
    made = _edict(
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
    made = _edict(roster, verb, _subject(peer), keys=keys, until=until, reason=reason)
    finish(place, roster, made, json=json)


def _edict(
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
    _submit(place, roster, word)
    return ""


def tell_next(lacking: str) -> None:
    """Say how a printed word gets further signatures."""
    print(
        f"{lacking}. The next founder signs it with: shoal cosign TEXT --sign founder-2.key", file=sys.stderr
    )
    print("and any node of the run takes it with: shoal edict add TEXT", file=sys.stderr)


def _submit(place: Home, roster: Roster, edict: Edict | Rotation) -> None:
    from shoal.node.web import client

    try:
        client.add_words(place.path, (edict,))
    except NotRunning:
        try:
            roster.add(edict)
        except AdmissionError as error:
            raise Refused(str(error)) from None
        _keep(place, roster)


# --- looking ------------------------------------------------------------------------------------------


def members(
    home: HomeOption = None,
    tree: Annotated[bool, typer.Option("--tree", help="Show who invited whom.")] = False,
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Show who may take part in the run, and who is kept out."""
    status = _roster_status(home_of(home), charter)
    if json:
        print_json(status)
        return
    if not status.charter:
        print("open: anyone may take part, and nobody governs; for a run with a door: shoal found")
    else:
        signers = f"{status.threshold} of {len(status.founders)} founders decide"
        print(f"{status.mode}: {signers}; roster {status.hash}")
    if tree:
        print("\n".join(_tree(status)) or "no members")
    elif status.members:
        made = table("member", "invited by", "until", "")
        for each in status.members:
            held = "held back: its invite was overused" if each.is_held_back else ""
            row(made, each.peer, each.issuer or "the founders", moment(each.until), held)
        console().print(made)
    if status.bans:
        made = table("kept out", "by", "until", "reason")
        for out in status.bans:
            row(made, out.peer, out.by, moment(out.until), out.reason)
        console().print(made)
    if status.is_split:
        print("The founders contradict each other: two sets of keys claim to follow the same one.")


def _tree(status: RosterStatus, issuer: str = "", indent: str = "") -> list[str]:
    lines: list[str] = []
    for each in status.members:
        if each.issuer == issuer and len(indent) < 2 * (MAX_DELEGATES + 1):
            held = "  (held back)" if each.is_held_back else ""
            lines += [f"{indent}{each.peer}{held}", *_tree(status, each.peer, indent + "  ")]
    return lines


def _roster_status(place: Home, charter: str) -> RosterStatus:
    from shoal.node.storage.roster_file import load_refused
    from shoal.node.web import client

    if not charter:
        try:
            return client.fetch_roster(place.path)
        except NotRunning:
            charter = load(place.path, {}, os.environ)[0].run.charter
    chosen = _parsed(charter)
    roster = roster_of(place, chosen) if chosen.founders else None
    me = place.peer_id() if place.key_file.exists() else PeerId("")
    return roster_status(roster, load_refused(place), me, time.time())


# --- small things -------------------------------------------------------------------------------------


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
    found = _parsed(chosen)
    if not found.founders:
        raise BadConfig(
            "this run has no founders: it is open, and nobody governs; begin one that has with: shoal found,"
            " or say which with --charter"
        )
    return found


def _parsed(text: str) -> Charter:
    try:
        return parse(text)
    except AdmissionError as error:
        raise BadConfig(f"--charter: {error}") from None


def roster_of(place: Home, charter: Charter) -> Roster:
    from shoal.node.storage.roster_file import load_roster

    return load_roster(place, charter)[0]


def _keep(place: Home, roster: Roster) -> None:
    from shoal.node.storage.roster_file import load_roster, save_roster

    place.create()
    try:
        save_roster(place, roster.charter, roster.words, load_roster(place, roster.charter)[1])
    except OSError as error:
        raise BadHome(
            f"cannot write {place.path}: {error.strerror}; make room or choose another --home"
        ) from None


def _refuse(place: Home, peer: str, until: float) -> None:
    from shoal.node.storage.roster_file import load_refused, save_refused
    from shoal.node.web import client

    _subject(peer)
    try:
        client.refuse(place.path, peer, until)
    except NotRunning:
        refused = load_refused(place) | {PeerId(peer): until}
        place.create()
        save_refused(place, {each: end for each, end in refused.items() if end > time.time()})


def _subject(peer: str) -> bytes:
    from shoal.crypto.errors import BadKey

    try:
        return public_key_of(PeerId(peer))
    except BadKey as error:
        raise BadConfig(f"{peer[:80]!r}: {error}; shoal id prints that of a node") from None


def _sender(word: str, charter: Charter) -> str:
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


def _word_of(text: str) -> Edict | Rotation:
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
    advice = "sign with another founder's key, or copy this one back"
    return read_seed(path, f"there is no {path}; {advice}", advice)


def moment(until: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(until)) if until else "-"


def seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isdecimal() or not 0 < int(number) < 10_000:
        raise BadConfig(f"--for {text!r}: write a number and m, h, d or w, such as 7d")
    return int(number) * UNITS[unit]
