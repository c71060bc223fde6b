"""Peers that lie: honest nodes whose words are bent on the way out, and some that babble besides.

    equivocate  another mean to every member        wrong    the same wrong mean to all
    nan         numbers that are none               garbage  chunks of another size
    weight      contributes with absurd weight      mute     joins groups and sends nothing into them
    cut         cuts everyone in every exchange     replay   says again what it said before
    absurd      claims a round far ahead            sybil    vouches for a crowd that does not exist
    babble      well-formed nonsense of every kind  twins    commits several groups at once
    hide        gives ten times what it announced   flip     gives, and announces, a thousand times as much
    two-faced   announces unlike norms              far      means that are far from anywhere
    lineage, nan-state     claims and serves a state of its own: see lineage_liars.py
    undead      keeps the records of the dead alive
    names_the_lan  names private addresses, and public ones where nobody is, in records and in `Near`

    unanswering never answers in a search      never-ready    says that it works, and is never ready
    late        says what is waited for 0.2 s late    uncommitting   offers groups, and is silent then

Others convene groups of their own making, and finish them:

    convene     of one peer and itself, and owns it all     ghosts   the same, with members that do not exist
    takes-all   of everyone, and owns it all                leaves   of half of those that are there
    settled     of all that are ready, before its turn, since it claims to have colleagues
    promises    of everyone, and then says nothing          greedy   claims a line that carries all parts
    crowds      in its turn, of everyone, with all newcomers of a house

All of it passes the wire's bounds: what does not is refused there, and tested there.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from sim import split_liars
from sim.callers import bend, flood
from sim.lineage_liars import lineage, nan_state, undead

from shoal.crypto.keys import PeerId
from shoal.gossip import messages as m
from shoal.gossip.averaging.attendance import ask_name
from shoal.gossip.averaging.secure.masked_sum import Stage
from shoal.gossip.events import Received, Send
from shoal.gossip.matchmaking.bandwidth import MOST
from shoal.gossip.matchmaking.proposals import derived_shares, group_id

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Sim

Lie = Callable[["SimNode", Send], list[Send]]
ABSURD: Final = 1 << 40


def tell_lies(sim: Sim, node: SimNode, how: str) -> None:
    """Let a node lie from now on."""
    if not node.is_alive:
        return
    sim.oracle.lies_told = True
    node.lie = _LIES.get(how, _honest)
    if how in _CONVENERS:
        liar = _CONVENERS[how](sim, node)
        node.ear = liar.hear
        _babble_on(sim, node, node.life, liar.say)
    if how in _EXTRAS:
        _babble_on(sim, node, node.life, _EXTRAS[how])


def stop_lying(sim: Sim, node: SimNode) -> None:
    """Let a node be honest again, with a new life."""
    sim.oracle.liars[node.me] -= 1
    node.lie = node.ear = None
    if node.is_alive:
        sim.crashed(node)
    sim.started(node)


# --- bent words ---------------------------------------------------------------------------------------


def _bent(effect: Send, change: float, size: int = 0) -> list[Send]:
    data = bytes(effect.data)
    if change:
        data = (np.frombuffer(data, np.float32) + np.float32(change)).tobytes()
    return [Send(effect.peer, effect.message, data[: len(data) + size] if size < 0 else data + bytes(size))]


def _honest(node: SimNode, effect: Send) -> list[Send]:
    return [effect]


def _equivocate(node: SimNode, effect: Send) -> list[Send]:
    return _bent(effect, float(len(effect.peer) + ord(effect.peer[-1]))) if _is_mean(effect) else [effect]


def _wrong(node: SimNode, effect: Send) -> list[Send]:
    return _bent(effect, 7.0) if isinstance(effect.message, m.Reduced | m.Chunk) else [effect]


def _nan(node: SimNode, effect: Send) -> list[Send]:
    bulk = isinstance(effect.message, m.Reduced | m.Part)
    return _bent(effect, float("nan")) if bulk and node.dice.random() < 0.5 else [effect]


def _garbage(node: SimNode, effect: Send) -> list[Send]:
    if not len(effect.data) or node.dice.random() < 0.5:
        return [effect]
    return _bent(effect, 0.0, node.dice.choice((-3, 1, 4)))


def _weight(node: SimNode, effect: Send) -> list[Send]:
    if not isinstance(effect.message, m.Announce):
        return [effect]
    weight, discount = node.dice.choice((0.0, 1e15, 1e-30)), node.dice.choice((1.0, 1e-30))
    lie = msgspec.structs.replace(effect.message, weight=weight, discount=discount)
    return [Send(effect.peer, lie, effect.data)]


def _times(node: SimNode, effect: Send, factor: float) -> list[Send]:
    """Give what one has, multiplied, and keep to oneself that it is."""
    if not isinstance(effect.message, m.Part):
        return [effect]
    numbers = np.frombuffer(bytes(effect.data), np.float32) * np.float32(factor)
    return [Send(effect.peer, effect.message, numbers.tobytes())]


def _hide(node: SimNode, effect: Send) -> list[Send]:
    return _times(node, effect, -10.0)


def _flip(node: SimNode, effect: Send) -> list[Send]:
    message = effect.message
    if not isinstance(message, m.Announce):
        return _times(node, effect, -1000.0)
    # Large enough for what it gives, wherever that is measured from.
    norms = (np.frombuffer(message.norms, "<f4") * np.float32(5000.0) + np.float32(1e6)).astype("<f4")
    return [Send(effect.peer, msgspec.structs.replace(message, norms=norms.tobytes()))]


def _two_faced(node: SimNode, effect: Send) -> list[Send]:
    message = effect.message
    if not isinstance(message, m.Announce) or node.dice.random() < 0.5:
        return [effect]
    norms = (np.frombuffer(message.norms, "<f4") * np.float32(100.0)).astype("<f4").tobytes()
    return [Send(effect.peer, msgspec.structs.replace(message, norms=norms))]


def _far(node: SimNode, effect: Send) -> list[Send]:
    """Send means that are far from anywhere, to all alike."""
    return _bent(effect, 1e6) if _is_mean(effect) else [effect]


def _mute(node: SimNode, effect: Send) -> list[Send]:
    return [] if isinstance(effect.message, m.Part | m.Reduced | m.Done) else [effect]


def _cut(node: SimNode, effect: Send) -> list[Send]:
    message = effect.message
    if not isinstance(message, m.Part):
        return [effect]
    return [Send(effect.peer, m.Cut(message.group, message.index, effect.peer)), effect]


def _absurd(node: SimNode, effect: Send) -> list[Send]:
    if not isinstance(effect.message, m.Records):
        return [effect]
    (mine, age), *others = effect.message.records
    run = mine.presence.run if node.dice.random() < 0.5 else node.dice.randbytes(32)
    presence = msgspec.structs.replace(
        mine.presence, run=run, round=ABSURD, state=b"\xee" * 32, previous=b"\xef" * 32
    )
    record = m.Record(mine.author, mine.sequence, presence)
    return [Send(effect.peer, m.Records(((record, age), *others), effect.message.reply))]


def _sybil(node: SimNode, effect: Send) -> list[Send]:
    if not isinstance(effect.message, m.Records):
        return [effect]
    member = node.member
    crowd = []
    for number in range(20):
        states = (b"\xaa" * 32, b"\xbb" * 32)
        addresses = tuple(made_up(node.dice) for _ in range(8))
        presence = m.Presence(member.run, "run", member.round + 3, *states, "working", 60.0, addresses, True)
        crowd.append((m.Record(PeerId(f"sybil{number}"), int(node.sim.now * 1e6), presence), 0.0))
    return [effect, Send(effect.peer, m.Records(tuple(crowd)))]


def _is_mean(effect: Send) -> bool:
    return isinstance(effect.message, m.Reduced)


def _names_the_lan(node: SimNode, effect: Send) -> list[Send]:
    """Send everyone knocking: 8 private addresses and 8 dead public ones with every record."""
    if not isinstance(effect.message, m.Records):
        return [effect]
    member, dice = node.member, node.dice
    crowd = []
    for addresses in (tuple(lan(dice) for _ in range(8)), tuple(made_up(dice) for _ in range(8))):
        presence = m.Presence(
            member.run, "run", 0, b"\xaa" * 32, b"", "helping", 60.0, addresses, has_finished_round=False
        )
        author = PeerId(f"nobody {dice.randrange(64)}")
        crowd.append((m.Record(author, int(node.sim.now * 1e6), presence), 0.0))
    near = m.Near(tuple(lan(dice) for _ in range(m.MAX_NEAR)))
    return [effect, Send(effect.peer, m.Records(tuple(crowd))), Send(effect.peer, near)]


def lan(dice: Random) -> str:
    """Return an address of a local network, of one machine, or of no network at all."""
    tail = f"{dice.randrange(1, 255)}/tcp/{dice.choice((22, 80, 4710, 8080))}"
    host = dice.choice(("10.0.0", "192.168.1", "172.17.0", "127.0.0", "169.254.0", "100.64.0", "203.0.113"))
    return f"/ip4/{host}.{tail}/p2p/nobody {dice.randrange(64)}"


def made_up(dice: Random) -> str:
    """Return a public address where nobody is."""
    return f"/ip4/21.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}/tcp/4710/p2p/x"


# --- words of their own -------------------------------------------------------------------------------


def _babble_on(sim: Sim, node: SimNode, life: int, say: Callable[[Sim, SimNode, PeerId], list[Send]]) -> None:
    if node.life != life or node.lie is None:
        return
    if not node.is_frozen:
        for peer in sorted(node.linked):
            for effect in say(sim, node, peer):
                sim.send(node, effect)
    sim.at(sim.now + 0.3 + node.dice.random(), _babble_on, sim, node, life, say)


def _replay(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    said = sim.said.get(node.me, [])
    return [Send(peer, *node.dice.choice(said)) for _ in range(3) if said]


def _babble(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    return [_nonsense(sim, node, node.dice) for _ in range(4)]


def _nonsense(sim: Sim, node: SimNode, dice: Random) -> Send:
    """Make one message of any kind, of half-true parts."""
    member = node.member
    peer = dice.choice(sim.names)
    known = [group for group, _ in sim.oracle.groups] or [bytes(16)]
    group = dice.choice([bytes(16), dice.choice(known[-3:])])
    index, part, ballot = (
        dice.choice((0, 0, 1, 500, 999)),
        dice.randrange(64),
        dice.choice((0, 1, 2, 9, 65536)),
    )
    part = dice.choice((0, 1, part))
    chunk = dice.choice((0, 1, 1 << 31))
    round_ = dice.choice((member.round, member.round, member.round + 1, 0, ABSURD))
    base = dice.choice((member.state or bytes(32), bytes(32), b"\xcc" * 32))
    names = tuple(dice.sample(sim.names, dice.randrange(1, len(sim.names) + 1)))
    shares = tuple(dice.choice((0, 1, 1 << 20)) for _ in range(dice.choice((len(names), len(names), 1))))
    nonce = dice.choice((0, (1 << 53) - 1))
    numbers = bytes(4 * dice.choice((0, 1, 2, 8, 26)))
    state = dice.choice((base, b"\xdd" * 32))
    kinds: list[tuple[Any, bytes]] = [
        (m.Leave(), b""),
        (m.Describe(dice.choice((b"", b"\x81", bytes(100)))), b""),
        (
            m.Ready(round_, base, dice.choice((0, 1, 1 << 20)), dice.choice((0.0, 86400.0)), part),
            b"",
        ),
        (m.Propose(round_, base, ballot, nonce, names, shares, nonce & 3), b""),
        (m.Accept(round_, ballot, nonce, dice.randbytes(8)), b""),
        (m.Decline(round_, ballot, nonce), b""),
        (m.Commit(round_, base, ballot, nonce, dice.choice(sim.names), names, shares, nonce & 3), b""),
        (m.Part(group, index, part, chunk, ballot), numbers),
        (
            m.Announce(
                group,
                index,
                dice.choice((0.0, 1.0, 1e15)),
                base,
                nonce > 0,
                dice.choice((b"", dice.randbytes(16 * len(names)))),
                ask_name("all_reduce", node.tag),
                dice.choice((0.0, 0.5, 2.0, float("nan"))),
            ),
            b"",
        ),
        (m.Unannounced(group, index, dice.randbytes(8)), b""),
        (m.Reduced(group, index, part, chunk, ballot, dice.randbytes(8)), numbers),
        (m.Reduced(group, index, part, chunk, ballot, (1).to_bytes(8, "big")), numbers),
        (m.Yield(group, index, part, ballot), b""),
        (m.Claim(group, index, part, ballot), b""),
        (m.Alive(group, index), b""),
        (m.Cut(group, index, dice.choice(sim.names)), b""),
        (m.Abandon(group, index), b""),
        (m.Done(group, index, dice.randbytes(16)), b""),
        (m.Digest(group, index, dice.randbytes(32), ask_name("gather", node.tag)), b""),
        (m.Reveal(group, index, part), numbers),
        (m.Missing(group, index, (part, 63)), b""),
        (m.Want(state), b""),
        (m.Offer(state, b"", round_, dice.choice((104, 0, 1 << 44))), dice.randbytes(32)),
        (m.NotHeld(state), b""),
        (m.Fetch(state, (chunk, 0)), b""),
        (m.Chunk(state, chunk), numbers),
        (m.Records((), True), b""),
    ]
    return Send(peer, *dice.choice(kinds))


def _twins(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    member, dice = node.member, node.dice
    names = tuple(sorted({node.me, peer, dice.choice(sim.names)}))
    base = member.state or bytes(32)
    head = (member.round, base, dice.randrange(5), dice.randrange(1 << 53))
    shares = (1,) * len(names)
    return [
        Send(peer, m.Propose(*head, names, shares)),
        Send(peer, m.Commit(*head, node.me, names, shares)),
    ]


def _greedy(node: SimNode, effect: Send) -> list[Send]:
    if not isinstance(effect.message, m.Ready):
        return [effect]
    return [Send(effect.peer, msgspec.structs.replace(effect.message, uplink=1 << 30))]


# --- groups of their own making -----------------------------------------------------------------------


class Convener:
    """Offers groups in which it owns everything, and gives zeros for a mean."""

    commits = True

    def __init__(self, sim: Sim, node: SimNode) -> None:
        """Nothing is offered yet."""
        self.sim, self.node = sim, node
        self._offers: dict[int, m.Propose] = {}
        self._accepts: dict[int, set[PeerId]] = {}
        self._groups: dict[bytes, tuple[PeerId, ...]] = {}

    def members(self, peer: PeerId) -> list[PeerId]:
        """Return whom it offers a group to."""
        return [peer]

    def ghosts(self) -> list[PeerId]:
        """Return members that nobody knows."""
        return []

    def say(self, sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
        """Say that it is ready, and offer a group, for the round of a peer."""
        entry = node.member.table.get(peer)
        if entry is None or not node.member.run:
            return []
        presence, others = entry.presence, self.members(peer)
        base = bytes(32) if sim.scenario.mergeable else presence.state
        members = tuple(sorted({node.me, *others, *self.ghosts()}))
        shares = tuple(int(member == node.me) for member in members)
        nonce = node.dice.randrange(1 << 53)
        offer = m.Propose(presence.round, base, node.dice.randrange(3), nonce, members, shares)
        if len(self._offers) > 100:
            self._offers.clear()
        self._offers[nonce], self._accepts[nonce] = offer, {node.me, *self.ghosts()}
        ready = m.Ready(presence.round, base)
        return [Send(other, said) for other in others for said in (ready, offer)]

    def hear(self, event: Received) -> bool:
        """Take the answers to its offers, and what is sent into its groups."""
        peer, message = event.peer, event.message
        match message:
            case m.Accept(nonce=nonce) if nonce in self._offers:
                self._accepts[nonce].add(peer)
                if self.commits and self._accepts[nonce] >= set(self._offers[nonce].members):
                    self._commit(self._offers.pop(nonce))
            case m.Unheard(nonce=nonce) if nonce in self._offers:
                self._show(peer, self._offers[nonce])
            case m.Part(group=group) if group in self._groups:
                everyone = ((1 << len(self._groups[group])) - 1).to_bytes(8, "big")
                head = (message.group, message.index, message.part, message.chunk, message.ballot)
                self._say(peer, m.Reduced(*head, everyone), bytes(len(event.data)))
            case m.Done(group=group) if group in self._groups:
                self._say(peer, message)
            case m.Exchange(group=group):
                return group in self._groups
            case _:
                return False
        return True

    def _show(self, peer: PeerId, offer: m.Propose) -> None:
        early = self.node.member.group_search.early
        words = [m.Signed(name, early[name][0]) for name in offer.members if name in early]
        self._say(peer, m.Shown(offer.round, tuple(words)))
        self._say(peer, offer)

    def _commit(self, offer: m.Propose) -> None:
        head = (offer.round, offer.base, offer.ballot, offer.nonce, self.node.me)
        commit = m.Commit(*head, offer.members, offer.shares)
        self._groups[group_id(self.node.member.run, commit)] = offer.members
        for member in offer.members:
            if member in self.sim.nodes and member != self.node.me:
                self._say(member, commit)

    def _say(self, peer: PeerId, message: Any, data: bytes = b"") -> None:
        self.sim.send(self.node, Send(peer, message, data))


class GhostConvener(Convener):
    """Fills its groups with members that do not exist, and says that all of them contributed."""

    def ghosts(self) -> list[PeerId]:
        """Return some."""
        return [PeerId(f"ghost{number}") for number in range(3)]


class AllConvener(Convener):
    """Offers groups of everyone."""

    def members(self, peer: PeerId) -> list[PeerId]:
        """Return all that are linked."""
        return sorted(self.node.linked)


class SilentConvener(AllConvener):
    """Offers groups, and says nothing more."""

    commits = False


class LeavingConvener(Convener):
    """Leaves half of the others out."""

    def members(self, peer: PeerId) -> list[PeerId]:
        """Return every other peer."""
        return sorted(self.node.linked)[::2]


_LIES: Final[dict[str, Lie]] = {
    "equivocate": _equivocate,
    "wrong": _wrong,
    "nan": _nan,
    "garbage": _garbage,
    "weight": _weight,
    "mute": _mute,
    "hide": _hide,
    "flip": _flip,
    "two-faced": _two_faced,
    "far": _far,
    "cut": _cut,
    "absurd": _absurd,
    "sybil": _sybil,
    "greedy": _greedy,
    "lineage": lineage,
    "nan-state": nan_state,
    "undead": undead,
    "names_the_lan": _names_the_lan,
}
_EXTRAS: Final[dict[str, Callable[[Any, Any, PeerId], list[Send]]]] = {
    "replay": _replay,
    "babble": _babble,
    "twins": _twins,
}
_CONVENERS: Final[dict[str, type[Convener]]] = {
    "convene": Convener,
    "ghosts": GhostConvener,
    "takes-all": AllConvener,
    "promises": SilentConvener,
    "leaves": LeavingConvener,
}

KINDS: Final = (*_LIES, *_EXTRAS, *_CONVENERS)
"""Lies that are drawn for every seed."""


def _without(*kinds: type) -> Lie:
    return lambda node, effect: [] if isinstance(effect.message, kinds) else [effect]


def _uncommitting(node: Any, effect: Any) -> list[Send]:
    """Offer groups in its turn, and say nothing once all have accepted."""
    search = node.member.group_search.search
    has_convened = search is not None and search.has_convened
    return [] if has_convened and isinstance(effect.message, m.Commit | m.Exchange) else [effect]


def _late(node: Any, effect: Any) -> list[Send]:
    """Say what others wait for, and say it late: within the time that a newcomer has."""
    if not isinstance(effect.message, m.Accept | m.Part | m.Reveal | m.Digest | m.Done):
        return [effect]
    node.sim.at(node.sim.now + LATENESS, node.sim.send, node, effect)
    return []


LATENESS: Final = 0.2
"""Seconds; a newcomer has a quarter of a second to answer, where others have half a second."""
_LIES["late"] = _late
NEGOTIATION: Final = (m.Propose, m.Accept, m.Decline, m.Commit, m.Unheard, m.Shown)
_LIES["uncommitting"] = _uncommitting
_LIES["unanswering"] = _without(*NEGOTIATION)
_LIES["never-ready"] = _without(*NEGOTIATION, m.Ready)


def _residues(node: SimNode, effect: Send) -> list[Send]:
    """Give words of a secure sum that are anything but what belongs there."""
    if not isinstance(effect.message, m.Part) or effect.message.index // m.SECURE_INDEX != Stage.SUM:
        return [effect]
    return [Send(effect.peer, effect.message, node.dice.randbytes(len(effect.data)))]


def _withholds(node: SimNode, effect: Send) -> list[Send]:
    """Take part in a secure sum, and reveal no share in the end."""
    is_share = isinstance(effect.message, m.Reveal) and effect.message.index == Stage.UNMASK * m.SECURE_INDEX
    return [] if is_share else [effect]


def _two_lists(node: SimNode, effect: Send) -> list[Send]:
    """Tell every other member that somebody is not in the sum of a part."""
    message = effect.message
    if not isinstance(message, m.Reduced) or message.index != Stage.SUM * m.SECURE_INDEX:
        return [effect]
    mask = int.from_bytes(message.contributors, "big")
    if ord(effect.peer[-1]) % 2:
        mask &= mask - 1
    bent = msgspec.structs.replace(message, contributors=mask.to_bytes(8, "big"))
    return [Send(effect.peer, bent, bytes(effect.data))]


def _deaf(node: SimNode, effect: Send) -> list[Send]:
    """Tell every other member that nobody's shares came, and the rest that all did."""
    index = effect.message.index if isinstance(effect.message, m.Reveal) else 0
    if index != Stage.HEARD * m.SECURE_INDEX or ord(effect.peer[-1]) % 2:
        return [effect]
    return [Send(effect.peer, effect.message, bytes(len(effect.data)))]


