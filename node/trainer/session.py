"""Session: the trainer's side of the line to its daemon, without torch.

    attach   -->  wait_begin -> state -> answer(method's generator) -> finish | idle  -->  wait_begin ...

`post` and `receive_answer` are the halves of `answer`, for work that goes on meanwhile
(node/trainer/overlapped_rounds.py).

A session holds the shared memory, turns states into slots and back, and answers a generator's asks over
the line. The trainer process runs one; `SwarmOptimizer` runs one inside a user's own loop.

The daemon clears the flags before every `Begin`; the trainer only reads them.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from shoal.crypto.accounting import Release
from shoal.crypto.keys import PeerId
from shoal.gossip import errors
from shoal.gossip.admission.charter import parse
from shoal.gossip.calls.asks import Attend, Call, Look, Next, Reply
from shoal.gossip.events import Vector
from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE, RunSpec
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.base import (
    AllReduce,
    Array,
    Averaged,
    Deferred,
    Exchange,
    Gather,
    Gathered,
    Here,
    Me,
    Method,
    Report,
    State,
    Steps,
    has_one_exchange,
    largest_exchange,
    why_not_gather,
    why_not_gather_secure,
)
from shoal.methods.errors import BadOption, Interrupted
from shoal.methods.params import copy_unless_there, read_state, write_state
from shoal.node.framing import Message
from shoal.node.storage.private_rounds import Mark, PrivateRounds
from shoal.node.trainer import ipc
from shoal.node.trainer.role_work import ROUND, RoleWork, ability

log = logging.getLogger(__name__)

T = TypeVar("T")

Waited: TypeAlias = Exchange | Call | Look | Next | Attend
"""The asks whose answers take time."""
ATTEND_EVERY: Final = 0.02
"""Seconds between two looks at whether the peers wait for a node that only hosts."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks at why no answer comes."""
_FAILURES: Final[Mapping[str, type[errors.GossipError]]] = {
    kind.__name__: kind
    for kind in (
        errors.GossipError,
        errors.TooFew,
        errors.LeftOut,
        errors.Mismatch,
        errors.NotFinite,
        errors.Unreachable,
    )
}


class LineLost(Exception):
    """The daemon is gone, or did not take us: nothing more will come over this line."""


class RunOver(LineLost):
    """The daemon wants no more rounds."""


class Own(Protocol):
    """What a model keeps to its node: trainer/unshared_file.py."""

    def restore(self) -> None:
        """There is a state on the disk to go on from."""
        ...

    def begun(self, round_: int) -> None:
        """A round begins."""
        ...

    def save(self, round_: int) -> None:
        """A state was made, which this round will begin from."""
        ...


