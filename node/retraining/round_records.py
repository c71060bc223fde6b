"""Round records: which peers' contributions made which state of which, signed by the node that saw it.

    state of round 0 --record--> state of round 1 --record--> ... --record--> a kept state

A record names the state before a round and the one after it. So the peers whose data can be in a state are
those of all records that lead to it, back to the model that the run began with. Where one is missing (the
node fetched a state, or was killed before it had written), or where members of other groups came in, nobody's
absence can be shown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId
from shoal.node.signed_document import BadDocument, opened, sign

DOMAIN: Final = b"shoal/round-record/1\x00"
Place: TypeAlias = tuple[int, str]
"""A round, and the hash of the state that it begins with."""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which contributions made one state of another."""

    run: str
    """The run's id."""
    round: int
    """Which this was; the state after it is that of round + 1."""
    before: str
    """The state's hash; empty for a state from a file, with which the run began."""
    after: str
    members: tuple[str, ...]
    """All whose contribution may be in it: the whole group, and this node."""
    is_whole: bool = True
    """Whether these are all: false where the groups of a large swarm mix, and bring others' with them."""


@dataclass(frozen=True, slots=True)
class Past:
    """What records tell of a state."""

    members: frozenset[str]
    """Whose contributions are in it."""
    gap: str = ""
    """Why there may be others'; empty where the records lead to the beginning of the run."""


def seal(key: SigningKey, record: RoundRecord) -> bytes:
    """Return a record with this node's signature."""
    return sign(key, DOMAIN, msgspec.json.encode(record))


def checked(me: PeerId, run: str, sealed: Iterable[bytes]) -> tuple[list[RoundRecord], int]:
    """Return the records of a run that this node has signed, and how many others there were."""
    found: list[RoundRecord] = []
    bad = 0
    for data in sealed:
        try:
            peer, text = opened(DOMAIN, data)
            record = msgspec.json.decode(text, type=RoundRecord)
        except (BadDocument, msgspec.MsgspecError):
            bad += 1
            continue
        if peer == me and record.run == run:
            found.append(record)
        else:
            bad += 1
    return found, bad


def by_place(records: Iterable[RoundRecord]) -> dict[Place, RoundRecord]:
    """Return records by the state that they lead to; of two of one state the members of both count."""
    found: dict[Place, RoundRecord] = {}
    for record in records:
        place = (record.round + 1, record.after)
        if (other := found.get(place)) is not None:
            members = tuple(sorted({*other.members, *record.members}))
            is_whole = other.is_whole and record.is_whole
            record = msgspec.structs.replace(record, members=members, is_whole=is_whole)
        found[place] = record
    return found


def past_of(records: Mapping[Place, RoundRecord], round_: int, state: str) -> Past:
    """Return whose contributions are in a state, the one with which a round begins."""
    members = set[str]()
    while round_ > 0:
        record = records.get((round_, state))
        if record is None:
            return Past(frozenset(members), f"no record of how the state of round {round_} was made")
        members.update(record.members)
        if not record.is_whole:
            return Past(frozenset(members), f"groups of a larger swarm mixed in round {record.round}")
        if not record.before:
            break
        round_, state = record.round, record.before
    return Past(frozenset(members))