_LIES.update({"residues": _residues, "withholds": _withholds, "two-lists": _two_lists, "deaf": _deaf})


class SettledConvener(AllConvener):
    """Says that it has colleagues, so as to convene before all others, and offers what follows from that."""

    def say(self, sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
        """Say that it is ready, and offer a group of all that are, whoever's turn it is."""
        member, early = node.member, node.member.group_search.early
        mine = {other: ready for other, (ready, _) in early.items() if ready.round == member.round}
        if peer not in mine:
            return []
        word = msgspec.structs.replace(mine[peer], wait=0.0, uplink=0, unreached=0, has_colleagues=True)
        ready = {node.me: word, **mine}
        members = tuple(sorted(ready))
        shares = derived_shares(members, ready, frozenset(), MOST["open"])
        offer = m.Propose(word.round, word.base, 0, node.dice.randrange(1 << 53), members, shares)
        self._offers[offer.nonce], self._accepts[offer.nonce] = offer, {node.me}
        return [Send(other, said) for other in sorted(mine) for said in (word, offer)]


def _crowds(node: SimNode, effect: Send) -> list[Send]:
    """It is deaf to prefixes, and seats all newcomers of a house when it convenes."""
    node.member.nearby.prefix_of = lambda peer: ""  # type: ignore[method-assign]
    return [effect]


_CONVENERS["settled"], _LIES["crowds"] = SettledConvener, _crowds


def _edicts(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    return sim.roster.lie(node, peer) if sim.roster is not None else []


_EXTRAS["edicts"] = _edicts
_EXTRAS["calls"], _LIES["calls"] = flood, bend
_EXTRAS["split-host"], _LIES["split-host"] = split_liars.claim_roles, split_liars.bend_host
_EXTRAS["split-client"], _LIES["split-client"] = split_liars.flood, split_liars.bend_client
