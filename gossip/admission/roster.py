"""Roster: who takes part in a run, from edicts and grants that were heard in any order.

It is a set that only grows, and what it means is a function of the set and of the wall clock. So nodes that
have heard the same hold the same roster, whoever told them, in whatever order and however often, and two
halves of a swarm become one when they meet. Nothing depends on when a node heard it.

    edicts   per subject the one of the highest rank counts (edicts.py); of two successors of one set of
             founders too, and then `is_split` says that the founders contradict each other
    redeems  a subject is a member while the first issuer of its chain is admitted, no issuer of it is banned,
             no grant of it is revoked, and none has come to its end in time
    overuse  a grant that more subjects used than it allows is ended by that evidence. Subjects of fewer than
             `SETTLED` rounds with this node are held back; the others, and the issuer, stay as they are

What is kept is bounded, and what goes first is told by hashes alone, so that a full roster is the same
everywhere too. What cannot be checked yet, since the words before it have not come, waits unread in a small
queue: nobody makes this node check signatures of those that no founder ever admitted.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, peer_id_of, public_key_of
from shoal.gossip.admission.charter import Charter, Founders
from shoal.gossip.admission.edicts import OF_FOUNDERS, Edict
from shoal.gossip.admission.errors import AdmissionError, BadEdict, BadGrant
from shoal.gossip.admission.grants import Redeem, check_redeem, is_too_late
from shoal.gossip.admission.rotations import Line, Rotation, line_of

MAX_EDICTS: Final = 10_000
MAX_REDEEMS: Final = 10_000
MAX_ROTATIONS: Final = 256
MAX_REDEEMS_OF_ONE: Final = 1_000
"""Under all grants that begin with one issuer."""
MAX_WAITING: Final = 256
MAX_PRESENTED: Final = 1024
SETTLED: Final = 20
"""Rounds together after which an overused grant does not hold a peer back."""
N_BUCKETS: Final = 16
BUCKET_BYTES: Final = 8
INFINITY: Final = float("inf")
Word: TypeAlias = Edict | Redeem | Rotation


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Why a peer is a member."""

    peer: PeerId
    issuer: PeerId | None
    """The peer that invited it; None: founders admitted it."""
    grant: bytes = b""
    """The id of the grant that it used."""
    until: int = 0
    """When it ends, in seconds since 1970; 0: never."""
    is_overused: bool = False
    """Whether more peers used its grant, or one before it, than may."""


class _View(msgspec.Struct, frozen=True):
    """What the set means at a time."""

    members: dict[PeerId, Membership]
    banned: dict[PeerId, Edict]
    since: float
    until: float
    """By the wall clock: outside this time it may mean something else."""


def _no_rounds(peer: PeerId) -> int:
    return 0


