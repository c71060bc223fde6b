"""The door of a testnet: a founder's key of its own, and a roster that holds its nodes' keys.

All of it is made before the first node starts and lies in the folder of the testnet, so that nodes which are
killed and started again, one by one and in any order, find it on their disks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from shoal.crypto.keys import new_key
from shoal.gossip.admission.charter import Charter
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.run_spec import NATIVE
from shoal.node.errors import BadHome
from shoal.node.storage.files import write_whole
from shoal.node.storage.home import Home
from shoal.node.storage.roster_file import save_roster
from shoal.node.testnet.plan import Plan

KEY_NAME: Final = "founder-1.key"


def with_door(plan: Plan, directory: Path, home: Callable[[int], Path]) -> Plan:
    """Return the plan with the charter of its run, its nodes' keys and rosters being on the disk.

    `home`: of a node by its number, from 1. An open testnet has no charter, nor has one of another engine:
    whoever speaks that engine's protocol takes part in its means.

    Raises:
        BadHome: something cannot be written.
    """
    if plan.mode == "open" or plan.charter or plan.engine != NATIVE:
        return plan
    founder = new_key()
    charter = Charter(mode=plan.mode, founders=(bytes(founder.verify_key),))
    homes = [Home(home(index)) for index in range(1, plan.nodes + 1)]
    edicts = [_admitted(charter, bytes(each.load_or_create_key().verify_key)) for each in homes]
    words = [each.signed_by(founder) for each in edicts]
    try:
        write_whole(directory / KEY_NAME, f"{bytes(founder).hex()}\n".encode())
        for each in homes:
            save_roster(each, charter, words, None)
    except OSError as error:
        raise BadHome(f"cannot write to {directory}: {error.strerror}; choose another --dir") from None
    return replace(plan, charter=str(charter))


def _admitted(charter: Charter, key: bytes) -> Edict:
    return Edict(charter.id, charter.first_founders.id, 1, "admit", key)
