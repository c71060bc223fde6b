"""Answering: the calls that come to this node, from their arrival to their answer.

    Call --not within its form, no such verb, no role--> counted, refused
         --known step--> the answer again, or nothing while it is being made
         --queue full--> refused as busy
         --> queue of its peer and verb --a `Next` is satisfied--> handed out --`reply`--> answer, kept

A step is named by (peer, verb, step). One that was handed out is never handed out again while it is among the
last `MAX_STEPS` of its peer, whether its answer is still kept or not. A `Next` waits for others of a step as
long as they took before (gossip/deadlines.py).

What is kept is bounded: per peer and verb by `MAX_QUEUED` calls, over all by bytes, and peers by `MAX_PEERS`.
Where bytes are short, the peer that has most of them gives way, so that no peer's calls shut out another's.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.calls.asks import Count, Everyone, Next
from shoal.gossip.calls.forms import Form, check
from shoal.gossip.deadlines import SHORTEST_TIMEOUT, Deadline
from shoal.gossip.events import Data
from shoal.gossip.messages import Answer, Call, Shapes, Unserved

MAX_QUEUED: Final = 4
"""Calls of one peer and verb that wait to be handed out."""
MAX_QUEUED_BYTES: Final = 32 << 20
"""Of all calls that wait, and of all that are handed out at once."""
MAX_KEPT_BYTES: Final = 32 << 20
"""Of answers that are kept for callers that ask again."""
MAX_STEPS: Final = 256
"""Steps of a peer that are remembered, so that none acts twice."""
MAX_PEERS: Final = 128
"""Peers whose steps are remembered."""
INFINITY: Final = float("inf")

BUSY: Final = "busy"
NO_ROLE: Final = "holds no role"
NO_VERB: Final = "unknown verb"
OTHER_RUN: Final = "call of another run"
FORGOTTEN: Final = "acted before, and its answer is no longer kept"

StepName = tuple[PeerId, str, bytes]
"""Caller, verb and step."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that came."""

    peer: PeerId
    verb: str
    step: bytes
    shapes: Shapes
    data: Data
    is_last: bool
    since: float

    @property
    def name(self) -> StepName:
        """Which step it is."""
        return self.peer, self.verb, self.step


@dataclass(frozen=True, slots=True)
class HandedOut:
    """The answer to a `Next`: what the trainer acts on."""

    role: str
    calls: tuple[Waiting, ...]
    is_complete: bool


@dataclass(slots=True)
class _Wanted:
    """A `Next` that is not answered."""

    ask: Next
    since: float


Told = Answer | Unserved
"""What a caller is told; tensors beside it."""
Said = tuple[PeerId, Told, Data]
"""Who is told what."""


@dataclass(slots=True)
class _Peer:
    """What is remembered of one peer's steps, the oldest first."""

    steps: OrderedDict[tuple[str, bytes], tuple[Told, Data] | None] = field(default_factory=OrderedDict)
    """What it was told; None while the trainer has it, or where it was told and is no longer kept."""
    pending: set[tuple[str, bytes]] = field(default_factory=set)
    """Of these, what the trainer has not answered."""


