"""The command `shoal members`: who may take part, and who is kept out."""

import os
import time
from typing import Annotated

import typer

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import MAX_DELEGATES
from shoal.node.cli.admission.common import CharterOption, moment, parsed, roster_of
from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.config.settings import load
from shoal.node.errors import NotRunning
from shoal.node.roster_status import RosterStatus, roster_status
from shoal.node.storage.home import Home


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
    from shoal.node.web import roster_client

    if not charter:
        try:
            return roster_client.fetch_roster(place.path)
        except NotRunning:
            charter = load(place.path, {}, os.environ)[0].run.charter
    chosen = parsed(charter)
    roster = roster_of(place, chosen) if chosen.founders else None
    me = place.peer_id() if place.key_file.exists() else PeerId("")
    return roster_status(roster, load_refused(place), me, time.time())