class Session:
    """One trainer, attached to one daemon."""

    def __init__(
        self,
        line: ipc.Line,
        spec: RunSpec,
        method: Method,
        initial: State,
        private: PrivateRounds | None = None,
        learner: Any = None,
        own: Own | None = None,
    ) -> None:
        """Attach; afterwards `begun` says where to go on. `private`: what never leaves the node, by round.
        `own`: what of the model never does.

        `learner`: what a method with roles serves with; without it the node holds none. It may make noisy
        steps, which are told to the daemon.

        Raises:
            LineLost: the daemon has another trainer already, or is gone.
            BadOption: the node's user wants a role of it that the method does not have.
        """
        self.spec = spec
        self._private = private or private_rounds(method, initial, spec, None)
        self._own_parts = own
        self._away = 0
        self.work_seconds = 0.0
        """Spent computing since the last round ended, without the waiting for answers."""
        self._line = line
        refused = why_not_gather_secure(spec.method) if spec.secure else ""
        self._why_not_gather = refused or why_not_gather(spec.method, method, parse(spec.charter).mode)
        self._asked = 0
        self.on_alone: Callable[[], None] | None = None
        """Called now and again while an answer waits for company."""
        self._is_lent = has_one_exchange(method) and not spec.delay
        self._learner = learner
        self._roles = RoleWork(method, learner, self)
        exchange_numel = largest_exchange(method, spec.params_numel)
        self._segment, descriptor = ipc.Segment.create(spec.state_numel, exchange_numel)
        write_state(initial, self._segment.slots[0])
        try:
            line.send(
                ipc.Attach(
                    pid=os.getpid(),
                    spec=spec,
                    exchange_numel=exchange_numel,
                    mergeable=method.mergeable,
                    asks=method.asks,
                    needs_every_state=self._private.matches_state,
                    roles=self._roles.roles,
                    forms=dict(self._roles.forms),
                    ability=ability() if self._roles.roles else 0.0,
                ),
                (descriptor,),
            )
        except OSError:
            # A node that has a trainer closes at once, but says so before; it is read below.
            log.debug("the line was closed while attaching")
        finally:
            os.close(descriptor)
        answer = self._receive()
        if not isinstance(answer, ipc.Attached):
            raise LineLost("the node has a trainer already")
        self.restored = answer.restored
        """Whether the daemon had a state on disk."""
        self._peer = PeerId(answer.me)
        self._roles.attached(self._peer, answer.role, spec.method)
        # Without the state that they were made with, moments are in vain; duals find theirs by its hash.
        if self.restored or self._private.matches_state:
            self._private.restore()
        if self.restored and own is not None:
            own.restore()

    def wait_begin(self) -> ipc.Begin | None:
        """Wait for the next round; None when the daemon wants no more.

        Raises:
            LineLost: the daemon is gone.
        """
        match self._receive():
            case ipc.Begin() as begin:
                self._asked = 0
                self._roles.me = self.here(begin)
                return begin
            case ipc.Stop():
                self._private.settle()
                return None
            case other:
                raise LineLost(f"the daemon sent {type(other).__name__} between rounds")

    def state(self, begin: ipc.Begin) -> State:
        """Return the state that a round begins from, where it lies: it is there until the round ends."""
        slot, room = self._segment.slots[begin.slot], self._segment.slots[1 - begin.slot]
        spec = self.spec
        if self._own_parts is not None:
            self._own_parts.begun(begin.round)
        private, self._away = self._private.at(self._mark(begin.round, begin.slot))
        return read_state(slot, spec.params_numel, spec.shared, private, spec.buffers, room)

    @property
    def slots(self) -> tuple[Vector, Vector]:
        """The memory of the states, of which `Begin.slot` names one."""
        return self._segment.slots

    @property
    def lent(self) -> Vector | None:
        """Where the vector of a round's only all-reduce may be made: the memory that travels.

        Nothing for methods that did not say that they make one. It is ours from an answer to the next ask.
        """
        return self._segment.exchange if self._is_lent else None

    def here(self, begin: ipc.Begin) -> Me:
        """Return what this node knows of itself in the round whose state was read last."""
        of_roles = (self._roles.hosts, self._roles.only_hosts, self.is_hurried())
        return Me(self._peer, begin.round, self._away, *of_roles)

    def is_interrupted(self) -> bool:
        """Whether the daemon wants this round's work thrown away."""
        return bool(self._segment.flags[ipc.INTERRUPT])

    def is_hurried(self) -> bool:
        """Whether the local work should end at this step."""
        return bool(self._segment.flags[ipc.HURRY])

    def answer(self, begin: ipc.Begin, steps: Steps[T]) -> T:
        """Run a generator to its end, its asks answered by the daemon.

        Raises:
            GossipError: an ask failed, and the generator let it out.
            LineLost: the daemon is gone, or stops.
        """
        asking = Asking(self, begin, steps)
        while not asking.is_over:
            asking.take()
        return asking.result

    def has_word(self) -> bool:
        """Tell whether the daemon has said something that was not yet read."""
        return self._line.has_word()

    def finish(self, begin: ipc.Begin, state: State, report: Report) -> None:
        """Hand over the state after a round.

        Raises:
            LineLost: the daemon is gone.
        """
        slot = 1 - begin.slot
        # What is private outlives the slots.
        private = state.private
        if not isinstance(private, Deferred):
            private = {name: self._own(array) for name, array in private.items()}
        write_state(state, self._segment.slots[slot])
        # Before anyone learns of the state: if we are killed from here on, what belongs to it is there.
        if self._own_parts is not None:
            self._own_parts.save(begin.round + 1)
        self._private.made(self._mark(begin.round + 1, slot), private)
        self.send(
            ipc.Finished(
                round=begin.round,
                slot=slot,
                loss=report.loss,
                examples=report.examples,
                steps=report.steps,
                work_seconds=self.work_seconds,
                metrics=dict(report.metrics),
            )
        )
        self.work_seconds = 0.0

    def idle(self, begin: ipc.Begin, reason: str) -> None:
        """Say that the round ended without a new state.

        Raises:
            LineLost: the daemon is gone.
        """
        self.send(ipc.Idle(round=begin.round, reason=reason[:4000], work_seconds=self.work_seconds))
        self.work_seconds = 0.0

    def problem(self, source: str, text: str) -> None:
        """Let the node show what a person should see to; an empty text ends it.

        Raises:
            LineLost: the daemon is gone.
        """
        self.send(ipc.Problem(source=source[:4000], text=text[:4000]))

    def close(self) -> None:
        """Close the line; the daemon keeps the last state."""
        self._line.close()

    def post(self, begin: ipc.Begin, ask: Waited) -> None:
        """Send an ask on its way; `receive_answer` waits for what comes of it.

        Raises:
            BadTensors: tensors of a call do not fit the verb's form.
            BadOption: the method asks for more than it said it would, or gathers where it may not.
            LineLost: the daemon is gone.
        """
        match ask:
            case AllReduce() | Gather():
                self._post_exchange(begin, ask)
            case Call() | Look() | Next():
                self._call = self._roles.post(ask, ROUND)
            case Attend():
                self.send(ipc.AttendRound())

    def _post_exchange(self, begin: ipc.Begin, ask: Exchange) -> None:
        self._asked += 1
        index = self._asked - 1
        match ask:
            case AllReduce():
                numel = ask.vector.size
                if numel > self._segment.exchange.size:
                    raise BadOption(
                        f"method {self.spec.method} asks for {numel} numbers, but its traffic says that the"
                        f" largest all-reduce has {self._segment.exchange.size}; mend traffic"
                    )
                if ask.among:
                    self._check_scope(index)
                copy_unless_there(ask.vector, self._segment.exchange[:numel])
                message: Message = ipc.AskAllReduce(
                    round=begin.round,
                    index=index,
                    weight=ask.weight,
                    numel=numel,
                    kind=ask.kind,
                    tag=ask.tag,
                    discount=ask.discount,
                    among=ask.among,
                    masking=ask.masking,
                    released=self._released(),
                )
            case Gather():
                if self._why_not_gather:
                    raise BadOption(self._why_not_gather)
                message = ipc.AskGather(round=begin.round, index=index, body=ask.body, tag=ask.tag)
        self.send(message)

    def _check_scope(self, index: int) -> None:
        """Refuse an ask among some where none can be.

        Raises:
            BadOption: the run is secure, private, pairwise or of another engine, or a round begins with it.
        """
        spec, ask = self.spec, f"method {self.spec.method} averages among some of a group"
        if spec.secure:
            raise BadOption(f"{ask}, where few would see what each gives: leave out --secure")
        if spec.privacy != "none":
            raise BadOption(f"{ask}, where the noise of few would be too little: leave out --privacy")
        if spec.engine != NATIVE or PATTERNS[spec.exchange].has_own_states:
            raise BadOption(f"{ask}: leave out --engine {spec.engine} and --exchange {spec.exchange}")
        if index == 0:
            raise BadOption(f"{ask} before it asked all of it for anything: ask for the holders first")

    def _released(self) -> tuple[Release, ...]:
        """Return what noisy steps told since the last ask, those of rounds that failed included."""
        steps = getattr(self._learner, "private", None)
        return () if steps is None else tuple(steps.take())

    def reply(self, ask: Reply) -> None:
        """Answer calls.

        Raises:
            BadTensors: an answer does not fit its verb's form.
        """
        self._roles.reply(ask)

    def receive_answer(self, ask: Waited) -> Any:
        """Wait for the answer to the ask that was posted last.

        Raises:
            GossipError: it failed.
            Interrupted: the swarm is elsewhere, and a round with calls is to end.
            LineLost: the daemon is gone, or stops.
        """
        if isinstance(ask, Attend):
            return self._attend()
        if isinstance(ask, Call | Look | Next):
            return self._receive_of_roles(ask)
        match ask, self._receive():
            case AllReduce(), ipc.Averaged(contributors=contributors):
                mean: Vector = self._segment.exchange[: ask.vector.size]
                if not self._is_lent:
                    # The next ask of this round will write here.
                    mean = mean.copy()
                return Averaged(mean, tuple(PeerId(peer) for peer in contributors))
            case Gather(), ipc.Gathered(bodies=bodies, me=me):
                return Gathered(tuple((PeerId(peer), body) for peer, body in bodies), PeerId(me))
            case _, ipc.AskFailed(kind=kind, text=text):
                raise _FAILURES.get(kind, errors.GossipError)(text)
            case _, ipc.Stop():
                raise LineLost("the node stops")
            case _, other:
                raise LineLost(f"the daemon sent {type(other).__name__} as an answer")

    def _receive_of_roles(self, ask: Call | Look | Next) -> Any:
        """Wait for the answer to a call, past those of earlier rounds that were given up."""
        while True:
            message = self._receive()
            match message:
                case ipc.CallEnded(id=id_) | ipc.RoleFound(id=id_) if id_ != self._call:
                    continue
                case ipc.CallEnded() | ipc.RoleFound() | ipc.HandedOut():
                    answer = self._roles.answer_of(ask, message)
                case ipc.Stop():
                    raise LineLost("the node stops")
                case _:
                    raise LineLost(f"the daemon sent {type(message).__name__} as an answer")
            if self.is_interrupted():
                raise Interrupted("the swarm's state has taken the place of ours")
            if isinstance(answer, errors.GossipError):
                raise answer
            return answer

    def _attend(self) -> None:
        while not self.is_hurried():
            if self.is_interrupted():
                raise Interrupted("the swarm's state has taken the place of ours")
            if self._line.has_word(ATTEND_EVERY):
                message = self._line.receive()
                if not self._serve(message) and not isinstance(message, ipc.CallEnded):
                    raise LineLost(f"the daemon sent {type(message).__name__} to a node that hosts")

    def _own(self, array: Array) -> Array:
        """Return an array that no slot is behind."""
        shared = (*self._segment.slots, self._segment.exchange)
        return array.copy() if any(np.may_share_memory(array, each) for each in shared) else array

    def _mark(self, round_: int, slot: int) -> Mark:
        if not self._private.matches_state:
            return Mark(round_)
        return Mark(round_, state_hash(self._segment.slots[slot].data))

    def send(self, message: Message) -> None:
        """Tell the daemon.

        Raises:
            LineLost: it is gone.
        """
        try:
            self._line.send(message)
        except OSError as error:
            raise LineLost("the node is gone") from error

    def _receive(self) -> ipc.FromDaemon:
        """Wait for what is for the round; what is for a role is done meanwhile."""
        try:
            while True:
                while self.on_alone is not None and not self._line.has_word(LOOK_EVERY):
                    if self._segment.flags[ipc.ALONE]:
                        self.on_alone()
                message = self._line.receive()
                if not self._serve(message):
                    return message
        except (EOFError, OSError) as error:
            raise LineLost("the node is gone") from error

    def _serve(self, message: ipc.FromDaemon) -> bool:
        """Go on with what this node serves, if a message is for that."""
        is_served = self._roles.take(message)
        self.work_seconds += self._roles.work_seconds
        self._roles.work_seconds = 0.0
        return is_served


