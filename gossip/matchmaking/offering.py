"""Offering: one node's own proposal, and what the members say to it."""

from collections.abc import Mapping

from msgspec.structs import replace

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send
from shoal.gossip.matchmaking.proposals import mask_of, named_by, without_links
from shoal.gossip.messages import Accept, Propose, Ready, Shown, Signed, Unheard


class Offering:
    """See the module's docstring."""

    def __init__(self, me: PeerId, proposal: Propose) -> None:
        """Nobody has answered yet."""
        self._me, self.proposal = me, proposal
        self.members = frozenset(proposal.members)
        self.accepted: set[PeerId] = {me}
        self.reluctant: set[PeerId] = set()
        """Members that declined where all see all: they live, and may come to another mind."""
        self._words: dict[PeerId, Signed] = {}
        """What those said that accepted, as it came."""
        self._answered: set[PeerId] = set()
        """Whom we have shown the words of our members."""

    @property
    def missing(self) -> frozenset[PeerId]:
        """Members that have not accepted."""
        return self.members - self.accepted

    @property
    def is_unwanted(self) -> bool:
        """Whether half of the others decline, and nobody is left out: it is somebody else's turn."""
        return 2 * len(self.reluctant) >= len(self.members) - 1

    def accept(self, peer: PeerId, message: Accept, sealed: bytes) -> None:
        """A member joins; `sealed`: its word as it came."""
        self.accepted.add(peer)
        self.reluctant.discard(peer)
        self._words[peer] = Signed(peer, message, sealed)

    def show(
        self, peer: PeerId, asked: Unheard, ready: Mapping[PeerId, Ready], sealed: Mapping[PeerId, bytes]
    ) -> Effects:
        """Show a member, once, what others said that it has not heard."""
        if peer not in self.members or peer in self._answered:
            return []
        self._answered.add(peer)
        words = tuple(
            Signed(member, ready[member], sealed.get(member, b""))
            for member in named_by(self.proposal.members, asked.members)
            if member in ready and member != self._me
        )
        return [Send(peer, Shown(self.proposal.round, words)), Send(peer, self.proposal)]

    def final(self) -> tuple[Propose, tuple[Signed, ...]]:
        """Return the proposal with its final shares, and the words by which some lack a link."""
        proposal = self.proposal
        # We have heard from all.
        masks = {
            peer: word.message.linked
            for peer, word in self._words.items()
            if isinstance(word.message, Accept)
        }
        shares = without_links(proposal, self._me, masks)
        if shares == proposal.shares:
            return proposal, ()
        linked = mask_of(proposal.members, self.members)
        lacking = tuple(word for peer, word in self._words.items() if masks[peer] != linked)
        return replace(proposal, shares=shares), lacking
