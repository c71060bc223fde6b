"""Accepted: what one node said yes to in a search, and what conveners showed it of their members."""

from collections import deque
from typing import Final, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.matchmaking.proposals import keeps_to
from shoal.gossip.messages import Accept, Commit, Propose, Ready, Shown, Signed

MAX_ACCEPTED: Final = 64
"""Proposals that are remembered: an honest search needs a few, a liar could make any number."""
MAX_QUESTIONS: Final = 8
"""Proposals of one convener in a search about which it is asked for signed words."""
MAX_SAME: Final = 4
"""Proposals of one convener that need not be smaller than those before: its line may be slow."""
Offer: TypeAlias = tuple[PeerId, int, int, int, bytes, tuple[PeerId, ...]]
"""What a commit must repeat of a proposal: convener, ballot, nonce, halvings, newcomers and members."""


def offer_of(message: Propose | Commit, convener: PeerId) -> Offer:
    """Return what a proposal and its commit have in common."""
    numbers = (message.ballot, message.nonce, message.halvings)
    return (convener, *numbers, message.newcomers, message.members)


class Accepted:
    """See the module's docstring."""

    def __init__(self, round_: int, base: bytes) -> None:
        """Nothing is accepted yet."""
        self._round, self._base = round_, base
        self.offers: deque[Offer] = deque(maxlen=MAX_ACCEPTED)
        self._shares: dict[Offer, tuple[int, ...]] = {}
        self._questions: dict[PeerId, set[tuple[int, int]]] = {}
        """About which proposals of whom we have asked for signed words."""
        self._shown_by = PeerId("")
        self._ready: dict[PeerId, Ready] = {}
        self._accepts: dict[PeerId, Signed] = {}

    def add(self, convener: PeerId, message: Propose) -> None:
        """Take note of a proposal that we said yes to."""
        if len(self.offers) == MAX_ACCEPTED:
            self._shares.pop(self.offers[0], None)
        offer = offer_of(message, convener)
        self.offers.append(offer)
        self._shares[offer] = message.shares

    def has(self, commit: Commit) -> bool:
        """Tell whether a commit is of a group that was offered to us."""
        return offer_of(commit, commit.convener) in self.offers

    def is_contradicted(self, commit: Commit) -> bool:
        """Tell whether its convener offered us another group under this ballot."""
        said = (commit.convener, commit.ballot)
        return not self.has(commit) and said in (offer[:2] for offer in self.offers)

    def may_be_again(self, convener: PeerId, members: tuple[PeerId, ...]) -> bool:
        """Tell whether a convener may offer us a group after we waited in vain: once, and any smaller one."""
        former = [set(offer[-1]) for offer in self.offers if offer[0] == convener]
        return len(former) < MAX_SAME or all(set(members) < each for each in former)

    def includes(self, peer: PeerId) -> bool:
        """Tell whether a peer is in a group that was offered to us."""
        return any(peer in offer[-1] for offer in self.offers)

    def is_kept(self, commit: Commit, me: PeerId, links: bytes) -> bool:
        """Tell whether a commit gives the shares that were offered, but for links that are missing.

        `links`: to which members we have links.
        """
        offered = self._shares.get(offer_of(commit, commit.convener), commit.shares)
        masks = {
            author: word.message.linked
            for author, word in self._accepts.items()
            if isinstance(word.message, Accept)
            and self._shown_by == commit.convener
            and (word.message.ballot, word.message.nonce) == (commit.ballot, commit.nonce)
        }
        return keeps_to(commit, offered, {**masks, me: links})

    # --- what was shown ---------------------------------------------------------------------------

    def asks(self, convener: PeerId, message: Propose) -> bool:
        """Take note that we ask about a proposal; tells whether we may, and had not yet."""
        question, asked = (message.ballot, message.nonce), self._questions.setdefault(convener, set())
        # One that offers group after group would be asked for ever.
        is_new = question not in asked and len(asked) < MAX_QUESTIONS
        if is_new:
            asked.add(question)
        return is_new

    def awaits(self, peer: PeerId) -> bool:
        """Tell whether a peer may have something to show."""
        return peer in self._questions or any(offer[0] == peer for offer in self.offers)

    def show(self, convener: PeerId, message: Shown) -> None:
        """Take what a convener shows: words that others signed."""
        self._shown_by, self._ready, self._accepts = convener, {}, {}
        for each in message.words:
            word = each.message
            if isinstance(word, Accept):
                self._accepts[each.author] = each
            elif (word.round, word.base) == (self._round, self._base):
                self._ready[each.author] = word

    def ready_shown_by(self, convener: PeerId) -> dict[PeerId, Ready]:
        """Return what a convener has shown of its members."""
        return self._ready if self._shown_by == convener else {}

    def proof(self, convener: PeerId) -> tuple[Signed, ...]:
        """Return the words by which members of a convener's group lack a link."""
        return tuple(self._accepts.values()) if self._shown_by == convener else ()
