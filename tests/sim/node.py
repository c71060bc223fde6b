"""One simulated node: the `Member` and `Rounds` that ship, over a simulated host, clock, disk and trainer.

    network, timers --> Member --notices--> Rounds <--ipc messages--> SimTrainer
                          |                   '--> Disk
                          '--effects--> network

The node may die between any two effects; what is on its disk then is the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from sim.parts import OWN, BaseOnDisk, own_of
from sim.rosters import WALL

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.roster import Roster, Word
from shoal.gossip.events import (
    Dial,
    Drop,
    Effects,
    Notify,
    PeerFound,
    ProbeLink,
    Publish,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
    Vector,
)
from shoal.gossip.member import commands
from shoal.gossip.member.commands import Event
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.colleagues import LEAST_ROUNDS, LEAST_SECONDS, Acquaintance
from shoal.gossip.messages import Accept, Cut, Record, Settle
from shoal.gossip.run_spec import Combine, RunSpec, TensorSpec
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.failpoints import Failpoint
from shoal.node.framing import Message
from shoal.node.storage.checkpoint import Checkpoint
from shoal.node.storage.run_trust import RunTrust
from shoal.node.trainer import ipc

if TYPE_CHECKING:
    from sim.world import Sim

NUMEL: Final = 26
"""Numbers in a model: enough for uneven parts, few enough for a thousand rounds a second."""
POOL: Final[Any] = np.random.default_rng(7).normal(size=(211, NUMEL)).astype(np.float32)
"""What local work adds to a state."""
USUAL: Final = (6.0, 0.0, 0.0)
"""How far a round moves a state, of params, buffers and shared vectors; for who remembers earlier rounds."""
NEVER: Final = float("inf")
GIVEN: Final = frozenset({commands.Contribute, commands.ContributeBody})
OF_STATES: Final = (commands.NewState, commands.Finish)


class Died(Exception):
    """The node died in the middle of its effects."""


def address_of(peer: PeerId) -> str:
    """Return the one address of a simulated peer: public, and of a network of its own."""
    a, b, c = blake2b(peer.encode(), digest_size=3).digest()
    return f"/ip4/20.{a}.{b}.{c}/tcp/4710/p2p/{peer}"


def make_spec(
    group_size: int,
    rounds: int,
    quorum: int,
    pushes: int = 0,
    chunk_numel: int = 8,
    combine: Combine = "mean",
    secure: bool = False,
) -> RunSpec:
    """Return the run spec of a simulated run; `pushes` a round, where all average pairwise."""
    return RunSpec(
        method="sim",
        task="sim",
        tensors=(TensorSpec("w", "float32", (NUMEL,)),),
        group_size=group_size,
        rounds=rounds,
        quorum=quorum,
        exchange="pairwise" if pushes else "group",
        pushes_per_round=pushes or 1,
        combine=combine,
        secure=secure,
        max_chunk_numel=chunk_numel,  # type: ignore[arg-type]  # smaller than a real run's
    )


NAMED_BY: Final = (
    *("codec", "delay", "engine", "exchange", "group_size", "method", "name", "options", "pushes_per_round"),
    *("quorum", "rounds", "seed", "shared", "task", "tensors"),
)
"""The settings that name a simulated run."""


def pinned_run_id(spec: RunSpec) -> bytes:
    """Return the id of a simulated run, which a new setting does not change.

    The id decides who convenes in which round, and so what happens under every seed.
    """
    fields = {name: getattr(spec, name) for name in NAMED_BY}
    text = msgspec.msgpack.Encoder(order="sorted").encode(fields)
    return blake2b(text, digest_size=32, person=b"shoal/runspec").digest()


class PinnedRounds(Rounds):
    """Rounds of a run that is named by `pinned_run_id`."""

    run_id = staticmethod(pinned_run_id)


class Clock:
    """A node's own idea of time: an offset, a rate, and jumps."""

    def __init__(self, offset: float, rate: float) -> None:
        """`rate`: local seconds per true second."""
        self.offset, self.rate = offset, rate

    def local(self, now: float) -> float:
        """Return the node's time."""
        return now * self.rate + self.offset

    def true(self, local: float) -> float:
        """Return when the node's clock shows this."""
        return (local - self.offset) / self.rate


