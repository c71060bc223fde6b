"""The command `shoal invite`: the word with which another node joins."""

import secrets
import sys
import time
from typing import Annotated

import typer

from shoal.crypto.keys import new_key, peer_id_of
from shoal.gossip.admission.charter import MAX_DELEGATES, Charter, parse
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.grants import MAX_USES, Grant, check_chain
from shoal.node.cli.admission.common import DAY, roster_of, subject_of
from shoal.node.cli.common import HomeOption, JsonOption, home_flag, home_of, print_json
from shoal.node.errors import Refused
from shoal.node.storage.home import Home


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

    from shoal.node.web import roster_client

    place = home_of(home)
    token = roster_client.fetch_invite(place.path)
    charter = parse(str(token.settings.get("charter", "")))
    status = roster_client.fetch_roster(place.path)
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
        key=subject_of(to) if to else bytes(bearer.verify_key),
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
