"""What an outsider knows: a key of its own, and what honest nodes tell everybody who links to them."""

from dataclasses import dataclass, field
from typing import Protocol

from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, peer_id_of
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.messages import PeerMessage, Presence, Record, Records
from shoal.gossip.wire import Codec

TOP_BALLOT = 60_000
"""A ballot that beats every honest one, and leaves room for more."""


@dataclass
class Sight:
    """What one outsider has seen."""

    codec: Codec
    """It seals what the outsider says."""
    me: PeerId
    sequence: int
    run: bytes = b""
    linked: set[PeerId] = field(default_factory=set)
    peers: dict[PeerId, Presence] = field(default_factory=dict)
    """The last word of each node of the run that this outsider is linked with."""
    count: dict[str, int] = field(default_factory=dict)
    """What the outsider did and what it achieved, for its last line."""

    def note(self, what: str, n: int = 1) -> None:
        """Count something."""
        self.count[what] = self.count.get(what, 0) + n

    def next(self) -> int:
        """Return a number that was not used before."""
        self.sequence += 1
        return self.sequence

    def take(self, records: Records) -> list[str]:
        """Learn of nodes; returns the addresses of those that this outsider is not linked with."""
        addresses: list[str] = []
        for record, _ in records.records:
            presence = record.presence
            if record.author == self.me or not presence.run:
                continue
            self.run = self.run or presence.run
            if record.author in self.linked:
                self.peers[record.author] = presence
            else:
                addresses += presence.addresses[:1]
        return addresses

    def victims(self) -> list[tuple[PeerId, Presence]]:
        """Return the nodes of the run that train and that this outsider reaches."""
        return [
            (p, each) for p, each in sorted(self.peers.items()) if p in self.linked and each.run == self.run
        ]

    def as_one_of_them(self, like: Presence) -> Effects:
        """Claim to train in the run, at the same state: others then tell us when they are ready."""
        own = Presence(
            self.run, like.run_name, like.round, like.state, like.previous, "working", 30.0, (), True
        )
        records = Records(((Record(self.me, self.next(), own), 0.0),))
        return [Send(peer, records) for peer in sorted(self.linked)]


class Program(Protocol):
    """What an outsider does: a small core, as those of gossip are."""

    def tick(self, now: float) -> Effects:
        """Do what is due, some times a second."""
        ...

    def handle(self, peer: PeerId, message: PeerMessage, data: Data, now: float) -> Effects:
        """Answer a message."""
        ...


def sealed_by(key: SigningKey, swarm: str, sequence: int, presence: Presence) -> Record:
    """Return a record that a made-up identity has signed."""
    record = Record(peer_id_of(bytes(key.verify_key)), sequence, presence)
    codec = Codec(key, swarm, sequence)
    return Record(record.author, sequence, presence, codec.encode_announcement(Records(((record, 0.0),))))