class Disk:
    """What outlives a crash: the last state that was written whole, and the peer book."""

    def __init__(self) -> None:
        """Start empty."""
        self.checkpoint: Checkpoint | None = None
        self.book: dict[str, None] = {}
        self.roster: list[Word] = []
        self.trust = RunTrust(run="")
        self.acquainted: tuple[Acquaintance, ...] = ()
        """Whom the node knows before its first start."""
        self.base = BaseOnDisk()

    def load(
        self, directory: Path, run: bytes, *, numel: int | None = None, before: int | None = None
    ) -> Checkpoint | None:
        """See `shoal.node.storage.checkpoint.load_newest`."""
        found = self.checkpoint
        is_early = found is not None and (before is None or found.round < before)
        return found if found is not None and is_early and found.run_id == run else None

    def recall(self, directory: Path, run: bytes) -> RunTrust:
        """See `shoal.node.storage.run_trust.load_trust`."""
        if not self.trust.run:
            past = (USUAL,) * 3 if self.acquainted else ()
            self.trust = RunTrust(run=run.hex(), known=self.acquainted, movements=past)
        return self.trust if self.trust.run == run.hex() else RunTrust(run=run.hex())

    def remember(self, trust: RunTrust) -> None:
        """See `shoal.node.storage.run_trust.save_trust`."""
        self.trust = trust


class Around(Surroundings):
    """What the rounds of a simulated node need of it."""

    def __init__(self, node: SimNode) -> None:
        """`node`: of this life."""
        self._node = node

    def now(self) -> float:
        """See `Surroundings`."""
        return self._node.sim.now

    def command(self, event: Event) -> None:
        """See `Surroundings`."""
        self._node.command(event)

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        """See `Surroundings`."""
        self._node.save(checkpoint)

    def set_run(self, run: bytes) -> None:
        """See `Surroundings`."""
        self._node.sim.set_run(self._node, run)

    def load(
        self, directory: Path, run: bytes, *, numel: int, before: int | None = None
    ) -> Checkpoint | None:
        """See `Surroundings`."""
        return self._node.disk.load(directory, run, numel=numel, before=before)

    def recall(self, directory: Path, run: bytes) -> RunTrust:
        """See `Surroundings`."""
        return self._node.disk.recall(directory, run)

    def remember(self, trust: RunTrust) -> None:
        """See `Surroundings`."""
        self._node.disk.remember(trust)

    def problem(self, source: str, text: str) -> None:
        """See `Surroundings`."""
        self._node.problems[source] = text


class Flags:
    """The flags of the shared page; a raised one wakes the trainer."""

    def __init__(self, raised: Callable[[int], None]) -> None:
        """`raised` is told which flag went up."""
        self._raised = raised

    def __setitem__(self, key: Any, value: int) -> None:
        """Set a flag, or clear them all."""
        if value and isinstance(key, int) and key != ipc.ALONE:
            self._raised(key)


