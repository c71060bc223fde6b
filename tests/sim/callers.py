"""Calls in the simulator: trainers that call a host before each contribution, and what must hold of it.

Any node may host, whichever takes the role. Each call has a name of its own, so that it shows when one is
acted upon twice. Liars call in floods and answer nonsense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sim.node import NUMEL, SimTrainer

from shoal.crypto.keys import PeerId
from shoal.gossip import messages as m
from shoal.gossip.calls.answering import (
    MAX_KEPT_BYTES,
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    MAX_STEPS,
    HandedOut,
    StepName,
)
from shoal.gossip.calls.asking import Ended
from shoal.gossip.calls.forms import Form, TensorForm, pack
from shoal.gossip.events import Send
from shoal.gossip.member import commands
from shoal.node.framing import Message
from shoal.node.trainer import ipc

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Fault, Sim

CALLS: Final = 3
"""Of each node in a round."""
ONE: Final = {"v": TensorForm((4,))}
FORMS: Final = {"forward": Form(ONE, ONE)}
PACKED: Final = pack({"v": np.ones(4, np.float32)}, ONE)
SLACK: Final = 5.0
"""Seconds that a call may take beyond its deadlines."""
MOST: Final = {"queued": MAX_QUEUED, "bytes": MAX_QUEUED_BYTES + MAX_KEPT_BYTES, "steps": MAX_STEPS}
"""Bounds as they are meant, whatever a planted bug makes of them."""
ONCE: Final = "a step acts once"
ENDS: Final = "a call ends, and holds up no round"
GROWS: Final = "no queue of calls grows without bound"


def host_faults(host: int) -> dict[str, tuple[Fault, ...]]:
    """Return what may befall the node that holds the role, by what is seen of it."""
    return {
        "nothing happens": (),
        "the host dies": ((20.0, "crash", host, 0, True, 40.0),),
        "the host leaves": ((20.0, "leave", host, 0.0),),
        "its trainer dies": ((20.0, "trainer", host, 5.0),),
        "it is frozen": ((20.0, "freeze", host, 30.0),),
        "it is cut off": ((20.0, "split", (host,), 30.0, True),),
    }


class CallingTrainer(SimTrainer):
    """A trainer whose local work is followed by calls, and that serves where its node holds the role."""

    def attach(self) -> None:
        """Say that we are there."""
        sim = self.node.sim
        self._left = self._call = 0
        message = ipc.Attach(
            pid=1,
            spec=sim.spec,
            exchange_numel=NUMEL,
            mergeable=sim.scenario.mergeable,
            roles=("host",),
            forms=FORMS,
            ability=float(self.node.number % 3),
        )
        self.node.rounds.attached(message, self.segment, self._reply)

    def _reply(self, message: Message) -> None:
        match message:
            case ipc.RoleTaken():
                self._want()
            case ipc.HandedOut():
                self._soon(0.03, lambda: self._answer(message))
            case ipc.CallEnded():
                if message.id == self._call and self._working:
                    self._next()
            case ipc.Begin():
                super()._reply(message)
                self._turn += 1
                self._left = CALLS
                self._later(self.pace * (0.8 + 0.4 * self.node.dice.random()), self._next)
            case _:
                super()._reply(message)

    def _next(self) -> None:
        if self._left == 0:
            self._ask()
            return
        self._left -= 1
        self.node.calls_made += 1
        self._call = self.node.calls_made
        self._post(self._call)
        if self.node.calls_made % 5 == 0:
            # As a caller does that lost its answer: the same step, under another id.
            self._soon(1.0, lambda: self._post(-self.node.calls_made))

    def _post(self, id_: int) -> None:
        shapes, data = PACKED
        self.node.rounds.from_trainer(
            ipc.CallPeer(
                id=id_,
                peers=(),
                name="host",
                verb="forward",
                step=b"%d" % abs(id_),
                shapes=shapes,
                data=data,
                is_last=self._left == 0 or id_ < 0,
            )
        )

    def _want(self) -> None:
        count = self.node.number % 2
        want = ipc.WantCalls(role="host", verbs=("forward",), count=count, among=())
        self.node.rounds.from_trainer(want)

    def _answer(self, message: ipc.HandedOut) -> None:
        answers = tuple((peer, verb, step, *PACKED, "") for peer, verb, step, _, _ in message.calls)
        self.node.rounds.from_trainer(ipc.AnswerCalls(answers=answers))
        self._want()

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        """Serve, whatever the round does meanwhile."""
        life = self.node.life

        def act() -> None:
            if self.node.life == life and self.node.trainer is self:
                self.node.act(action)

        self.node.sim.at(self.node.sim.now + seconds, act)


class CallWatch:
    """What must hold of calls, in one run."""

    def __init__(self, sim: Sim) -> None:
        """Start knowing nothing."""
        self._sim = sim
        self._acted: set[tuple[PeerId, int, StepName]] = set()
        self._open: dict[tuple[PeerId, int], tuple[float, float]] = {}
        """By caller and id: when it was made, and when it ends at the latest."""

    def asked(self, node: SimNode, event: commands.CallPeer) -> None:
        """A trainer calls."""
        if event.id < 0:
            return
        now = node.clock.local(self._sim.now)
        named = event.to if isinstance(event.to, tuple) else node.member.calls.holders(event.to, now)
        choices = max(1, len(named))
        longest = 2 * choices * self._sim.scenario.patience + SLACK
        self._open[node.me, event.id] = (self._sim.now, self._sim.now + longest)

    def noticed(self, node: SimNode, notice: Any) -> None:
        """A member told its node something."""
        oracle = self._sim.oracle
        if isinstance(notice, HandedOut | Ended):
            self._check_bounds(node)
        match notice:
            case HandedOut():
                for call in notice.calls:
                    name = (node.me, node.life, call.name)
                    if name in self._acted and not oracle.is_liar(call.peer):
                        oracle.violate(ONCE, f"{node.me} acted twice on {call.step!r} of {call.peer}")
                    self._acted.add(name)
            case Ended():
                self._check_end(node.me, notice.id)

    def gone(self, node: SimNode) -> None:
        """A trainer is gone, and waits for nothing; or its node slept, and no deadline was kept."""
        for key in [key for key in self._open if key[0] == node.me]:
            del self._open[key]

    def finish(self) -> None:
        """Check what can only be told at the end."""
        if not (self._sim.scenario.calls or self._sim.scenario.stages):
            return
        for peer, id_ in list(self._open):
            node = self._sim.nodes[peer]
            if node.is_alive and not node.is_frozen:
                self._check_end(peer, id_)
        for node in self._sim.nodes.values():
            if node.is_alive:
                self._check_bounds(node)

    def _check_end(self, peer: PeerId, id_: int) -> None:
        asked, latest = self._open.pop((peer, id_), (0.0, float("inf")))
        jumps = any(fault[1] == "jump" for fault in self._sim.scenario.faults)
        if self._sim.now > latest and not jumps and not self._sim.oracle.is_liar(peer):
            self._sim.oracle.violate(ENDS, f"call {id_} of {peer} takes {self._sim.now - asked:.0f} s")

    def _check_bounds(self, node: SimNode) -> None:
        answering, peers = node.member.calls.answering, len(self._sim.nodes)
        queues = peers * max(1, len(answering._forms))
        steps = max((len(each.steps) for each in answering._peers.values()), default=0)
        found = (answering.n_queued, answering.n_bytes, steps)
        bounds = (MOST["queued"] * queues, MOST["bytes"], MOST["steps"])
        if any(one > most for one, most in zip(found, bounds, strict=True)):
            self._sim.oracle.violate(GROWS, f"{node.me} keeps {found} calls, bytes and steps")


def flood(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    """Call without end, partly what no form allows."""
    shapes, data = PACKED
    said = []
    for _ in range(60):
        step = b"%d" % node.dice.randrange(1 << 40)
        wrong = node.dice.random() < 0.005
        size = (("v", (4 + wrong,)),) if wrong else shapes
        said.append(Send(peer, m.Call(node.member.run or bytes(32), "forward", step, size), data))
    offer = m.Roles((m.RoleOffer("host", True),), 1e9, False, 60.0)
    return [*said, Send(peer, offer)]


def bend(node: SimNode, effect: Send) -> list[Send]:
    """Answer nothing, nonsense, or what breaks the form."""
    message = effect.message
    if not isinstance(message, m.Answer):
        return [effect]
    match node.dice.randrange(3):
        case 0:
            return []
        case 1:
            return [Send(effect.peer, message, bytes(effect.data)[:-1])]
        case _:
            return [Send(effect.peer, m.Answer(message.run, message.verb, message.step, (("v", (9,)),)))]