class Roster:
    """See the module's docstring."""

    def __init__(self, charter: Charter) -> None:
        """Start with nobody on it."""
        self.charter = charter
        self.rounds_with: Callable[[PeerId], int] = _no_rounds
        """How many rounds this node has finished together with a peer."""
        self.clock_offset = 0.0
        """Seconds to add to the times that this object is asked about; the sum is the wall clock."""
        self.version = 0
        """Grows with every change."""
        self.is_split = False
        """Whether two sets of founders claim to follow the same one."""
        first = charter.first_founders
        self._sets = {first.id: first}
        """Every set of founders that somebody with the right to it has named."""
        self._edicts: dict[bytes, Edict] = {}
        self._redeems: dict[bytes, Redeem] = {}
        self._rotations: dict[bytes, Rotation] = {}
        self._used_by: defaultdict[bytes, set[bytes]] = defaultdict(set)
        """By grant: the ids of its uses."""
        self._rooted_in: defaultdict[bytes, set[bytes]] = defaultdict(set)
        """By the first issuer of their chains: the ids of uses."""
        self._ever_admitted: set[bytes] = set()
        self._waiting: OrderedDict[bytes, Word] = OrderedDict()
        self._presented: OrderedDict[bytes, Redeem] = OrderedDict()
        """By subject: words that peers showed of themselves and that found no place in the set."""
        self._view = _View({}, {}, INFINITY, INFINITY)
        self._buckets: tuple[int, bytes] = (-1, b"")

    # --- what is heard ----------------------------------------------------------------------------

    def add(self, word: Word) -> bool:
        """Take in an edict, or that a grant was used; tells whether it is news.

        Raises:
            AdmissionError: it is not signed by those who may say it.
        """
        if isinstance(word, Rotation):
            return self.add_rotation(word)
        return self.add_edict(word) if isinstance(word, Edict) else self.add_redeem(word)

    def add_edict(self, edict: Edict) -> bool:
        """Take an edict in; tells whether it is news. One that cannot be checked yet waits.

        Raises:
            BadEdict: it is of another charter, or not signed by those who may.
        """
        id_ = edict.id
        if id_ in self._edicts:
            return False
        if edict.charter != self.charter.id:
            raise BadEdict("the edict is of another charter")
        founders = self._sets.get(edict.under)
        if founders is None:
            return self._wait(edict)
        edict.check(founders)
        self._edicts[id_] = edict
        if edict.verb == "admit":
            self._ever_admitted.add(edict.subject)
        if edict.verb in OF_FOUNDERS:
            successor = edict.successor(founders)
            self._sets[successor.id] = successor
        if len(self._edicts) > MAX_EDICTS:
            del self._edicts[min(self._edicts, key=lambda each: _weight(self._edicts[each], each))]
        self._changed()
        if edict.verb in OF_FOUNDERS or edict.verb == "admit":
            self._retry()
        return id_ in self._edicts

    def add_rotation(self, rotation: Rotation) -> bool:
        """Take in a new key of the private network; tells whether it is news.

        Raises:
            BadEdict: it is of another charter, or not signed by those who may.
        """
        id_ = rotation.id
        if id_ in self._rotations:
            return False
        if rotation.charter != self.charter.id:
            raise BadEdict("the rotation is of another charter")
        founders = self._sets.get(rotation.under)
        if founders is None:
            return self._wait(rotation)
        rotation.check(founders)
        self._rotations[id_] = rotation
        if len(self._rotations) > MAX_ROTATIONS:
            oldest = min(self._rotations, key=lambda each: (self._rotations[each].until, each))
            del self._rotations[oldest]
        self._changed()
        return id_ in self._rotations

    def add_redeem(self, redeem: Redeem) -> bool:
        """Take in that a grant was used; tells whether it is news. One whose issuer is unknown waits.

        Raises:
            BadGrant: it is not signed as it must be, or a grant is wider than its parent.
        """
        id_ = redeem.id
        if id_ in self._redeems:
            return False
        root, grant = redeem.chain[0].issuer, redeem.grant
        if root not in self._ever_admitted:
            return self._wait(redeem)
        check_redeem(redeem, self.charter)
        self._redeems[id_] = redeem
        self._used_by[grant.id].add(id_)
        self._rooted_in[root].add(id_)
        # One more than may is the proof of overuse; the rest would prove nothing further.
        self._keep_lowest(self._used_by[grant.id], grant.uses + 1)
        self._keep_lowest(self._rooted_in[root], MAX_REDEEMS_OF_ONE)
        self._keep_lowest(self._redeems.keys(), MAX_REDEEMS)
        self._changed()
        return id_ in self._redeems

    def present(self, redeem: Redeem) -> bool:
        """Take in what a peer shows of itself: it counts too where the set has no room for it."""
        if self._presented.get(redeem.subject) == redeem:
            return False
        is_news = self.add_redeem(redeem)
        if redeem.id not in self._redeems and redeem.chain[0].issuer in self._ever_admitted:
            self._presented[redeem.subject] = redeem
            if len(self._presented) > MAX_PRESENTED:
                self._presented.popitem(last=False)
            self._changed()
        return is_news

    def merge(self, words: Iterable[Word]) -> int:
        """Take in all that is right of these; tells how many were not. For what comes from our own disk."""
        n_bad = 0
        for word in words:
            try:
                self.add(word)
            except AdmissionError:
                n_bad += 1
        return n_bad

    # --- what it says -----------------------------------------------------------------------------

    def members(self, now: float) -> frozenset[PeerId]:
        """Return the peers that take part by an edict or an invite."""
        return frozenset(peer for peer, each in self._at(now).members.items() if self._is_in(each))

    def is_member(self, peer: PeerId, now: float) -> bool:
        """Tell whether a peer is on the roster and not held back."""
        found = self._at(now).members.get(peer)
        return found is not None and self._is_in(found)

    def may_take_part(self, peer: PeerId, now: float) -> bool:
        """Tell whether a peer may average and fetch: in an open run anyone who is not banned."""
        if self.charter.mode == "open":
            return not self.is_banned(peer, now)
        return self.is_member(peer, now)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        """Tell whether the founders banned a peer."""
        return peer in self._at(now).banned

    def is_invite(self, redeem: Redeem, now: float) -> bool:
        """Tell whether these words would make a member, before they are taken in."""
        try:
            check_redeem(redeem, self.charter)
        except BadGrant:
            return False
        view, grants = self._at(now), {each.id for each in redeem.chain}
        uses = self._used_by.get(redeem.grant.id, set())
        has_room = redeem.id in uses or len(uses) < redeem.grant.uses
        is_revoked = any(
            each.verb == "revoke_grant" and each.subject in grants for each in self._edicts.values()
        )
        issuers_are_in = all(peer_id_of(each.issuer) in view.members for each in redeem.chain)
        is_timely = not is_too_late(redeem, now + self.clock_offset)
        is_banned = peer_id_of(redeem.subject) in view.banned
        return has_room and issuers_are_in and is_timely and not is_revoked and not is_banned

    def memberships(self, now: float) -> list[Membership]:
        """Return who is a member and why, those held back too, by peer."""
        return [each for _, each in sorted(self._at(now).members.items())]

    def held_back(self, now: float) -> frozenset[PeerId]:
        """Return who would be a member but for an overused grant."""
        return frozenset(peer for peer, each in self._at(now).members.items() if not self._is_in(each))

    def bans(self, now: float) -> dict[PeerId, Edict]:
        """Return who is banned, and by what."""
        return dict(self._at(now).banned)

    def chain_of(self, peer: PeerId, now: float) -> Redeem | None:
        """Return the words by which a peer is a member, where it was invited."""
        found = self._at(now).members.get(peer)
        if found is None or not found.grant:
            return None
        key = public_key_of(peer)
        both = (*self._redeems.values(), *self._presented.values())
        return next((each for each in both if each.subject == key and each.grant.id == found.grant), None)

    def next_epoch(self, subject: bytes) -> int:
        """Return the epoch for a further edict of a subject."""
        return 1 + max((each.epoch for each in self._edicts.values() if each.subject == subject), default=0)

    def network_keys(self, first: bytes, own: SigningKey, wall: float) -> Line:
        """Return the keys of the private network that a node takes, the newest first; see `line_of`."""
        generations = {each.id: place for place, each in enumerate(self._line())}
        return line_of(first, self._rotations.values(), generations, own, wall)

    def next_rotation(self, former: bytes) -> int:
        """Return the epoch for a further rotation of the key with this fingerprint."""
        return 1 + max((each.epoch for each in self._rotations.values() if each.former == former), default=0)

    @property
    def founders(self) -> Founders:
        """The set of founders that governs now."""
        return self._line()[-1]

    @property
    def hash(self) -> bytes:
        """32 bytes: equal where two nodes have heard the same."""
        text = b"/".join(b"".join(sorted(each)) for each in (self._edicts, self._redeems))
        text += b"".join(sorted(self._rotations))
        return blake2b(text, digest_size=32, person=b"shoal/roster").digest()

    @property
    def words(self) -> list[Word]:
        """All that is worth keeping, what others need to be checked first."""
        return [*self.edicts, *self.redeems, *self.rotations]

    @property
    def edicts(self) -> list[Edict]:
        """All edicts that are kept, those first that others need to be checked."""
        order = {each.id: place for place, each in enumerate(self._sets.values())}
        kept = sorted(
            self._edicts.items(),
            key=lambda each: (each[1].verb not in OF_FOUNDERS, order[each[1].under], each[0]),
        )
        return [edict for _, edict in kept]

    @property
    def rotations(self) -> list[Rotation]:
        """All rotations of the private network's key that are kept."""
        return [each for _, each in sorted(self._rotations.items())]

    @property
    def redeems(self) -> list[Redeem]:
        """All uses of grants that are kept, and those that peers show of themselves."""
        return [*self._redeems.values(), *self._presented.values()]

    # --- for gossip -------------------------------------------------------------------------------

    def buckets(self) -> bytes:
        """Return 16 hashes of 8 bytes: of what is kept, by the first four bits of its id."""
        if self._buckets[0] != self.version:
            parts: list[list[bytes]] = [[] for _ in range(N_BUCKETS)]
            for id_ in sorted([*self._edicts, *self._redeems, *self._rotations]):
                parts[id_[0] >> 4].append(id_)
            digests = (blake2b(b"".join(part), digest_size=BUCKET_BYTES).digest() for part in parts)
            self._buckets = self.version, b"".join(digests)
        return self._buckets[1]

    def differing(self, theirs: bytes) -> list[Word]:
        """Return what is kept of the buckets in which a peer keeps something else."""
        ours = self.buckets()
        other = {
            i
            for i in range(N_BUCKETS)
            if ours[i * BUCKET_BYTES :][:BUCKET_BYTES] != theirs[i * BUCKET_BYTES :][:BUCKET_BYTES]
        }
        words: list[Word] = [*self.edicts, *self._redeems.values(), *self.rotations]
        return [each for each in words if each.id[0] >> 4 in other]

    # --- inside: bounds ---------------------------------------------------------------------------

    def _changed(self) -> None:
        self.version += 1
        self._view = _View({}, {}, INFINITY, INFINITY)

    def _wait(self, word: Word) -> bool:
        id_ = blake2b(msgspec.msgpack.encode(word), digest_size=32).digest()
        if id_ not in self._waiting:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popitem(last=False)
            self._waiting[id_] = word
        return False

    def _retry(self) -> None:
        """Take in what waited for what has just come."""
        waiting, self._waiting = self._waiting, OrderedDict()
        self.merge(waiting.values())

    def _keep_lowest(self, ids: AbstractSet[bytes], most: int) -> None:
        """Keep a bound: of too many uses of grants the one with the highest hash goes."""
        if len(ids) <= most:
            return
        highest = max(ids)
        gone = self._redeems.pop(highest)
        self._used_by[gone.grant.id].discard(highest)
        self._rooted_in[gone.chain[0].issuer].discard(highest)

    # --- inside: what it means --------------------------------------------------------------------

    def _is_in(self, membership: Membership) -> bool:
        return not membership.is_overused or self.rounds_with(membership.peer) >= SETTLED

    def _at(self, now: float) -> _View:
        wall = now + self.clock_offset
        if not self._view.since <= wall < self._view.until:
            self._view = self._read(wall)
        return self._view

    def _line(self) -> list[Founders]:
        """Return the sets of founders that followed each other, the first one first."""
        line = [self.charter.first_founders]
        of_founders = [each for each in self._edicts.values() if each.verb in OF_FOUNDERS]
        self.is_split = False
        while True:
            last = line[-1]
            following = [each for each in of_founders if each.under == last.id]
            if not following:
                return line
            self.is_split |= len({each.successor(last).id for each in following}) > 1
            line.append(max(following, key=lambda each: each.rank(0, each.id)).successor(last))

    def _read(self, wall: float) -> _View:
        generations = {each.id: place for place, each in enumerate(self._line())}
        by_subject: dict[bytes, list[tuple[tuple[int, int, bool, bytes], Edict]]] = defaultdict(list)
        turns = [INFINITY]
        """Times after `wall` at which something ends."""
        for id_, edict in self._edicts.items():
            if (generation := generations.get(edict.under)) is not None and edict.verb not in OF_FOUNDERS:
                by_subject[edict.subject].append((edict.rank(generation, id_), edict))
                turns += [edict.until] if edict.until > wall else []
        standing = _Standing(wall)
        for subject, ranked in by_subject.items():
            standing.judge(subject, [edict for _, edict in sorted(ranked, key=lambda each: each[0])])
        members = {
            peer: Membership(peer=peer, issuer=None, until=until)
            for key, until in standing.admitted.items()
            if (peer := peer_id_of(key))
        }
        if self.charter.mode == "invite":
            for found in self._invited(standing):
                turns += [found.until] if found.until > wall else []
                _keep_better(members, found)
        banned = {peer_id_of(key): edict for key, edict in standing.banned.items()}
        return _View(members, banned, wall, min(turns))

    def _invited(self, standing: "_Standing") -> list[Membership]:
        """Return the memberships that grants give, several of a peer where it used several."""
        overused = {
            grant
            for grant, uses in self._used_by.items()
            if any(len(uses) > self._redeems[use].grant.uses for use in uses)
        }
        found: list[Membership] = []
        holds: set[tuple[bytes, bytes]] = set()
        """Subjects and the grants by which they are members."""
        for redeem in sorted(self.redeems, key=lambda each: (len(each.chain), each.id)):
            until = standing.until(redeem, holds)
            if until is None:
                continue
            holds.add((redeem.subject, redeem.grant.id))
            is_overused = any(grant.id in overused for grant in redeem.chain)
            found.append(
                Membership(
                    peer=peer_id_of(redeem.subject),
                    issuer=peer_id_of(redeem.grant.issuer),
                    grant=redeem.grant.id,
                    until=until,
                    is_overused=is_overused,
                )
            )
        return found