class SimTrainer:
    """Plays the trainer process: local work that takes its time, then the asks of a round."""

    def __init__(self, node: SimNode, asks: str, pace: float, step: float) -> None:
        """`asks`: of a round, ``r`` for all-reduce, ``g`` for gather, ``s`` for an all-reduce in a scope.

        `pace`: seconds of work per round.

        ``m``: the peers differ in round 0 and do no further work, so that nothing but mixing is seen.
        """
        self.node, self.asks, self.pace, self.step = node, asks, pace, step
        slots = (POOL[0].copy(), np.zeros(NUMEL, np.float32))
        exchange = np.zeros(NUMEL + OWN, np.float32)
        # What is the node's own lies behind what travels.
        exchange[NUMEL:] = own_of(node.number)
        self.exchange = exchange[:NUMEL]
        self.segment = ipc.Segment(Flags(self._flagged), slots, exchange)  # type: ignore[arg-type]
        self._life = node.life
        self._begun: ipc.Begin | None = None
        self._turn = 0
        self._index = 0
        self._working = False
        self._attempts = 0
        self._sum: Vector = np.zeros(NUMEL, np.float32)
        self._bodies: tuple[tuple[str, bytes], ...] = ()
        self.scoped: Vector = np.zeros(NUMEL, np.float32)
        """The last mean of its scope, which is its own: even numbers are of one, odd ones of another."""

    def attach(self) -> None:
        """Say that we are there."""
        sim = self.node.sim
        message = ipc.Attach(
            pid=1,
            spec=sim.spec,
            exchange_numel=NUMEL,
            mergeable=sim.scenario.mergeable,
        )
        self.node.rounds.attached(message, self.segment, self._reply)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        turn, life = self._turn, self._life

        def act() -> None:
            if self._turn == turn and self.node.life == life and self.node.trainer is self:
                self.node.act(action)

        self.node.sim.at(self.node.sim.now + seconds, act)

    def _reply(self, message: Message) -> None:
        self._turn += 1
        match message:
            case ipc.Begin():
                self._begun, self._index, self._working = message, 0, True
                self._attempts += 1
                np.multiply(self.segment.slots[message.slot], np.float32(0.5), out=self._sum)
                dice = self.node.dice
                self._later(self.pace * (0.8 + 0.4 * dice.random()), self._ask)
            case ipc.Averaged():
                if self.asks[self._index] == "m":
                    np.multiply(self.exchange, np.float32(2), out=self._sum)
                elif self.asks[self._index] == "s":
                    self.scoped[:] = self.exchange
                else:
                    self._sum += self.exchange
                self._answered()
            case ipc.Gathered():
                self._bodies = message.bodies
                for peer, body in message.bodies:
                    self._sum += POOL[(len(body) + body[0] + len(peer)) % len(POOL)]
                self._answered()
            case ipc.AskFailed(text=text):
                self._later(self.step, lambda: self._idle(text))
            case ipc.Stop():
                self._working = False

    def _flagged(self, flag: int) -> None:
        if not self._working:
            return
        self._turn += 1
        if flag == ipc.INTERRUPT:
            self._later(self.step, lambda: self._idle("interrupted"))
        else:
            self._later(self.step, self._ask)

    def _idle(self, reason: str) -> None:
        assert self._begun is not None
        self._turn += 1
        self._working = False
        self.node.rounds.from_trainer(ipc.Idle(round=self._begun.round, reason=reason))

    def _ask(self) -> None:
        assert self._begun is not None
        self._turn += 1
        self._working = False
        begun = self._begun
        number = self.node.number
        noise = POOL[(number * 37 + begun.round * 11 + self._attempts * 5 + self._index) % len(POOL)]
        if self.asks[self._index] == "g":
            body = bytes([number + 1]) * (1 + (begun.round + number) % 5)
            ask: ipc.FromTrainer = ipc.AskGather(
                round=begun.round, index=self._index, body=body, tag=self.node.tag
            )
        else:
            weight, discount = self.node.weight, self.node.discount
            is_scoped = self.asks[self._index] == "s"
            if self.asks[self._index] == "m":
                # Little, so that the norms are alike and nothing is capped.
                noise, weight = noise * np.float32(0.02 * (begun.round == 0)) + self._sum, 1.0
                discount = 1.0
            # In place, as the real trainer does: whoever still reads the last mean here reads garbage.
            np.add(self._sum, noise, out=self.exchange)
            ask = ipc.AskAllReduce(
                round=begun.round,
                index=self._index,
                weight=weight,
                numel=NUMEL,
                kind="delta" if is_scoped else "params",
                tag=self.node.tag,
                discount=discount,
                among=self._scope() if is_scoped else (),
            )
        self.node.rounds.from_trainer(ask)

    def _scope(self) -> tuple[str, ...]:
        """Return whose numbers, as their bodies say, are even where ours is, or odd."""
        held = {peer for peer, body in self._bodies if (body[0] - 1) % 2 == self.node.number % 2}
        return tuple(sorted({*held, self.node.me}))

    def _answered(self) -> None:
        self._index += 1
        if self._index < len(self.asks):
            self._later(0.01, self._ask)
        else:
            self._later(0.02, self._finish)

    def _finish(self) -> None:
        assert self._begun is not None
        self._turn += 1
        slot = 1 - self._begun.slot
        np.multiply(self._sum, np.float32(0.5), out=self.segment.slots[slot])
        finished = ipc.Finished(
            round=self._begun.round,
            slot=slot,
            loss=0.0,
            examples=1,
            steps=1,
            work_seconds=self.pace,
            metrics={},
        )
        self.node.rounds.from_trainer(finished)