def private_rounds(method: Method, initial: State, spec: RunSpec, folder: Path | None) -> PrivateRounds:
    """Return the private states of a method's run; `folder`: where they are kept."""
    matches_state = bool(getattr(method, "private_matches_state", False))
    return PrivateRounds(initial.private, spec, folder, matches_state=matches_state)


class Asking(Generic[T]):
    """A generator whose ask is with the daemon, until it has ended."""

    def __init__(self, session: Session, begin: ipc.Begin, steps: Steps[T]) -> None:
        """Let the generator compute up to its first ask.

        Raises:
            LineLost: the daemon is gone.
        """
        self._session, self._begin, self._steps = session, begin, steps
        self.is_over = False
        self._go_on(None)

    @property
    def result(self) -> T:
        """What the generator returned."""
        return self._result

    def take(self) -> None:
        """Wait for the answer, and let the generator compute up to its next ask or its end.

        Raises:
            GossipError: the ask failed, and the generator let it out.
            LineLost: the daemon is gone, or stops.
        """
        try:
            given: Any = self._session.receive_answer(self._ask)
        except errors.GossipError as error:
            given = error
        self._go_on(given)

    def _go_on(self, given: Any) -> None:
        steps, started = self._steps, time.monotonic()
        try:
            ask = steps.throw(given) if isinstance(given, errors.GossipError) else steps.send(given)
            while isinstance(ask, Here | Reply):
                if isinstance(ask, Reply):
                    self._session.reply(ask)
                    ask = steps.send(None)
                else:
                    ask = steps.send(self._session.here(self._begin))
        except StopIteration as end:
            self._result: T = end.value
            self.is_over = True
            return
        finally:
            self._session.work_seconds += time.monotonic() - started
        self._ask = ask
        self._session.post(self._begin, ask)
