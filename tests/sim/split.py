"""Split learning in the simulator: the steps of MPSL that ship, with a toy front and a toy body.

    rounds --ipc messages--> RoleWork --asks--> MPSL._steps (client), Hosting and LaterStage (hosts)
                                                      |                       |
                                                  ToyFront  <--rows, gradients-->  ToyBody

Everything between the network and the tensors is what a node runs: who takes a role, barriers, deadlines,
second choices, copies. A row of activations says whose it is: client, attempt, round and step. Outputs and
gradients are such rows too, so whatever acts at a host can be told from what was sent, and what comes back to
a client from what it asked. The body's one number is how many steps it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sim.callers import GROWS, CallWatch
from sim.node import NUMEL, SimTrainer

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import Answer, Call, Look
from shoal.gossip.calls.forms import Form
from shoal.gossip.errors import GossipError
from shoal.methods.base import Here, Me, State, Steps
from shoal.methods.mpsl.asked import Known
from shoal.methods.mpsl.hosting import Hosting, LaterStage
from shoal.methods.mpsl.method import MPSL, MPSLConfig
from shoal.methods.mpsl.tokens import Array
from shoal.methods.mpsl.wire import Names, forms_of
from shoal.node.framing import Message
from shoal.node.trainer import ipc
from shoal.node.trainer.role_work import ROUND, RoleWork

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Sim

STEPS: Final = 3
"""Of each node in a round."""
ROWS: Final = 4
"""Of a client in a step at most."""
NAMED: Final = 4
"""Numbers of a row: client, attempt, round and step."""
BEYOND: Final = 1e9
COMPUTE: Final = 0.01
"""Seconds between what a trainer is told and what it says to that."""
MOST_COPIES: Final = 8
"""Peers whose params a host holds on their way, as it is meant, whatever a planted bug makes of it."""
ONCE: Final = "a step of the body acts once"
SENT: Final = "what acts was sent, by who it is said to come from"
MEAN: Final = "a step of the body is the mean over the rows that came"
PASS: Final = "gradients are of the pass that they come back to"
TAKEN: Final = "no step that a client counts is lost"
ASKED: Final = "an answer is to what was asked"
SERVED: Final = "once faults are over, steps are answered"
SOON: Final = 60.0
"""Seconds after the last fault within which roles are held again."""
Name = tuple[int, int, int, int]
"""Client, attempt, round and step."""


class SimSplit(MPSL):
    """MPSL with toys for what needs torch."""

    def verbs(self, learner: Any) -> Mapping[str, Form]:
        """See `Serves`."""
        stages = self.config.stages
        forms: dict[str, Form] = {}
        for stage in range(stages):
            forms |= forms_of(Names(stage, stages), (NAMED,), (NAMED,), ROWS, "float32")
        return forms

    def serve(self, learner: Any, role: str) -> Steps[None]:
        """See `Serves`."""
        stages = self.config.stages
        stage = self.roles.index(role) % stages
        if stage in learner.hosted:
            return
        kind = LaterStage if stage else Hosting
        side: Any = ToyBody(learner.node, stage, stages)
        learner.node.calls_made += 1
        learner.hosted[stage] = kind(
            side,
            Names(stage, stages),
            (NAMED,),
            average_every=self.config.average_every,
            number="float32",
            first_turn=learner.node.calls_made * 1_000_000,
        )
        try:
            yield from learner.hosted[stage].run()
        finally:
            del learner.hosted[stage]


def split_of(stages: int) -> SimSplit:
    """Return the method of a simulated run."""
    return SimSplit(MPSLConfig(steps=STEPS, rows=ROWS, number="float32", average_every=2, stages=stages))


class ToyLearner:
    """What a simulated trainer holds of a split model."""

    def __init__(self, node: SimNode) -> None:
        """`node`: whose."""
        self.node = node
        self.front = ToyFront(node)
        self.hosted: dict[int, Hosting] = {}


@dataclass(frozen=True)
class ToyJudged:
    """See `Judged`."""

    loss: float
    gradient: Array


class ToyFront:
    """The client's side: its rows say which step they are of."""

    def __init__(self, node: SimNode) -> None:
        """`node`: whose."""
        self._node = node
        self.known = Known()
        self.answered_by = PeerId("")
        """Who gave the answer that comes next."""
        self._attempt = 0
        self._sent = np.zeros((0, NAMED), np.float32)
        self._round = 0

    def begin(self, params: Any, memory: Any) -> None:
        """See `Trains`."""
        self._node.calls_made += 1
        self._attempt = self._node.calls_made

    def batches(self, steps: int, most: int, round_: int) -> list[Array]:
        """See `ClientSide`."""
        self._round = round_
        rows = 1 + self._node.number % most
        return [np.full(rows, place, np.float32) for place in range(steps)]

    def forward(self, part: Array) -> Array:
        """See `ClientSide`."""
        name = (self._node.number + 1, self._attempt, self._round, int(part[0]))
        self._sent = np.tile(np.array(name, np.float32), (len(part), 1))
        self._watch.sent.add(name)
        return self._sent

    def judge(self, outputs: Array) -> ToyJudged | None:
        """See `ClientSide`."""
        if outputs.shape != self._sent.shape or not is_usable(outputs):
            return None
        self._check(outputs)
        return ToyJudged(0.0, outputs)

    def step(self, gradient: Array, rows: Array) -> bool:
        """See `ClientSide`."""
        if gradient.shape != self._sent.shape or rows.shape != (1,) or rows[0] < len(self._sent):
            return False
        with np.errstate(over="ignore"):
            whole = np.rint(gradient * rows[0])
        if not is_usable(whole):
            return False
        if self._check(whole):
            self._watch.counted(self._node, self.answered_by, name_of(whole[0]))
        return True

    def params(self) -> Array:
        """See `Trains`."""
        return np.zeros(1, np.float32)

    @property
    def _watch(self) -> SplitWatch:
        found = self._node.sim.oracle.calls
        assert isinstance(found, SplitWatch)
        return found

    def _check(self, rows: Array) -> bool:
        """Check that an answer is of this step, of this attempt or, kept by the host, of one before."""
        oracle, mine = self._node.sim.oracle, name_of(self._sent[0])
        if oracle.lies_told:
            # Beside others' rows in one pass, or behind a host of a later stage that lies.
            return False
        found = {name_of(row) for row in rows}
        if any((name[0], *name[2:]) != (mine[0], *mine[2:]) for name in found):
            oracle.violate(ASKED, f"{self._node.me} asked for {mine}, {self.answered_by} answered {found}")
        return True


