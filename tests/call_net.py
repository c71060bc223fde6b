"""Cores of calls in virtual time, over a network that loses what a test says."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.calls.answering import HandedOut
from shoal.gossip.calls.asking import Ended
from shoal.gossip.calls.asks import Next
from shoal.gossip.calls.calls import Calls, RoleTaken
from shoal.gossip.calls.forms import Form, TensorForm, pack
from shoal.gossip.events import Drop, Effects, Notify, Send, SetTimer

RUN = bytes(32)
ONE = {"v": TensorForm((4,))}
FORMS = {"ask": Form(ONE, ONE), "tell": Form(ONE, None)}
PATIENCE = 10.0
LATENCY = 0.1


@dataclass
class Node:
    """A core, its trainer's words, and what it was told."""

    calls: Calls
    told: list[Any] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    timer: float = float("inf")

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.told if isinstance(each, kind)]

    @property
    def ended(self) -> list[Ended]:
        return self.of(Ended)

    @property
    def handed(self) -> list[HandedOut]:
        return self.of(HandedOut)

    @property
    def taken(self) -> list[str]:
        return [each.role for each in self.of(RoleTaken)]


class CallNet:
    """Nodes that are all linked; `loses` says which messages get lost."""

    def __init__(self, *names: str, roles: tuple[str, ...] = ("host",)) -> None:
        self.now, self.roles = 0.0, roles
        self.linked = {PeerId(name): {PeerId(other) for other in names if other != name} for name in names}
        self.nodes: dict[PeerId, Node] = {}
        self.loses: Callable[[PeerId, PeerId, Any], bool] = lambda frm, to, message: False
        self.dropped: set[PeerId] = set()
        self._mail: list[tuple[float, int, PeerId, PeerId, Any, bytes]] = []
        self._posted = 0
        for name, others in self.linked.items():
            admission = Admission()
            core = Calls(name, PATIENCE, 30.0, others, admission)
            self.nodes[name] = Node(core, counts=admission.counts)

    def attach(
        self, name: str, *, takes: bool = False, is_willing: bool = True, ability: float = 1.0
    ) -> None:
        held = frozenset(self.roles) if takes else frozenset[str]()
        core = self.nodes[PeerId(name)].calls
        self.do(
            name,
            core.attach(RUN, FORMS, self.roles, ability, self.now, is_willing=is_willing, takes=held),
        )

    def call(self, frm: str, id_: int, to: Any, step: bytes, value: float = 1.0, verb: str = "ask") -> None:
        shapes, data = packed(value)
        core = self.nodes[PeerId(frm)].calls
        self.do(frm, core.call(id_, to, verb, step, shapes, data, self.now))

    def want(self, name: str, ask: Next) -> None:
        self.do(name, self.nodes[PeerId(name)].calls.want("host", ask, self.now))

    def answer(self, name: str, value: float = 2.0, refusal: str = "") -> None:
        """Answer all that was handed out last."""
        node, (shapes, data) = self.nodes[PeerId(name)], packed(value)
        answers = [(each.name, shapes, data, refusal) for each in node.handed[-1].calls]
        self.do(name, node.calls.reply(answers, self.now))

    def cut(self, one: str, other: str) -> None:
        for frm, to in ((PeerId(one), PeerId(other)), (PeerId(other), PeerId(one))):
            self.linked[frm].discard(to)
            self.do(frm, self.nodes[frm].calls.lost(to, self.now))

    def link(self, one: str, other: str) -> None:
        for frm, to in ((PeerId(one), PeerId(other)), (PeerId(other), PeerId(one))):
            self.linked[frm].add(to)
            self.do(frm, self.nodes[frm].calls.found(to, self.now))

    def send(self, frm: str, to: str, message: Any, data: bytes = b"") -> None:
        """Let a peer say anything."""
        self.do(to, self.nodes[PeerId(to)].calls.handle(PeerId(frm), message, data, self.now))

    def do(self, name: str, effects: Effects) -> None:
        me = PeerId(name)
        for effect in effects:
            match effect:
                case Send(peer=peer, message=message, data=data):
                    if peer in self.linked[me] and not self.loses(me, peer, message):
                        self._posted += 1
                        self._mail.append((self.now + LATENCY, self._posted, me, peer, message, bytes(data)))
                case Notify(notice=notice):
                    self.nodes[me].told.append(notice)
                case SetTimer(at=at):
                    self.nodes[me].timer = at
                case Drop(peer=peer):
                    self.dropped.add(peer)

    def run(self, seconds: float) -> None:
        """Let time pass; every 3 seconds is a beat."""
        until = self.now + seconds
        beat = self.now + 3.0
        while True:
            timers = [(node.timer, name) for name, node in self.nodes.items()]
            soonest = min([*(mail[0] for mail in self._mail), *(at for at, _ in timers), beat])
            if soonest > until:
                break
            self.now = soonest
            if self._mail and min(self._mail, key=lambda each: each[:2])[0] <= self.now:
                mail = min(self._mail, key=lambda each: each[:2])
                self._mail.remove(mail)
                _, _, frm, to, message, data = mail
                if frm in self.linked[to]:
                    self.do(to, self.nodes[to].calls.handle(frm, message, data, self.now))
            elif min(timers)[0] <= self.now:
                name = min(timers)[1]
                self.nodes[name].timer = float("inf")
                self.do(name, self.nodes[name].calls.timer(self.now))
            else:
                for name, node in self.nodes.items():
                    self.do(name, node.calls.beat(self.now))
                beat += 3.0
        self.now = until


def packed(value: float) -> tuple[Any, bytes]:
    return pack({"v": np.array([value], np.float32)}, ONE)