class Answering:
    """The callee's side of one node. See the module's docstring."""

    def __init__(
        self, me: PeerId, patience: float, linked: AbstractSet[PeerId], admission: Admission
    ) -> None:
        """`linked`: the peers with links, as they are at any time; `admission`: counts what is dropped."""
        self._me, self._patience, self._linked, self._admission = me, patience, linked, admission
        self._run, self._forms = b"", dict[str, Form]()
        self.roles: set[str] = set()
        """Those that this node holds."""
        self._queue: list[Waiting] = []
        self._queued, self._kept_of = Counter[PeerId](), Counter[PeerId]()
        """Bytes of calls that wait, and of answers that are kept, by peer."""
        self._wanted: dict[str, _Wanted] = {}
        """By role."""
        self._peers: OrderedDict[PeerId, _Peer] = OrderedDict()
        self._kept: OrderedDict[StepName, int] = OrderedDict()
        """Bytes of the answers that are kept, the oldest first."""
        self._expected: dict[str, set[PeerId]] = {}
        """By verb, whose further calls are waited for."""
        self._barriers: dict[str, Deadline] = {}

    def attach(self, run: bytes, forms: Mapping[str, Form]) -> None:
        """A trainer is there: the same that left may be back, so its steps are known still."""
        if run != self._run:
            self._peers.clear()
            self._kept.clear()
            self._kept_of.clear()
        self._run, self._forms = run, dict(forms)
        self.detach()

    def detach(self) -> list[tuple[PeerId, Told]]:
        """The trainer is gone: nothing that it has or that waits will be answered by it."""
        left: list[tuple[PeerId, Told]] = [
            (each.peer, self._unserved(each.verb, each.step, NO_ROLE)) for each in self._queue
        ]
        for peer, known in self._peers.items():
            for verb, step in sorted(known.pending):
                left.append((peer, self._unserved(verb, step, FORGOTTEN)))
            known.pending.clear()
        self._queue = []
        self._queued.clear()
        self._wanted, self._expected = {}, {}
        self.roles.clear()
        return left

    # --- calls ------------------------------------------------------------------------------------

    def called(self, peer: PeerId, message: Call, data: Data, now: float) -> list[Said]:
        """Take a call; returns what its peer is told at once, and whoever gives way to it.

        Raises:
            RemoteViolation: it breaks its form, as no correct peer of the run does.
        """
        form = self._forms.get(message.verb)
        if message.run != self._run or form is None:
            # A peer may learn late that our trainer runs something else now.
            return self._refuse(peer, message, OTHER_RUN if message.run != self._run else NO_VERB)
        check(message.shapes, len(data), form.takes)
        key = (message.verb, message.step)
        known = self._peers.get(peer)
        if known is not None and key in known.steps:
            if key in known.pending:
                return []
            told = known.steps[key]
            return self._refuse(peer, message, FORGOTTEN) if told is None else [(peer, *told)]
        if not self.roles:
            return self._refuse(peer, message, NO_ROLE)
        of_peer = [each for each in self._queue if each.peer == peer and each.verb == message.verb]
        if any(each.step == message.step for each in of_peer):
            return []
        pushed = self._make_room(peer, len(data)) if len(of_peer) < MAX_QUEUED else None
        if pushed is None:
            return self._refuse(peer, message, BUSY)
        # The frame's memory is the network's to use again.
        self._queue.append(Waiting(peer, *key, message.shapes, bytes(data), message.is_last, now))
        self._queued[peer] += len(data)
        return pushed

    def lost(self, peer: PeerId) -> None:
        """A peer is gone: it is waited for no more, and what it asked for is not begun."""
        gone = [each for each in self._queue if each.peer == peer]
        self._unqueue(gone)
        for expected in self._expected.values():
            expected.discard(peer)

    def _make_room(self, peer: PeerId, size: int) -> list[Said] | None:
        """Push out the newest calls of whoever has most bytes, for a call of this size; None: it may not.

        No peer gives way to one that would then have as much itself.
        """
        free = MAX_QUEUED_BYTES - self._queued.total()
        left, pushed = self._queued.copy(), list[Waiting]()
        while size > free + sum(len(each.data) for each in pushed):
            most = max(left, key=lambda other: (left[other], other), default=peer)
            if left[most] <= left[peer] + size or most == peer:
                return None
            newest = next(each for each in reversed(self._queue) if each.peer == most and each not in pushed)
            left[most] -= len(newest.data)
            pushed.append(newest)
        self._unqueue(pushed)
        said: list[Said] = []
        for each in pushed:
            self._admission.count(f"call refused: {BUSY}")
            said.append((each.peer, self._unserved(each.verb, each.step, BUSY), b""))
        return said

    def _unqueue(self, calls: Iterable[Waiting]) -> None:
        """Take calls out of the queue."""
        names = {each.name for each in calls}
        for each in self._queue:
            if each.name in names:
                self._queued[each.peer] -= len(each.data)
        self._queue = [each for each in self._queue if each.name not in names]
        self._queued += Counter()  # forgets those that have none

    def _refuse(self, peer: PeerId, message: Call, reason: str) -> list[Said]:
        self._admission.count(f"call refused: {reason}")
        return [(peer, self._unserved(message.verb, message.step, reason), b"")]

    def _unserved(self, verb: str, step: bytes, reason: str) -> Unserved:
        return Unserved(self._run, verb, step, reason)

    # --- the trainer ------------------------------------------------------------------------------

    def want(self, role: str, ask: Next, now: float) -> None:
        """The trainer asks for calls, for one of its roles; `ready` hands them out."""
        self._wanted[role] = _Wanted(ask, now)

    def leave(self, role: str) -> None:
        """The trainer serves a role no longer."""
        self.roles.discard(role)
        self._wanted.pop(role, None)

    def ready(self, now: float) -> list[HandedOut]:
        """Return what is to be handed out now."""
        handed = []
        for role in sorted(self._wanted):
            wanted = self._wanted[role]
            chosen = self._chosen(wanted.ask)
            lacks = self._lacks(wanted.ask, chosen)
            if not self._is_due(wanted, chosen, lacks, now):
                continue
            del self._wanted[role]
            self._hand_out(wanted, chosen, lacks, now)
            handed.append(HandedOut(role, tuple(chosen), not lacks))
        return handed

    @property
    def due(self) -> float:
        """When a wait ends, if nothing more comes."""
        ends = [self._ends(wanted, self._chosen(wanted.ask)) for wanted in self._wanted.values()]
        return min(ends, default=INFINITY)

    def reply(
        self, name: StepName, shapes: Shapes, data: Data, refusal: str = ""
    ) -> tuple[Told, Data] | None:
        """Take the trainer's answer to a call; returns what the caller is told, or nothing of a push.

        An answer to what nobody asked, or to what was answered, is dropped.
        """
        peer, verb, step = name
        known, form = self._peers.get(peer), self._forms.get(verb)
        if known is None or form is None or (verb, step) not in known.pending:
            return None
        known.pending.discard((verb, step))
        if form.gives is None:
            return None
        told: Told = Unserved(self._run, verb, step, refusal[:100])
        if not refusal:
            told = Answer(self._run, verb, step, shapes)
        known.steps[verb, step] = told, data
        self._kept[name] = len(data)
        self._kept_of[peer] += len(data)
        while self._kept_of.total() > MAX_KEPT_BYTES:
            most = max(self._kept_of, key=lambda other: (self._kept_of[other], other))
            self._forget_answer(next(each for each in self._kept if each[0] == most))
        return told, data

    # --- inside -----------------------------------------------------------------------------------

    def _chosen(self, ask: Next) -> list[Waiting]:
        """Return what would be handed out: of each peer and verb the call that came first.

        Of too many, those whose peers have waited longest since they were served.
        """
        first: dict[tuple[PeerId, str], Waiting] = {}
        for each in self._queue:
            if each.verb in ask.verbs:
                first.setdefault((each.peer, each.verb), each)
        chosen = list(first.values())
        if isinstance(ask.until, Count):
            served = {peer: place for place, peer in enumerate(self._peers)}
            chosen = sorted(chosen, key=lambda each: served.get(each.peer, -1))[: ask.until.n]
        return sorted(chosen, key=lambda each: each.name)

    def _lacks(self, ask: Next, chosen: list[Waiting]) -> bool:
        """Tell whether more calls are waited for."""
        if isinstance(ask.until, Count):
            return len(chosen) < ask.until.n
        expected = ask.until.among or self._expected_of(ask.verbs)
        here = {peer for peer in expected if peer == self._me or peer in self._linked}
        return not here <= {each.peer for each in chosen}

    def _expected_of(self, verbs: Iterable[str]) -> set[PeerId]:
        return {peer for verb in verbs for peer in self._expected.get(verb, ())}

    def _is_due(self, wanted: _Wanted, chosen: list[Waiting], lacks: bool, now: float) -> bool:
        if not chosen and not _names_peers(wanted.ask):
            return False
        return not lacks or now >= self._ends(wanted, chosen)

    def _ends(self, wanted: _Wanted, chosen: list[Waiting]) -> float:
        """Return when the wait for more ends."""
        if _names_peers(wanted.ask):
            return wanted.since + self._barrier(wanted.ask).seconds()
        since = min((each.since for each in chosen), default=INFINITY)
        return max(since, wanted.since) + self._barrier(wanted.ask).seconds()

    def _barrier(self, ask: Next) -> Deadline:
        name = " ".join(ask.verbs)
        if name not in self._barriers:
            self._barriers[name] = Deadline(self._patience, floor=SHORTEST_TIMEOUT)
        return self._barriers[name]

    def _hand_out(self, wanted: _Wanted, chosen: list[Waiting], lacks: bool, now: float) -> None:
        barrier = self._barrier(wanted.ask)
        if lacks:
            barrier.miss()
        elif _names_peers(wanted.ask):
            barrier.observe(now - wanted.since)
        else:
            barrier.observe(now - max(wanted.since, min(each.since for each in chosen)))
        self._unqueue(chosen)
        for verb in wanted.ask.verbs:
            called = [each for each in chosen if each.verb == verb]
            self._expected[verb] = {each.peer for each in called if not each.is_last}
        for each in chosen:
            self._remember(each)

    def _remember(self, call: Waiting) -> None:
        """Take note that a step is acted upon, and forget the oldest of its peer, and of the peers."""
        known = self._peers.pop(call.peer, None) or _Peer()
        self._peers[call.peer] = known
        known.steps[call.verb, call.step] = None
        known.pending.add((call.verb, call.step))
        while len(known.steps) > MAX_STEPS:
            self._forget(call.peer, known, next(iter(known.steps)))
        while len(self._peers) > MAX_PEERS:
            strangers = (peer for peer in self._peers if peer not in self._linked and peer != self._me)
            peer = next(strangers, next(iter(self._peers)))
            for key in list(self._peers[peer].steps):
                self._forget(peer, self._peers[peer], key)
            del self._peers[peer]

    def _forget(self, peer: PeerId, known: _Peer, key: tuple[str, bytes]) -> None:
        self._forget_answer((peer, *key))
        known.pending.discard(key)
        known.steps.pop(key, None)

    def _forget_answer(self, name: StepName) -> None:
        """Keep the step, and not what was said of it."""
        self._kept_of[name[0]] -= self._kept.pop(name, 0)
        if not self._kept_of[name[0]]:
            del self._kept_of[name[0]]
        known = self._peers.get(name[0])
        if known is not None and name[1:] in known.steps:
            known.steps[name[1:]] = None

    @property
    def n_queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    @property
    def n_bytes(self) -> int:
        """Bytes of tensors of calls that wait and of answers that are kept."""
        return self._queued.total() + self._kept_of.total()


def _names_peers(ask: Next) -> bool:
    return isinstance(ask.until, Everyone) and bool(ask.until.among)