@dataclass(frozen=True)
class ToyPassed:
    """See `Passed`."""

    inputs: Sequence[Array]
    rows: Sequence[int]
    onward: tuple[PeerId, bytes] | None = None
    left: tuple[int, ...] = ()


class ToyBody:
    """The host's side. Its outputs are its inputs; its one number counts the steps that it took."""

    cut_rows = 0

    def __init__(self, node: SimNode, stage: int, stages: int) -> None:
        """`node`: whose."""
        self._node, self._stage, self._is_last = node, stage, stage == stages - 1
        self._sum = np.zeros(1, np.float32)

    @property
    def numel(self) -> int:
        """See `HostSide`."""
        return 1

    def vector(self) -> Array:
        """See `HostSide`."""
        return self._sum.copy()

    def load(self, params: Array) -> None:
        """See `HostSide`."""
        self._sum = params.astype(np.float32)

    def restore(self, saved: Mapping[str, Array]) -> bool:
        """See `HostSide`."""
        return False

    def predict(self, rows: Array) -> Array:
        """See `HostSide`."""
        return rows

    def forward(self, rows: Sequence[Array]) -> tuple[list[Array], ToyPassed]:
        """See `HostSide`."""
        return [each.copy() for each in rows], ToyPassed(list(rows), [len(each) for each in rows])

    def step(
        self, passed: ToyPassed, gradients: Sequence[Array | None], divisor: float, *, bounded: bool = True
    ) -> list[Array]:
        """See `HostSide`."""
        came = [
            (row, each)
            for rows, gradient in zip(passed.inputs, gradients, strict=True)
            if gradient is not None
            for row, each in zip(rows, gradient, strict=True)
            if each.any()
        ]
        watch = self._node.sim.oracle.calls
        assert isinstance(watch, SplitWatch)
        if self._is_last:
            watch.divided(self._node, came, divisor)
        watch.stepped(self._node, self._stage, [row for row, _ in came])
        self._sum += np.float32(1.0)
        return [
            np.zeros_like(rows) if gradient is None else gradient / np.float32(divisor)
            for rows, gradient in zip(passed.inputs, gradients, strict=True)
        ]


