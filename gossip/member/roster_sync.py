"""RosterSync: how a node hears and tells who takes part in its run.

    link up    --> my own invite, what I keep as 16 hashes
    hashes differ --> the ids of what I keep there --> what the other lacks
    news       --> told on to neighbours at once

What is heard counts by its own signatures, whoever told it. Words are told to peers that take part alone,
and so many bytes a second at most. Ids are told to anyone: a node that knows nobody yet asks for words with
them. Of an outsider little is read, which is all that a newcomer with an invite has to say.
"""

from collections.abc import Sequence
from typing import Final

from shoal.crypto.keys import PeerId, peer_id_of
from shoal.gossip.admission.charter import parse
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.grants import Redeem, is_too_late
from shoal.gossip.admission.roster import BUCKET_BYTES, N_BUCKETS, Roster, Word
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.events import BANNED, Drop, Effects, Notify, Send
from shoal.gossip.member.commands import RosterChanged
from shoal.gossip.membership.dial_plan import Dice
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import RosterDigest, RosterHave, RosterKeys, RosterNews, RosterWord

WORDS_PER_MESSAGE: Final = 8
WORD_BYTES: Final = 1024
"""What a word counts for; few are larger, but for rotations."""
BOXED_BYTES: Final = 128
"""What each box of a rotation counts for besides."""
RATE: Final = 64 << 10
"""Bytes a second that one peer is told, and that are read of one peer."""
OUTSIDER_RATE: Final = 4 << 10
BURST_SECONDS: Final = 4.0
MAX_BUDGETS: Final = 256
MAX_PUSHED: Final = 32
"""Neighbours that are told of news at once; the rest learn it from them."""
ID_BYTES: Final = 8
"""Of an id, where only what is missing is to be told."""


class Budgets:
    """Bytes that may pass, by peer: so many a second, and what was left of the last few seconds."""

    def __init__(self) -> None:
        """Start with all that may pass."""
        self._left: dict[PeerId, tuple[float, float]] = {}

    def take(self, peer: PeerId, n_bytes: int, rate: float, now: float) -> bool:
        """Take so many bytes for a peer, if there are any left; tells whether there were."""
        left, then = self._left.pop(peer, (rate * BURST_SECONDS, now))
        left = min(rate * BURST_SECONDS, left + (now - then) * rate)
        may = left > 0
        self._left[peer] = (left - n_bytes if may else left), now
        while len(self._left) > MAX_BUDGETS:
            del self._left[next(iter(self._left))]
        return may


