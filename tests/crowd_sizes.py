"""How large a message is on the wire, without encoding it: a crowd says millions of them.

One message of each kind is encoded by the real codec with real keys; the length of the others follows from
how many members, records or bytes they hold. Counted is a frame as the host counts it: prefix, head and
data, before encryption.
"""

from __future__ import annotations

from typing import Any, Final

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip.messages import Commit, Describe, Presence, Propose, Record, Records
from shoal.gossip.net.frames import PREFIX
from shoal.gossip.wire import Codec

GOSSIPSUB: Final = 220
"""Bytes that GossipSub adds to what it carries: author, its key, a signature, a number and the topic."""
ADDRESS: Final = "/ip4/192.168.100.100/tcp/47100/p2p/"
HASH: Final = bytes(range(100, 132))


class Sizes:
    """The measure of messages."""

    def __init__(self) -> None:
        """Measure one message of each kind that says much."""
        key = key_from_seed(bytes(32))
        self._peer = peer_id_of(bytes(key.verify_key))
        self._codec = Codec(key, "swarm", 1 << 50)
        self._codec.run = HASH
        addresses = (ADDRESS + self._peer,)
        presence = Presence(
            HASH, "run", 1000, HASH, HASH, "working", 12.0, addresses, has_finished_round=True
        )
        record = Record(self._peer, 1 << 50, presence)
        one = self._of(Records(((record, 1.25),)))
        self._record = self._of(Records(((record, 1.25), (record, 1.25)))) - one
        self._records = one - self._record
        self.announcement = len(self._codec.encode_announcement(Records(((record, 0.0),)))) + GOSSIPSUB
        self._known: dict[tuple[type, int], int] = {}

    def of(self, message: Any, data_bytes: int) -> int:
        """Return the bytes of a message and the data beside it."""
        kind = type(message)
        if kind is Records:
            return self._records + self._record * len(message.records)
        count = len(message.members) if isinstance(message, Propose | Commit) else 0
        if isinstance(message, Describe):
            count = len(message.spec)
        known = self._known.get((kind, count))
        if known is None:
            known = self._known[kind, count] = self._of(self._with_real_names(message))
        return known + data_bytes

    def _of(self, message: Any) -> int:
        return PREFIX.size + len(self._codec.encode(message))

    def _with_real_names(self, message: Any) -> Any:
        members = getattr(message, "members", ())
        names = tuple(PeerId(self._peer) for _ in members)
        match message:
            case Propose():
                start = (message.round, HASH, message.ballot, message.nonce)
                return Propose(*start, names, message.shares, message.halvings)
            case Commit():
                start = (message.round, HASH, message.ballot, message.nonce)
                return Commit(*start, PeerId(self._peer), names, message.shares, message.halvings)
        return message