def name_of(row: Array) -> Name:
    """Return the step that a row is of."""
    client, attempt, round_, place = (int(min(abs(number), BEYOND)) for number in np.rint(row))
    return client, attempt, round_, place


def is_usable(rows: Array) -> bool:
    """Whether numbers are such as no optimizer chokes on."""
    return bool((np.abs(rows) < BEYOND).all())


class SplitTrainer(SimTrainer):
    """A trainer whose local work is the steps of a round, and that serves where its node holds a role."""

    def __init__(self, node: SimNode, asks: str, pace: float, step: float) -> None:
        """See `SimTrainer`."""
        super().__init__(node, asks, pace, step)
        self.method = split_of(node.sim.scenario.stages)
        self.learner = ToyLearner(node)
        self.work = RoleWork(self.method, self.learner, self)
        self.work.attached(node.me, "auto", "sim")
        self._steps: Steps[Any] | None = None
        self._asked: Any = None
        self._posted = 0
        self._is_hurried = False
        self._free = 0.0
        self._since = 0.0

    def attach(self) -> None:
        """Say that we are there."""
        sim = self.node.sim
        message = ipc.Attach(
            pid=1,
            spec=sim.spec,
            exchange_numel=NUMEL,
            mergeable=sim.scenario.mergeable,
            roles=self.work.roles,
            forms=dict(self.work.forms),
            ability=float(self.node.number % 3),
        )
        self.node.rounds.attached(message, self.segment, self._reply)

    def send(self, message: Message) -> None:
        """See `ToDaemon`."""
        self.node.rounds.from_trainer(message)

    def problem(self, source: str, text: str) -> None:
        """See `ToDaemon`."""
        self.node.problems[source] = text

    # --- what the daemon says ---------------------------------------------------------------------

    def _reply(self, message: Message) -> None:
        match message:
            case ipc.RoleTaken() | ipc.HandedOut() | ipc.CallEnded() | ipc.RoleFound():
                # One thing after the other, and never within what it says itself.
                self._free = max(self._free, self.node.sim.now) + COMPUTE
                self._soon(self._free, lambda: self._take(message))
            case ipc.Begin():
                super()._reply(message)
                self._turn += 1
                self._is_hurried, self._steps = False, None
                self.work.me = self._me
                self._later(self.pace * (0.8 + 0.4 * self.node.dice.random()), self._start)
            case _:
                self._steps = None
                super()._reply(message)

    def _soon(self, when: float, action: Callable[[], None]) -> None:
        life = self.node.life

        def act() -> None:
            if self.node.life == life and self.node.trainer is self:
                self.node.act(action)

        self.node.sim.at(when, act)

    def _take(self, message: Any) -> None:
        if not self.work.take(message) and self._steps is not None and message.id == self._posted:
            self._go_on(self.work.answer_of(self._asked, message))

    def _flagged(self, flag: int) -> None:
        if not self._working:
            return
        if flag == ipc.INTERRUPT:
            self._steps = None
            self._turn += 1
            self._later(self.step, lambda: self._idle("interrupted"))
        elif not self._is_hurried:
            self._is_hurried = True
            if self._steps is None:
                self._turn += 1
                self._later(self.step, self._start)

    # --- the round --------------------------------------------------------------------------------

    def _start(self) -> None:
        assert self._begun is not None
        self._since = self.node.sim.now
        side: Any = self.learner.front
        self._steps = self.method._steps(State(np.zeros(1, np.float32)), side, self._me, self._begun.round)
        self._go_on(None)

    @property
    def _me(self) -> Me:
        assert self._begun is not None
        return Me(self.node.me, self._begun.round, hosts=self.work.hosts, is_hurried=self._is_hurried)

    def _go_on(self, given: Any) -> None:
        """Go on with the round's steps until they wait for an answer."""
        self.work.me = self._me
        while self._steps is not None:
            if isinstance(given, Answer):
                self.learner.front.answered_by = given.peer
            steps = self._steps
            try:
                ask = steps.throw(given) if isinstance(given, GossipError) else steps.send(given)
            except StopIteration as stop:
                self._steps = None
                self._done(stop.value)
                return
            match ask:
                case Here():
                    given = self._me
                case Call() | Look():
                    self._asked, self._posted = ask, self.work.post(ask, ROUND)
                    return

    def _done(self, done: Any) -> None:
        watch = self.node.sim.oracle.calls
        assert isinstance(watch, SplitWatch)
        watch.ended(self.node, self._since, done.steps)
        self._ask()


