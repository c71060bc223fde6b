"""Lockstep with roles: rounds and calls of N peers in one thread, without a network.

Every generator goes on until it has to wait. Calls are answered before anything else; asks that all peers
answer, once nothing else can move. A wait that a deadline ends on a network ends here when nobody can move
otherwise, so that a test with lost peers takes no time. Tensors travel as their form says.

    play = Play({A: rounds_of_a, B: rounds_of_b}, {B: {"host": serving}}, method.verbs(learner))
    ended = play.run()
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import (
    Answer,
    Attend,
    Call,
    Count,
    Everyone,
    Holder,
    Holders,
    Look,
    Next,
    Refusal,
    Reply,
    Request,
    Requests,
)
from shoal.gossip.calls.forms import Form, Tensors, pack, unpack
from shoal.gossip.errors import GossipError, Unanswered
from shoal.methods.base import Exchange, Here, Me, Steps
from shoal.methods.lockstep import answers_of

T = TypeVar("T")
Key = tuple[PeerId, str]
"""A generator: its peer, and its role; empty for a round."""
Asked = tuple[PeerId, PeerId, str, bytes]
"""Caller, callee, verb and step."""


@dataclass(slots=True)
class _Task:
    """A generator and what it waits for."""

    steps: Steps[Any]
    ask: Any = None
    given: Any = None
    is_ready: bool = True
    choices: deque[PeerId] = field(default_factory=deque)
    """Of a call: the peers not tried so far."""
    refusals: tuple[str, ...] = ()
    """Of a call: what those said who were tried."""


@dataclass
class Played(Generic[T]):
    """What became of the generators of a round."""

    results: dict[PeerId, T] = field(default_factory=dict)
    failed: dict[PeerId, GossipError] = field(default_factory=dict)
    """Peers whose round let a `GossipError` out."""
    calls: Counter[str] = field(default_factory=Counter)
    """Calls made, by verb, each choice of peer counted."""
    sent: Counter[tuple[PeerId, str]] = field(default_factory=Counter)
    """Bytes of tensors, by who sent them and the verb; of calls and of answers."""
    deadlines: int = 0
    """Waits that ended because nobody could move otherwise."""
    asked: list[tuple[Exchange, ...]] = field(default_factory=list)
    """The asks that all peers answer, by turn."""


class Play(Generic[T]):
    """Peers with roles. Those that serve go on from round to round: see `rounds`."""

    def __init__(
        self,
        rounds: Mapping[PeerId, Steps[T]],
        serving: Mapping[PeerId, Mapping[str, Steps[None]]],
        forms: Mapping[str, Form],
        *,
        roles: tuple[str, ...] = (),
        here: Mapping[PeerId, Me] | None = None,
        lost: Mapping[PeerId, int] | None = None,
        silent: Mapping[PeerId, int] | None = None,
    ) -> None:
        """`serving`: the generators of those that hold roles, by peer and role; they need not be of `rounds`.

        `roles`: those of the run; all that somebody holds unless given. `here`: what peers are told of
        themselves. `lost`: the peer dies when it is to be given so many batches of calls and one more, and
        with it its round. `silent`: from then on it answers no call, but its round goes on.
        """
        self._tasks: dict[Key, _Task] = {(peer, ""): _Task(steps) for peer, steps in rounds.items()}
        for peer, each in serving.items():
            for role, steps in each.items():
                self._tasks[peer, role] = _Task(steps)
        self.holders = {role: sorted(p for p, each in serving.items() if role in each) for role in roles}
        for peer, each in sorted(serving.items()):
            for role in each:
                if peer not in self.holders.setdefault(role, []):
                    self.holders[role].append(peer)
        self._serving, self._forms = serving, forms
        self._here, self._lost, self._silent = dict(here or {}), dict(lost or {}), dict(silent or {})
        self._batches: Counter[PeerId] = Counter()
        self._queued: dict[PeerId, list[Request]] = {}
        self._expected: dict[tuple[PeerId, str], set[PeerId]] = {}
        self._last: set[Asked] = set()
        self.acted: Counter[Asked] = Counter()
        """How often each call was handed to its callee: never more than once."""
        self._answers: dict[Asked, Tensors | Refusal] = {}
        self.gone: set[PeerId] = set()
        self.played: Played[T] = Played()

    def rounds(self, rounds: Mapping[PeerId, Steps[T]], here: Mapping[PeerId, Me] | None = None) -> Played[T]:
        """Run a further round; those that serve go on from where they are. Peers that died are left out."""
        self._here |= dict(here or {})
        self.played = Played()
        for peer, steps in rounds.items():
            if peer not in self.gone:
                self._tasks[peer, ""] = _Task(steps)
        return self.run()

    def run(self) -> Played[T]:
        """Run until the rounds of all peers have ended."""
        while any(not role for _, role in self._tasks):
            if not (self._go_on() or self._hand_out() or self._meet() or self._end_waits()):
                stuck = {key: task.ask for key, task in self._tasks.items() if not key[1]}
                raise AssertionError(f"nothing ends these rounds: {stuck}")
        return self.played

    # --- generators -------------------------------------------------------------------------------

    def _go_on(self) -> bool:
        ready = [key for key in sorted(self._tasks) if self._tasks[key].is_ready]
        for key in ready:
            if key in self._tasks:
                self._advance(key, self._tasks[key])
        return bool(ready)

    def _advance(self, key: Key, task: _Task) -> None:
        peer, role = key
        given, task.given, task.is_ready = task.given, None, False
        try:
            task.ask = task.steps.throw(given) if isinstance(given, GossipError) else task.steps.send(given)
        except StopIteration as stop:
            assert not role, f"{peer} stopped serving as {role}"
            self.played.results[peer] = stop.value
            del self._tasks[key]
            return
        except GossipError as error:
            if role:
                raise
            self.played.failed[peer] = error
            del self._tasks[key]
            return
        self._take(key, task)

    def _take(self, key: Key, task: _Task) -> None:
        peer = key[0]
        match task.ask:
            case Here():
                hosts = tuple(sorted(self._serving.get(peer, {})))
                _give(task, self._here.get(peer) or Me(peer, 0, hosts=hosts))
            case Look(role=role):
                found = tuple(Holder(each, 1.0, 0.0) for each in self._live(role))
                _give(task, Holders(found))
            case Call() as call:
                peers = call.to
                if isinstance(peers, str):
                    peers = tuple(self._live(peers)) if peers in self.holders else (PeerId(peers),)
                task.choices, task.refusals = deque(peers), ()
                self._call(peer, task, call)
            case Reply(answers=answers):
                self._reply(peer, answers)
                _give(task, None)

    def _live(self, role: str) -> list[PeerId]:
        return [peer for peer in self.holders.get(role, []) if peer not in self.gone]

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, me: PeerId, task: _Task, call: Call) -> None:
        """Ask the next choice that is there."""
        form = self._forms[call.verb]
        try:
            shapes, data = pack(call.tensors, form.takes)
        except GossipError as error:
            _give(task, error)
            return
        while task.choices:
            to = task.choices[0]
            asked = (me, to, call.verb, call.step)
            self.played.calls[call.verb] += 1
            self.played.sent[me, call.verb] += len(data)
            if to not in self.gone and to in self._serving:
                known = self._answers.get(asked)
                if known is not None and not isinstance(known, Refusal):
                    _give(task, Answer(to, known))
                    return
                if known is None:
                    self._queue(to, Request(me, call.verb, call.step, unpack(shapes, data, form.takes)))
                    if call.is_last:
                        self._last.add(asked)
                    if form.gives is None:
                        _give(task, None)
                    return
            task.choices.popleft()
        why = "; ".join(task.refusals) or "no peer answered"
        _give(task, None if form.gives is None else Unanswered(f"{call.verb}: {why}"))

    def _queue(self, to: PeerId, request: Request) -> None:
        """Queue a call that its callee was not given yet."""
        queue = self._queued.setdefault(to, [])
        name = (request.peer, request.verb, request.step)
        if not self.acted[request.peer, to, *name[1:]] and name not in {
            (r.peer, r.verb, r.step) for r in queue
        }:
            queue.append(request)

    def _reply(self, me: PeerId, answers: tuple[tuple[Request, Tensors | Refusal], ...]) -> None:
        for request, answer in answers:
            form = self._forms[request.verb]
            if form.gives is None:
                continue
            told = answer
            if not isinstance(answer, Refusal):
                shapes, data = pack(answer, form.gives)
                self.played.sent[me, request.verb] += len(data)
                told = unpack(shapes, data, form.gives)
            self._answers[request.peer, me, request.verb, request.step] = told
            for (peer, _), task in self._tasks.items():
                if peer != request.peer or not self._waits_for(task, me, request):
                    continue
                if isinstance(told, Refusal):
                    task.choices.popleft()
                    task.refusals += (told.reason,)
                    self._call(peer, task, task.ask)
                else:
                    _give(task, Answer(me, told))

    @staticmethod
    def _waits_for(task: _Task, me: PeerId, request: Request) -> bool:
        ask = task.ask
        if not isinstance(ask, Call) or task.is_ready or not task.choices:
            return False
        return (ask.verb, ask.step, task.choices[0]) == (request.verb, request.step, me)

    def _hand_out(self, *, at_deadline: bool = False) -> bool:
        """Give those that wait for calls what has come, if it is all; `at_deadline`: or anything at all."""
        moved = False
        for (peer, _), task in sorted(self._tasks.items()):
            if task.is_ready or not isinstance(task.ask, Next) or peer in self.gone:
                continue
            chosen = self._chosen(peer, task.ask)
            is_complete = self._is_complete(peer, task.ask, chosen)
            is_named = isinstance(task.ask.until, Everyone) and bool(task.ask.until.among)
            if (chosen or is_named) and (is_complete or at_deadline):
                self._give_calls(peer, task, chosen, is_complete)
                moved = True
                if at_deadline:
                    self.played.deadlines += 1
                    break
        return moved

    def _chosen(self, peer: PeerId, ask: Next) -> list[Request]:
        """Return what would be handed out: of each peer and verb the call that came first."""
        first: dict[tuple[PeerId, str], Request] = {}
        for each in self._queued.get(peer, []):
            if each.verb in ask.verbs:
                first.setdefault((each.peer, each.verb), each)
        most = ask.until.n if isinstance(ask.until, Count) else len(first)
        return sorted(list(first.values())[:most], key=lambda each: (each.peer, each.verb, each.step))

    def _is_complete(self, peer: PeerId, ask: Next, chosen: list[Request]) -> bool:
        if isinstance(ask.until, Count):
            return len(chosen) >= ask.until.n
        expected = {p for verb in ask.verbs for p in self._expected.get((peer, verb), set())}
        return set(ask.until.among or expected) - self.gone <= {each.peer for each in chosen}

    def _give_calls(self, peer: PeerId, task: _Task, chosen: list[Request], is_complete: bool) -> None:
        self._batches[peer] += 1
        if self._batches[peer] > self._lost.get(peer, self._batches[peer]):
            self._die(peer)
            return
        ask = task.ask
        for each in chosen:
            self._queued[peer].remove(each)
            self.acted[each.peer, peer, each.verb, each.step] += 1
        for verb in ask.verbs:
            called = [each for each in chosen if each.verb == verb]
            going_on = {each.peer for each in called if (each.peer, peer, verb, each.step) not in self._last}
            self._expected[peer, verb] = going_on
        if self._is_silent(peer):
            task.ask = None
            return
        _give(task, Requests(tuple(chosen), is_complete))

    def _die(self, peer: PeerId) -> None:
        """Take a peer out, and let those that wait for it ask their next choice."""
        self.gone.add(peer)
        for key in [key for key in self._tasks if key[0] == peer]:
            self._tasks.pop(key).steps.close()
        for (caller, _), task in sorted(self._tasks.items()):
            if isinstance(task.ask, Call) and not task.is_ready and task.choices and task.choices[0] == peer:
                self._call(caller, task, task.ask)

    # --- what all peers answer --------------------------------------------------------------------

    def _meet(self) -> bool:
        """Answer the asks of all rounds at once, where no round waits for anything else."""
        rounds = {peer: task for (peer, role), task in self._tasks.items() if not role}
        attending = [task for task in rounds.values() if isinstance(task.ask, Attend) and not task.is_ready]
        meeting = {peer: task for peer, task in rounds.items() if isinstance(task.ask, Exchange)}
        if len(attending) + len(meeting) < len(rounds):
            return False
        for task in attending:
            _give(task, None)
        if attending:
            return True
        asks = {peer: task.ask for peer, task in meeting.items()}
        self.played.asked.append(tuple(asks.values()))
        answers = answers_of(asks)
        for peer, task in meeting.items():
            _give(task, answers[peer])
        return bool(meeting)

    def _end_waits(self) -> bool:
        """Let a deadline pass: of who calls the silent, or of a host that waits for more calls."""
        waiting = [
            (peer, task)
            for (peer, _), task in sorted(self._tasks.items())
            if isinstance(task.ask, Call) and not task.is_ready
        ]
        of_silent = [each for each in waiting if self._is_silent(each[1].choices[0])]
        if not of_silent and self._hand_out(at_deadline=True):
            return True
        for peer, task in (of_silent or waiting)[:1]:
            self.played.deadlines += 1
            task.choices.popleft()
            self._call(peer, task, task.ask)
            return True
        return False

    def _is_silent(self, peer: PeerId) -> bool:
        return self._batches[peer] > self._silent.get(peer, self._batches[peer])


def _give(task: _Task, given: Any) -> None:
    """Let a generator go on with an answer, or with an error that is thrown in."""
    task.given, task.is_ready, task.choices = given, True, deque()