class _Standing:
    """What the edicts that count say of each subject at a time."""

    def __init__(self, wall: float) -> None:
        self._wall = wall
        self.admitted: dict[bytes, int] = {}
        """Until when, by key."""
        self.banned: dict[bytes, Edict] = {}
        self._revoked: set[bytes] = set()

    def judge(self, subject: bytes, edicts: list[Edict]) -> None:
        """Take in the edicts of one subject, those of the highest rank last."""
        last = edicts[-1]
        bans = [each for each in edicts if each.verb == "ban" and not self._is_over(each)]
        lifts = [place for place, each in enumerate(edicts) if each.verb in ("admit", "pardon")]
        standing = [each for each in bans if edicts.index(each) > max(lifts, default=-1)]
        if standing:
            self.banned[subject] = standing[-1]
        admits = [each for each in edicts if each.verb == "admit"]
        if admits and not standing and not self._is_over(admits[-1]):
            self.admitted[subject] = admits[-1].until
        if last.verb == "revoke_grant":
            self._revoked.add(subject)

    def _is_over(self, edict: Edict) -> bool:
        return 0 < edict.until <= self._wall

    def until(self, redeem: Redeem, holds: set[tuple[bytes, bytes]]) -> int | None:
        """Return until when a use of a grant makes a member, 0 for ever; None where it does not.

        `holds`: subjects and grants of shorter chains that do.
        """
        ends: list[int] = []
        for place, grant in enumerate(redeem.chain):
            if place == 0:
                if grant.issuer not in self.admitted:
                    return None
                ends.append(self.admitted[grant.issuer])
            elif (grant.issuer, grant.parent) not in holds:
                return None
            if grant.id in self._revoked or grant.issuer in self.banned:
                return None
            ends.append(grant.member_until)
        end = min((each for each in ends if each), default=0)
        is_over = 0 < end <= self._wall
        return None if is_over or redeem.subject in self.banned else end


def _keep_better(members: dict[PeerId, Membership], found: Membership) -> None:
    """Keep why a peer is a member: by the founders, else by what lasts longest and is not overused."""
    known = members.get(found.peer)
    if known is None or _standing_of(found) > _standing_of(known):
        members[found.peer] = found


def _standing_of(membership: Membership) -> tuple[bool, bool, float, bytes]:
    is_admitted = membership.issuer is None
    return not membership.is_overused, is_admitted, membership.until or INFINITY, membership.grant


def _weight(edict: Edict, id_: bytes) -> tuple[bool, bool, int, bytes]:
    """Return what orders edicts where there are too many; the smallest goes."""
    return edict.verb in OF_FOUNDERS, edict.verb == "ban", edict.epoch, id_