class SplitWatch(CallWatch):
    """What must hold of calls and of steps, in one run."""

    def __init__(self, sim: Sim) -> None:
        """Start knowing nothing."""
        super().__init__(sim)
        self.sent = set[Name]()
        """Steps that clients asked for."""
        self._bodies: dict[int, dict[Name, PeerId]] = {}
        """By stage: which host acted on a step."""
        self._lied = set[PeerId]()
        self.taken = self.lost = 0
        """Steps that clients count, and that they do not."""
        self._late: list[int] = []
        """How many steps honest clients took in each of the rounds that they began after the faults."""

    def has_lied(self, peer: PeerId) -> bool:
        """Whether a peer lies, or did."""
        if self._sim.oracle.is_liar(peer):
            self._lied.add(peer)
        return peer in self._lied

    def divided(self, node: SimNode, rows: Sequence[tuple[Array, Array]], divisor: float) -> None:
        """The last stage divides by this; `rows`: with their gradients."""
        if self._sim.oracle.lies_told:
            return
        if divisor != len(rows):
            self._sim.oracle.violate(MEAN, f"{node.me} divides {len(rows)} rows by {divisor:g}")
        if any(name_of(row) != name_of(gradient) for row, gradient in rows):
            self._sim.oracle.violate(
                PASS, f"{node.me} takes gradients for {[name_of(row) for row, _ in rows]}"
            )

    def stepped(self, node: SimNode, stage: int, rows: Sequence[Array]) -> None:
        """A body takes a step with these rows."""
        oracle = self._sim.oracle
        lies = oracle.lies_told
        acted = self._bodies.setdefault(stage, {})
        for name in {name_of(row) for row in rows}:
            client = self._sim.names[name[0] - 1] if 1 <= name[0] <= len(self._sim.names) else PeerId("")
            if name not in self.sent:
                if not lies:
                    oracle.violate(SENT, f"{node.me} acts on {name}, which nobody sent")
                continue
            if name in acted and not self.has_lied(client):
                oracle.violate(ONCE, f"{node.me} acts on {name}, as {acted[name]} did")
            acted[name] = node.me

    def counted(self, node: SimNode, host: PeerId, name: Name) -> None:
        """A client counts a step that this host answered."""
        for stage in range(self._sim.scenario.stages):
            if name not in self._bodies.get(stage, {}):
                self._sim.oracle.violate(TAKEN, f"{node.me} counts {name}: {host} never took it at {stage}")

    def ended(self, node: SimNode, since: float, steps: int) -> None:
        """A client ended its steps of a round."""
        self.taken += steps
        self.lost += STEPS - steps
        if since > self._sim.calm_from + SOON and not self._sim.oracle.is_liar(node.me):
            self._late.append(steps)

    def finish(self) -> None:
        """Check what can only be told at the end."""
        super().finish()
        if len(self._late) > len(self._sim.nodes) and not any(self._late):
            self._sim.oracle.violate(SERVED, f"{len(self._late)} rounds without a step")

    def _check_bounds(self, node: SimNode) -> None:
        super()._check_bounds(node)
        hosted = node.trainer.learner.hosted.values() if isinstance(node.trainer, SplitTrainer) else ()
        for each in hosted:
            kept, copies = len(each._kept), max(len(each.copies._arriving), len(each.copies._leaving))
            if kept > len(self._sim.nodes) or copies > MOST_COPIES:
                self._sim.oracle.violate(GROWS, f"{node.me} hosts with {kept} calls and {copies} copies")
