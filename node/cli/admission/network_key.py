"""Commands for the key of a private network: new, show, rotate."""

import os
import secrets
import time
from typing import Annotated

import typer

from shoal.crypto.keys import peer_id_of, public_key_of
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import MAX_BOXES, Line, Rotation, fingerprint, sealed_for
from shoal.gossip.psk_file import KEY_BYTES, text_of
from shoal.node.cli.admission.common import CharterOption, Keys, charter_of, founder_key, roster_of, seconds
from shoal.node.cli.admission.edicts import put, tell_next
from shoal.node.cli.common import HomeOption, JsonOption, home_flag, home_of, print_json
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, Refused
from shoal.node.storage.home import Home
from shoal.node.storage.network_key import read_network_key

key_app = typer.Typer(no_args_is_help=True, help="The key of a private network, which all its nodes share.")


@key_app.command("new")
def key_new(json: JsonOption = False) -> None:
    """Print a new key; keep it with: shoal key new > swarm.key, and set key_file under [network]."""
    _print(secrets.token_bytes(KEY_BYTES), json=json)


@key_app.command("show")
def key_show(home: HomeOption = None, charter: CharterOption = "", json: JsonOption = False) -> None:
    """Print the key that this node says now, for a newcomer's file: after a rotation it is another one."""
    place = home_of(home)
    first = _first(place)
    try:
        chosen = charter_of(place, charter)
    except BadConfig:
        _print(first, json=json)  # nobody governs, so nobody gave another
        return
    _print(_line(place, roster_of(place, chosen), first)[0][0], json=json)


@key_app.command("rotate")
def key_rotate(
    home: HomeOption = None,
    sign: Keys = None,
    keep: Annotated[str, typer.Option("--keep", help="How long the former key is taken, as 24h.")] = "24h",
    charter: CharterOption = "",
    json: JsonOption = False,
) -> None:
    """Give all members a new key, signed by founders and sealed to each of them."""
    place = home_of(home)
    if not sign:
        raise BadConfig("sign it with a founder's key: --sign founder-1.key")
    roster = roster_of(place, charter_of(place, charter))
    if roster.charter.mode == "open":
        raise BadConfig("an open run has no list of members to seal a key to; make one with: shoal key new")
    former = _line(place, roster, _first(place))[0][0]
    members = roster.members(time.time()) | {peer_id_of(bytes(place.load_key().verify_key))}
    new, keys = secrets.token_bytes(KEY_BYTES), list(map(founder_key, sign))
    try:
        boxes = sealed_for(new, map(public_key_of, members))
    except AdmissionError as error:
        raise Refused(str(error)) from None
    words = [
        Rotation(
            charter=roster.charter.id,
            under=roster.founders.id,
            epoch=roster.next_rotation(fingerprint(former)),
            former=fingerprint(former),
            new=fingerprint(new),
            until=int(time.time() + seconds(keep)),
            boxes=boxes[begin : begin + MAX_BOXES],
        ).signed_by(*keys)
        for begin in range(0, len(boxes), MAX_BOXES)
    ]
    lacking = max(put(place, roster, each) for each in words)
    if json:
        texts = [each.text() for each in words]
        print_json({"added": not lacking, "lacking": lacking, "members": len(boxes), "texts": texts})
    elif lacking:
        print("\n".join(each.text() for each in words))
        tell_next(lacking)
    else:
        print(f"done: a new key for {len(boxes)} members; the former one is taken for {keep} more.")
        print(f"Newcomers get it in a file from: shoal key show{home_flag(place)} > swarm.key")


def _first(place: Home) -> bytes:
    """Return the key in the node's file.

    Raises:
        BadConfig: this node is in no private network.
    """
    path = load(place.path, {}, os.environ)[0].network.key_file
    if not path:
        raise BadConfig(
            "this node is in no private network: make a key with: shoal key new > swarm.key, and set key_file"
            " under [network]"
        )
    return read_network_key(path)


def _line(place: Home, roster: Roster, first: bytes) -> Line:
    return roster.network_keys(first, place.load_key(), time.time())


def _print(key: bytes, *, json: bool) -> None:
    if json:
        print_json({"key": text_of(key)})
    else:
        print(text_of(key), end="")
