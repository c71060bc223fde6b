"""Runs with a roster, simulated: what founders and members say, to whom and when, and what must hold of it.

    drawn of the seed --> words, each told to one node while the swarm runs --> gossip --> rosters compared

Nodes of a run are admitted from the start, on the disk of the first node alone; all others must hear it. What
is said later is about strangers, so that the swarm itself stays whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rosters import World, key

from shoal.crypto.keys import PeerId, public_key_of
from shoal.gossip import messages as m
from shoal.gossip.admission.grants import Grant, Redeem
from shoal.gossip.admission.roster import Roster, Word
from shoal.gossip.admission.rotations import BOX_BYTES, Rotation
from shoal.gossip.events import Send
from shoal.gossip.member import commands

if TYPE_CHECKING:
    from nacl.signing import SigningKey
    from sim.node import SimNode
    from sim.world import Sim

SHARE: Final = 0.12
"""Of the seeds, in which the run has a roster."""
WALL: Final = 1_000_000.0
"""The wall clock when a simulation begins."""
LAST_WORD: Final = 15.0
SAME: Final = "a roster is the same after any order, duplication and split"
UNSIGNED: Final = "an edict below its threshold changes nothing"
WIDER: Final = "no grant gives more than its parent"
OUTSIDER: Final = "nobody averages with who is not on the roster"


@dataclass(frozen=True)
class Said:
    """A word, and who hears it first."""

    at: float
    number: int
    word: Word


class SimRoster:
    """What is said of the roster in one run."""

    def __init__(self, sim: Sim, keys: list[SigningKey]) -> None:
        """`keys`: of the nodes, by number."""
        self._sim, self._keys = sim, keys
        self.world = World(sim.scenario.mode, delegates=2)  # type: ignore[arg-type]
        self._dice = Random(f"roster {sim.scenario.seed}")
        peers = [bytes(each.verify_key) for each in keys]
        self.first: list[Word] = [self.world.edict("admit", each) for each in peers]
        self.said = [
            *self._edicts(),
            *(self._uses() if self.world.mode == "invite" else ()),
            *self._keys_told(),
        ]
        self.legit = {each.id for each in (*self.first, *(said.word for said in self.said))}

    def _told(self, word: Word) -> Said:
        return Said(self._dice.uniform(0.5, LAST_WORD), self._dice.randrange(len(self._keys)), word)

    def _edicts(self) -> list[Said]:
        dice, world, found = self._dice, self.world, []
        founders = world.charter.first_founders
        for name in ("s0", "s1", "s2"):
            for _ in range(dice.randrange(4)):
                verb: Any = dice.choice(("admit", "ban", "pardon"))
                by = tuple(dice.sample(world.founders, 2))
                found.append(self._told(world.edict(verb, name, by=by, epoch=dice.choice((1, 1, 2)))))
        if dice.random() < 0.3:
            by = ("ann", "bob", "gus")
            new = world.change_founders("ann", "gus", threshold=2, former=founders, by=by)
            later = new.successor(founders)
            found += [self._told(new), self._told(world.edict("ban", "s3", by=("ann", "gus"), under=later))]
        return found

    def _keys_told(self) -> list[Said]:
        """Return new keys of the private network for nodes of the run; sometimes two at once."""
        dice = Random(f"keys {self._sim.scenario.seed}")
        members = [bytes(each.verify_key) for each in self._keys][:4]
        words = [
            Rotation(
                charter=self.world.charter.id,
                under=self.world.charter.first_founders.id,
                epoch=1,
                former=bytes(32),
                new=bytes([number + 1]) * 32,
                until=int(WALL) + 5,
                boxes=tuple((member, bytes([number]) * BOX_BYTES) for member in sorted(members)),
            ).signed_by(key("ann"), key("bob"))
            for number in range(dice.choice((0, 1, 2)))
        ]
        return [Said(dice.uniform(0.5, LAST_WORD), dice.randrange(len(self._keys)), word) for word in words]

    def _uses(self) -> list[Said]:
        """Return that strangers use grants of a node: one that may be passed on, more often than it may."""
        parent = self.grant("parent", uses=2, depth=1)
        child = self.world.grant("s4", "child", parent=parent)
        words = [self.world.redeem(name, "parent", parent) for name in ("s4", "s5", "s6")]
        words = words[: self._dice.choice((1, 2, 3))]
        return [*map(self._told, words), self._told(self.world.redeem("s7", "child", parent, child))]

    def grant(self, holder: str, *, uses: int = 1, depth: int = 0) -> Grant:
        """Return a grant of the first node."""
        made = Grant(
            charter=self.world.charter.id,
            issuer=bytes(self._keys[0].verify_key),
            key=bytes(key(holder).verify_key),
            serial=bytes(16),
            not_after=int(WALL) * 2,
            uses=uses,
            depth=depth,
        )
        return made.signed_by(self._keys[0])

    # --- in a run ---------------------------------------------------------------------------------

    def plan(self) -> None:
        """Let the words be said in time."""
        by_number = {node.number: node for node in self._sim.nodes.values()}
        by_number[0].disk.roster = list(self.first)
        for said in self.said:
            self._sim.at(said.at, self._say, by_number[said.number], said.word)

    def _say(self, node: SimNode, word: Word) -> None:
        if not node.is_alive or node.is_frozen:
            return
        roster = node.member.admission.roster
        assert roster is not None
        roster.add(word)
        node.act(lambda: node.command(commands.Submit((word,))))

    def lie(self, node: SimNode, peer: PeerId) -> list[Send]:
        """Return words that must change nothing, wherever they arrive."""
        world, dice = self.world, node.dice
        lone = world.edict("admit", "mallory", by=("ann",))
        twice = msgspec.structs.replace(lone, signatures=lone.signatures * 2)
        edict = dice.choice((lone, twice, world.edict("ban", public_key_of(peer), by=("mallory", "trudy"))))
        parent = self.grant("parent", uses=2, depth=1)
        wide = world.grant("s4", "wide", uses=dice.choice((3, 9)), parent=parent)
        redeems: tuple[Redeem, ...] = (world.redeem("mallory", "wide", parent, wide),)
        if dice.random() < 0.3:
            return [Send(peer, m.RosterKeys(world.charter.id, (self._false_key(),)))]
        return [Send(peer, m.RosterNews(world.charter.id, (edict,), redeems))]

    def _false_key(self) -> Rotation:
        """Return a new key that one founder of the two signed."""
        return Rotation(
            charter=self.world.charter.id,
            under=self.world.charter.first_founders.id,
            epoch=9,
            former=bytes(32),
            new=b"f" * 32,
            until=int(WALL),
            boxes=(),
        ).signed_by(key("ann"))

    # --- what must hold ---------------------------------------------------------------------------

    def are_one(self) -> bool:
        """Whether all live honest nodes have heard the same."""
        return len({_meaning(roster, WALL) for _, roster in self._rosters()}) <= 1

    def check(self) -> None:
        """Look at every roster, as the run ends."""
        oracle = self._sim.oracle
        for peer, roster in self._rosters():
            for word in roster.words:
                if word.id not in self.legit:
                    oracle.violate(WIDER if isinstance(word, Redeem) else UNSIGNED, f"{peer} took {word}")
            again, words = Roster(roster.charter), roster.words
            self._dice.shuffle(words)
            again.merge([*words, *words[::2]])
            if _meaning(again, WALL) != _meaning(roster, WALL):
                oracle.violate(SAME, f"{peer} heard the same in another order")

    def _rosters(self) -> list[tuple[PeerId, Roster]]:
        nodes = [node for node in self._sim.nodes.values() if node.is_alive and node.life]
        honest = [node for node in nodes if not self._sim.oracle.is_liar(node.me)]
        found = [(node.me, node.member.admission.roster) for node in honest]
        return [(peer, roster) for peer, roster in found if roster is not None]


def _meaning(roster: Roster, wall: float) -> Any:
    now = wall - roster.clock_offset
    return roster.hash, tuple(roster.memberships(now)), tuple(sorted(roster.bans(now))), roster.founders
