"""Control of who takes part: how a command reads and changes the roster of the node that runs in a home.

Apart from `shoal.node.web.client`, since these words take a while to load, and `shoal status` needs none.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.admission.tokens import Token
from shoal.node.roster_status import RosterStatus
from shoal.node.web.client import ask


def fetch_roster(home: Path) -> RosterStatus:
    """Ask the running node who takes part. Raises like `client.fetch_status`."""
    return msgspec.msgpack.decode(ask(home, "GET", "/roster.msgpack"), type=RosterStatus)


def fetch_invite(home: Path) -> Token:
    """Ask the running node for an invite to its run, without a grant. Raises like `client.fetch_status`."""
    return msgspec.msgpack.decode(ask(home, "GET", "/invite.msgpack"), type=Token)


def add_words(home: Path, words: Sequence[Edict | Rotation]) -> None:
    """Put what founders signed on the running node's roster. Raises like `client.fetch_status`."""
    kinds = {"edicts": Edict, "rotations": Rotation}
    body = {name: [each for each in words if isinstance(each, kind)] for name, kind in kinds.items()}
    ask(home, "POST", "/roster", msgspec.msgpack.encode(body))