class SimNode:
    """A node in the simulated world."""

    def __init__(self, sim: Sim, number: int, peer: PeerId, dice: Random) -> None:
        """`number`: from 0; `dice`: this node's own."""
        self.sim, self.number, self.me, self.dice = sim, number, peer, dice
        self.clock = Clock(1000.0 * dice.random(), 1.0)
        self.disk = Disk()
        self.set_back = 0.0
        """By how much the wall clock, which no timer hears of, differs; negative."""
        self.weight = 1.0 + number % 3
        self.discount = 0.25 if number % 4 == 3 else 1.0
        self.pace, self.step, self.save_seconds = 3.0, 0.05, 0.02
        self.tag = "params"
        """What its trainer asks for."""
        self.is_helper = False
        self.calls_made = 0
        """Of all its lives."""
        self.bootstraps: tuple[PeerId, ...] = ()
        self.life = 0
        """Grows with every start and crash: plans of an earlier life are void."""
        self.is_alive = self.is_frozen = False
        self.seen_exchange: Any = None
        self.seen_mass: Any = None
        self.inbox: list[Event] = []
        self.linked: set[PeerId] = set()
        """Peers to which the host believes to have a link."""
        self.timers: dict[Timer, float] = {}
        self.die_in = -1
        """Effects until it dies; negative: it does not."""
        self.lie: Callable[[SimNode, Send], list[Send]] | None = None
        self.ear: Callable[[Received], bool] | None = None
        """Of a liar: takes what its member must not hear."""
        self.problems: dict[str, str] = {}
        """What the node tells its user, by what it is about."""
        self.kept_records: dict[PeerId, Record] = {}
        """Of one that keeps the dead alive."""
        self.trainer: SimTrainer | None = None
        self._to_save: Checkpoint | None = None
        self._saving = False

    def _use_roster(self) -> None:
        """Go by the roster on the disk, as the daemon does."""
        if self.sim.roster is not None:
            roster = Roster(self.sim.roster.world.charter)
            roster.merge(self.disk.roster)
            self.member.admission.use(roster)
            self.member.admission.set_clock(WALL - self.clock.offset)

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again from the disk."""
        self.life += 1
        self.problems.clear()
        self.is_alive, self.is_frozen = True, False
        self.disk.acquainted = tuple(
            Acquaintance(self.sim.name(number), LEAST_ROUNDS, LEAST_SECONDS)
            for number in self.sim.scenario.acquainted
            if number != self.number
        )
        self.inbox, self.timers, self.linked = [], {}, set()
        self._due = 0.0
        self.die_in = -1
        self._to_save, self._saving = None, False
        scenario = self.sim.scenario
        config = MemberConfig(
            patience=scenario.patience,
            slowest_line=scenario.slowest_line,
            wait_for=scenario.wait_for,
            alone=scenario.alone,
            colleague_rounds=scenario.trust[0],
            colleague_seconds=scenario.trust[1],
            awaits_trainer=not (self.is_helper or self.disk.base.is_whole),
        )
        sequence = int(1e6 * max(0.0, self.clock.local(self.sim.now) + self.set_back))
        self.member = Member(self.me, config, Random(self.dice.getrandbits(64)), sequence)
        self.member.asks.entropy = Random(f"{self.me} {sequence} {self.life}").randbytes
        self._use_roster()
        self.sim.codec_started(self, sequence)
        if rate := scenario.lines[self.number % len(scenario.lines)]:
            self.member.handle(commands.Measured(rate * 2000, 2.0), 0.0)
        self.rounds = PinnedRounds(self.me, Path("/nowhere"), Failpoint(""), Around(self))
        self.trainer = None

        def boot() -> None:
            self._carry_out(self.member.begin(self.clock.local(self.sim.now)))
            self.command(commands.SetAddresses((address_of(self.me),)))
            for peer in self.bootstraps:
                self.command(commands.AddAddress(address_of(peer), "bootstrap"))
            for address in self.disk.book:
                self.command(commands.AddAddress(address, "book"))
            if not self.is_helper:
                if scenario.lacking:
                    self.command(self.disk.base.begin())
                self.start_trainer()

        self.act(boot)

    def start_trainer(self) -> None:
        """Attach a trainer that starts from the disk, once the base lies there."""
        from sim.callers import CallingTrainer
        from sim.split import SplitTrainer

        if not self.disk.base.is_whole:
            return
        kind: type[SimTrainer] = CallingTrainer if self.sim.scenario.calls else SimTrainer
        if self.sim.scenario.stages:
            kind = SplitTrainer
        self.trainer = kind(self, self.sim.scenario.asks, self.pace, self.step)
        self.trainer.attach()

    def heed(self) -> None:
        """Do what a user does who knows that the liars are gone: let the node take its swarm's state over."""
        if self.is_alive and not self.is_frozen and self.problems.get("trust"):
            self.act(self.rounds.reset_trust)

    def kill_trainer(self) -> None:
        """The trainer process is gone."""
        self.sim.oracle.went(self)
        self.sim.oracle.trainer_went(self)
        self.trainer = None
        self.rounds.detached()

    def die(self) -> None:
        """End at once; only the disk remains."""
        self.sim.oracle.went(self)
        self.life += 1
        self.is_alive = False
        self.trainer = None

    def act(self, action: Callable[[], None]) -> None:
        """Do something in this node's own thread, which ends if the node dies in it."""
        if self.is_alive:
            try:
                action()
            except Died:
                self.sim.crashed(self)

    # --- events -----------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Take an event of the host; a frozen process handles it when it thaws."""
        if not self.is_alive:
            return
        if self.is_frozen:
            self.inbox.append(event)
            return
        if self.ear is not None and isinstance(event, Received) and self.ear(event):
            return
        try:
            self.command(event)
        except Died:
            self.sim.crashed(self)

    def thaw(self) -> None:
        """Go on: handle what came meanwhile."""
        self.is_frozen = False
        self.sim.oracle.calls.gone(self)
        self.sim.stale_at = self.sim.now
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            self.hear(event)
        self.plan_timers()

    def plan_timers(self) -> None:
        """Plan all timers anew: the clock jumped, or the process slept."""
        for name, at in list(self.timers.items()):
            self._plan(name, at)

    def command(self, event: Event) -> None:
        """Hand an event to the member and carry its effects out, as `shoal.gossip.net.driver` does."""
        # A rate turns time there and back inexactly; but no timer fires before its time.
        sim, member = self.sim, self.member
        now = sim.now * self.clock.rate + self.clock.offset
        if now < self._due:
            now = self._due
        sim.handled(self, event)
        kind = type(event)
        if kind in GIVEN:
            sim.oracle.contributed(self, event)  # type: ignore[arg-type]
        elif kind is commands.CallPeer:
            sim.oracle.calls.asked(self, event)  # type: ignore[arg-type]
        effects = member.handle(event, now)
        if kind is PeerFound:
            self._found(event)  # type: ignore[arg-type]
        if (exchange := member.asks.current) is not self.seen_exchange:
            self.seen_exchange = exchange
            sim.oracle.joined(self)
        if (core := member.pairwise.core) is not self.seen_mass:
            self.seen_mass = core
            sim.oracle.watch_mass(self)
        if effects:
            self._carry_out(effects)
        if self.seen_mass is not None:
            sim.oracle.movements.pushes(self)
        if isinstance(event, OF_STATES):
            sim.oracle.new_state(self)
            if isinstance(event, commands.NewState):
                sim.oracle.parts.held(self, "params", event.state, bytes(event.data))

    def _found(self, event: PeerFound) -> None:
        # As the daemon does.
        entry = self.member.table.get(event.peer)
        addresses = entry.presence.addresses if entry is not None else ()
        self._remember(addresses or ((event.address,) if event.address else ()))

    def _remember(self, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            self.disk.book[address] = None

    def _carry_out(self, effects: Effects) -> None:
        sim = self.sim
        notices = []
        for effect in effects:
            if self.die_in >= 0:
                self.die_in -= 1
                if self.die_in < 0:
                    raise Died
            match effect:
                case Send():
                    if effect.is_void:
                        continue
                    kind = type(effect.message)
                    if kind is Cut:
                        sim.oracle.movements.cut(self, effect.peer, effect.message)  # type: ignore[arg-type]
                    elif kind is Settle:
                        sim.oracle.movements.asks(self, effect.peer)
                    if self.lie is None:
                        if kind is Accept:
                            sim.oracle.accepted(self, effect.peer)
                        sim.send(self, effect)
                        continue
                    sim.stale_at = sim.now
                    for each in self.lie(self, effect):
                        sim.send(self, each)
                case SetTimer():
                    self._set_timer(effect)
                case Notify():
                    notices.append(effect.notice)
                case Dial():
                    sim.dial(self, effect.address)
                case Publish():
                    sim.publish(self, effect.message)
                case Drop():
                    sim.drop(self, effect.peer, effect.reason)
                case ProbeLink():
                    sim.probe(self, effect.peer)
        for notice in notices:
            sim.oracle.noticed(self, notice)
            if self.disk.base.noticed(notice):
                self.start_trainer()
            if isinstance(notice, commands.RosterChanged) and self.member.admission.roster is not None:
                self.disk.roster = self.member.admission.roster.words
            if isinstance(notice, commands.PeerAddresses):
                self._remember(notice.addresses)
            self.rounds.notice(notice)

    def _set_timer(self, effect: SetTimer) -> None:
        if effect.at == NEVER:
            self.timers.pop(effect.name, None)
        elif self.timers.get(effect.name) != effect.at:
            self.timers[effect.name] = effect.at
            self._plan(effect.name, effect.at)

    def _plan(self, name: Timer, at: float) -> None:
        when = max(self.sim.now, self.clock.true(at))
        self.sim.at(when, self._fire, name, at, self.life)

    def _fire(self, name: Timer, at: float, life: int) -> None:
        if self.life != life or self.is_frozen or self.timers.get(name) != at:
            return
        if self.clock.local(self.sim.now) < at - 1e-6:
            return
        del self.timers[name]
        self._due = at
        self.act(lambda: self.command(TimerFired(name)))

    # --- disk -------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint) -> None:
        # As the daemon does: one write at a time, and the newest state is what counts.
        self._to_save = replace(checkpoint, vector=checkpoint.vector.copy())
        if not self._saving:
            self._write()

    def save_last(self) -> None:
        """Write what is not yet written, before an orderly end."""
        if self._to_save is not None:
            self.disk.checkpoint = self._to_save

    def _write(self) -> None:
        checkpoint, self._to_save = self._to_save, None
        life = self.life
        if checkpoint is None:
            self._saving = False
            return
        self._saving = True

        def renamed() -> None:
            # A node that died while writing leaves a torn temporary file, which nobody believes.
            if self.life == life:
                self.disk.checkpoint = checkpoint
                self.sim.oracle.saved(self, checkpoint)
                self._write()

        self.sim.at(self.sim.now + self.save_seconds, renamed)