class RosterSync:
    """The roster of one node among others. See the module's docstring."""

    def __init__(self, view: SwarmView, dice: Dice) -> None:
        """`view`: whose admission holds the roster."""
        self._view, self._dice = view, dice
        self.own: Redeem | None = None
        """The words with which this node joins, where it was invited."""
        self.joined: list[PeerId] = []
        """Linked peers that have come to take part, for the member to greet."""
        self.left: list[PeerId] = []
        """Peers that take part no more, for the member to forget."""
        self._told, self._read = Budgets(), Budgets()
        self._members: frozenset[PeerId] = frozenset()
        self._banned: frozenset[PeerId] = frozenset()

    @property
    def has_changed(self) -> bool:
        """Whether there is somebody to greet or to forget."""
        return bool(self.joined or self.left)

    @property
    def roster(self) -> Roster | None:
        """The roster of the run; None where nobody governs it."""
        return self._view.admission.roster

    def attach(self, charter: str, now: float) -> Effects:
        """A trainer of a run with this charter is there."""
        admission = self._view.admission
        found = parse(charter)
        if not found.founders:
            admission.roster = None
        elif admission.roster is None or admission.roster.charter != found:
            admission.use(Roster(found))
        if admission.roster is not None:
            admission.roster.rounds_with = self._view.colleagues.rounds_with
        return self._look(now)

    def join_by(self, redeem: Redeem, now: float) -> Effects:
        """Show these words to every peer from now on."""
        self.own = redeem
        effects: Effects = []
        for peer in sorted(self._view.table.connected):
            effects += self.greet(peer, now)
        return effects

    # --- out --------------------------------------------------------------------------------------

    def greet(self, peer: PeerId, now: float) -> Effects:
        """A link to a peer is up: say by what we join, and what we keep."""
        roster = self.roster
        if roster is None:
            return []
        effects: Effects = []
        if self.own is not None:
            effects.append(Send(peer, RosterNews(roster.charter.id, (), (self.own,))))
        return [*effects, Send(peer, RosterDigest(roster.charter.id, roster.buckets()))]

    def submitted(self, words: Sequence[Word], now: float) -> Effects:
        """Tell the neighbours what our own node has put on the roster."""
        return [*self._look(now), *self._push(words, None, now), Notify(RosterChanged())]

    def beat(self, now: float) -> Effects:
        """Compare with a neighbour, and see what ended in time."""
        roster, view = self.roster, self._view
        # Not at once: a peer that is banned is told so before.
        linked = sorted(view.table.connected)
        effects: Effects = [Drop(peer, BANNED) for peer in linked if view.admission.is_refused(peer, now)]
        if roster is None:
            return effects
        effects += self._look(now)
        neighbours = sorted(self._neighbours(now))
        if neighbours:
            chosen = neighbours[int(self._dice.random() * len(neighbours))]
            effects.append(Send(chosen, RosterDigest(roster.charter.id, roster.buckets())))
        return effects

    # --- in ---------------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: RosterWord, now: float) -> Effects:
        """Take a peer's words."""
        roster = self.roster
        if roster is None or message.charter != roster.charter.id:
            return []
        if isinstance(message, RosterNews):
            return self._news(roster, peer, [*message.edicts, *message.redeems], now)
        if isinstance(message, RosterKeys):
            return self._news(roster, peer, message.rotations, now)
        if isinstance(message, RosterHave):
            return self._lacks(roster, peer, message, now)
        is_same = message.buckets == roster.buckets()
        return [] if is_same else self._have(roster, peer, message.buckets, now, reply=True)

    def _news(self, roster: Roster, peer: PeerId, words: Sequence[Word], now: float) -> Effects:
        is_inside = roster.is_member(peer, now)
        rate = RATE if is_inside else OUTSIDER_RATE
        news: list[Word] = []
        for word in words:
            if not self._read.take(peer, _bytes_of(word), rate, now):
                self._view.admission.count("too much said of the roster")
                break
            try:
                is_news = self._take(roster, peer, word, now)
            except AdmissionError:
                self._view.admission.count("bad word of the roster")
                if self._view.admission.strike(peer):
                    return [Drop(peer, "bad words of the roster")]
                continue
            news += [word] if is_news else []
        if not news:
            return []
        return [*self._look(now), *self._push(news, peer, now), Notify(RosterChanged())]

    def _take(self, roster: Roster, peer: PeerId, word: Word, now: float) -> bool:
        if not isinstance(word, Redeem):
            return roster.add(word)
        if peer_id_of(word.subject) != peer:
            return roster.add_redeem(word)
        if roster.charter.mode != "invite":
            return False
        is_known = any(each.id == word.id for each in roster.redeems)
        if not is_known and is_too_late(word, now + roster.clock_offset):
            self._view.admission.count("invite used too late")
            return False
        return roster.present(word)

    def _have(self, roster: Roster, peer: PeerId, theirs: bytes, now: float, *, reply: bool) -> Effects:
        """Tell a peer which words we keep of the buckets in which it keeps others."""
        ids = b"".join(each.id[:ID_BYTES] for each in roster.differing(theirs))
        rate = RATE if self._may_hear(roster, peer, now) else OUTSIDER_RATE
        if not self._told.take(peer, len(ids), rate, now):
            return []
        return [Send(peer, RosterHave(roster.charter.id, roster.buckets(), ids, reply))]

    def _lacks(self, roster: Roster, peer: PeerId, message: RosterHave, now: float) -> Effects:
        """Send a peer what it lacks, and say what we have where it has more."""
        theirs = {message.ids[i : i + ID_BYTES] for i in range(0, len(message.ids), ID_BYTES)}
        ours = {each.id[:ID_BYTES]: each for each in roster.differing(message.buckets)}
        lacking = [each for id_, each in ours.items() if id_ not in theirs]
        may_hear = self._may_hear(roster, peer, now)
        effects = self._send(roster, peer, lacking, now) if may_hear else []
        if message.reply and theirs - ours.keys():
            effects += self._have(roster, peer, message.buckets, now, reply=False)
        return effects

    # --- inside -----------------------------------------------------------------------------------

    def _may_hear(self, roster: Roster, peer: PeerId, now: float) -> bool:
        return roster.may_take_part(peer, now)

    def _neighbours(self, now: float) -> set[PeerId]:
        roster = self.roster
        assert roster is not None
        return {peer for peer in self._view.table.connected if self._may_hear(roster, peer, now)}

    def _push(self, words: Sequence[Word], teller: PeerId | None, now: float) -> Effects:
        """Tell neighbours the news, and whom an edict is about."""
        roster = self.roster
        assert roster is not None
        others = sorted(self._neighbours(now) - {teller})
        while len(others) > MAX_PUSHED:
            others.pop(int(self._dice.random() * len(others)))
        effects: Effects = []
        for peer in others:
            effects += self._send(roster, peer, words, now)
        about = {peer_id_of(each.subject): each for each in words if isinstance(each, Edict)}
        for peer in sorted((about.keys() & self._view.table.connected) - set(others) - {teller}):
            effects += self._send(roster, peer, [about[peer]], now)
        return effects

    def _send(self, roster: Roster, peer: PeerId, words: Sequence[Word], now: float) -> Effects:
        effects: Effects = []
        for begin in range(0, len(words), WORDS_PER_MESSAGE):
            some = words[begin : begin + WORDS_PER_MESSAGE]
            if not self._told.take(peer, sum(map(_bytes_of, some)), RATE, now):
                break  # the rest is told when hashes are compared again
            edicts = tuple(each for each in some if isinstance(each, Edict))
            redeems = tuple(each for each in some if isinstance(each, Redeem))
            rotations = tuple(each for each in some if isinstance(each, Rotation))
            if edicts or redeems:
                effects.append(Send(peer, RosterNews(roster.charter.id, edicts, redeems)))
            if rotations:
                effects.append(Send(peer, RosterKeys(roster.charter.id, rotations)))
        return effects

    def _look(self, now: float) -> Effects:
        """See who came, who left and who is banned since the last look."""
        view, roster = self._view, self.roster
        if roster is None:
            view.colleagues.roster = None
            view.is_outsider = False
            self._members = self._banned = frozenset()
            return []
        members, banned = roster.members(now), frozenset(roster.bans(now))
        came, self._members, former = members - self._members, members, self._members
        gone = (former - members) if roster.charter.mode != "open" else frozenset[PeerId]()
        fresh = banned - self._banned
        self._banned = banned
        view.colleagues.roster = members
        view.is_outsider = not roster.may_take_part(view.me, now)
        self.joined += sorted(came & view.table.connected)
        self.left += sorted((gone | fresh) - {view.me})
        effects: Effects = []
        if view.me in came:
            digest = RosterDigest(roster.charter.id, roster.buckets())
            effects += [Send(peer, digest) for peer in sorted(view.table.connected)]
        return effects


def _bytes_of(word: Word) -> int:
    return WORD_BYTES + (len(word.boxes) * BOXED_BYTES if isinstance(word, Rotation) else 0)


assert N_BUCKETS * BUCKET_BYTES == 128  # as RosterDigest has it
