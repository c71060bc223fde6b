"""RoleWork: the trainer's side of calls: its own, and the generators that serve for the roles it holds.

A session hands every message of the daemon to `take` first. Generators that serve go on in there, so they run
whenever the round waits for the daemon. Torch-free.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import (
    Answer,
    Call,
    Count,
    Holders,
    Look,
    Next,
    Refusal,
    Reply,
    Request,
    Requests,
)
from shoal.gossip.calls.forms import Form, pack, unpack
from shoal.gossip.errors import GossipError, RemoteViolation, Unanswered
from shoal.gossip.messages import Shapes
from shoal.methods.base import Here, Me, Method, Steps
from shoal.methods.errors import BadOption
from shoal.methods.roles.serves import Serves
from shoal.node.framing import Message
from shoal.node.trainer import ipc

log = logging.getLogger(__name__)

ROUND: Final = ""
"""Stands for the round where else the name of a role does."""
FREE: Final = ("auto", "client")
"""What a user may choose of a method without roles; see `RunConfig.role`."""


def ability() -> float:
    """Return how much this machine can compute beside others: its processors that we may use."""
    return float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class ToDaemon(Protocol):
    """The session, as far as roles need it."""

    def send(self, message: Message) -> None:
        """Tell the daemon."""
        ...

    def problem(self, source: str, text: str) -> None:
        """Say what a person should see to, by its source."""
        ...


@dataclass(slots=True)
class _Serving:
    """A generator that serves, and the ask that it waits with."""

    steps: Steps[None]
    ask: Any = None
    id: int = 0


class RoleWork:
    """See the module's docstring."""

    def __init__(
        self,
        method: Method,
        learner: Any,
        line: ToDaemon,
    ) -> None:
        """`learner`: what the method serves with; None: it does not."""
        self._learner, self._line = learner, line
        self._method = method if isinstance(method, Serves) and learner is not None else None
        self.forms: Mapping[str, Form] = dict(self._method.verbs(learner)) if self._method else {}
        self.roles = tuple(self._method.roles) if self._method else ()
        self.choice = "auto"
        """What the user of this node wants of it."""
        self.me = Me(PeerId(""), 0)
        """What the generators are told of this node."""
        self.work_seconds = 0.0
        """Spent serving; whoever reads it sets it back."""
        self._serving: dict[str, _Serving] = {}
        self._last_id = 0

    def attached(self, me: PeerId, choice: str, name: str) -> None:
        """The daemon took us on. `choice`: as `RunConfig.role` has it; `name`: the method's.

        Raises:
            BadOption: the method has no such role.
        """
        self.choice, self.me = choice, Me(me, 0, only_hosts=choice not in FREE)
        if choice in FREE or choice in self.roles or (choice == "host" and self.roles):
            return
        some = ", ".join(dict.fromkeys((*FREE, *(("host",) if self.roles else ()), *self.roles)))
        raise BadOption(f"method {name} has no role {choice}: give --role one of {some}")

    @property
    def hosts(self) -> tuple[str, ...]:
        """The roles that this node holds."""
        return tuple(sorted(self._serving))

    @property
    def only_hosts(self) -> bool:
        """Whether this node does nothing else."""
        return self.choice not in FREE

    # --- what generators ask ----------------------------------------------------------------------

    def post(self, ask: Call | Look | Next, role: str) -> int:
        """Send an ask on its way; returns its id. `role`: of the generator, or `ROUND`.

        Raises:
            BadTensors: the tensors do not fit the verb's form.
        """
        self._last_id += 1
        match ask:
            case Call():
                form = self._form(ask.verb)
                shapes, data = pack(ask.tensors, form.takes)
                self._line.send(
                    ipc.CallPeer(
                        id=self._last_id,
                        peers=() if isinstance(ask.to, str) else ask.to,
                        name=ask.to if isinstance(ask.to, str) else "",
                        verb=ask.verb,
                        step=ask.step,
                        shapes=shapes,
                        data=data,
                        is_last=ask.is_last,
                    )
                )
            case Look():
                self._line.send(ipc.LookForRole(id=self._last_id, role=ask.role))
            case Next():
                self._line.send(
                    ipc.WantCalls(
                        role=role,
                        verbs=ask.verbs,
                        count=ask.until.n if isinstance(ask.until, Count) else 0,
                        among=() if isinstance(ask.until, Count) else ask.until.among,
                    )
                )
        return self._last_id

    def reply(self, ask: Reply) -> None:
        """Send answers.

        Raises:
            BadTensors: one does not fit its verb's form.
        """
        answers = []
        for request, given in ask.answers:
            shapes: Shapes = ()
            data, refusal = b"", ""
            gives = self._form(request.verb).gives
            if isinstance(given, Refusal):
                refusal = given.reason or "refused"
            elif gives is not None:
                shapes, data = pack(given, gives)
            answers.append((request.peer, request.verb, request.step, shapes, data, refusal[:100]))
        self._line.send(ipc.AnswerCalls(answers=tuple(answers)))

    def answer_of(self, ask: Call | Look | Next, message: ipc.ForRoles) -> Any:
        """Return what a generator is told, be it an error to be thrown in."""
        match ask, message:
            case Call(), ipc.CallEnded(failure=failure) if failure:
                return Unanswered(f"{ask.verb}: {failure}")
            case Call(), ipc.CallEnded(peer=""):
                return None
            case Call(), ipc.CallEnded():
                gives = self._form(ask.verb).gives
                assert gives is not None
                try:
                    return Answer(PeerId(message.peer), unpack(message.shapes, message.data, gives))
                except RemoteViolation as violation:
                    return Unanswered(f"{ask.verb}: {message.peer[-6:]}: {violation}")
            case Look(), ipc.RoleFound(holders=holders):
                return Holders(holders)
            case Next(), ipc.HandedOut():
                return self._requests(message)
        raise TypeError(f"{type(message).__name__} answers {type(ask).__name__}")

    def _requests(self, message: ipc.HandedOut) -> Requests:
        """Return calls with their tensors; one whose numbers are not finite is refused here."""
        requests, bad = [], []
        for peer, verb, step, shapes, data in message.calls:
            try:
                tensors = unpack(shapes, data, self._form(verb).takes)
                requests.append(Request(PeerId(peer), verb, step, tensors))
            except RemoteViolation as violation:
                bad.append((peer, verb, step, (), b"", str(violation)[:100]))
        if bad:
            self._line.send(ipc.AnswerCalls(answers=tuple(bad)))
        return Requests(tuple(requests), message.is_complete and not bad)

    def _form(self, verb: str) -> Form:
        form = self.forms.get(verb)
        if form is None:
            raise TypeError(f"{verb} is no verb of the method: verbs() gives {sorted(self.forms)}")
        return form

    # --- generators that serve --------------------------------------------------------------------

    def take(self, message: ipc.FromDaemon) -> bool:
        """Go on with what a message is for; tells whether it was for a role."""
        match message:
            case ipc.RoleTaken(role=role):
                assert self._method is not None
                log.info("this node holds the role %s from now on", role)
                self._serving[role] = serving = _Serving(self._method.serve(self._learner, role))
                self._go_on(role, serving, None)
                return True
            case ipc.HandedOut(role=role):
                serving_it = self._serving.get(role)
                if serving_it is not None and isinstance(serving_it.ask, Next):
                    self._go_on(role, serving_it, self.answer_of(serving_it.ask, message))
                return role != ROUND
            case ipc.CallEnded(id=id_) | ipc.RoleFound(id=id_):
                for role, each in list(self._serving.items()):
                    if each.id == id_ and isinstance(each.ask, Call | Look):
                        self._go_on(role, each, self.answer_of(each.ask, message))
                        return True
        return False

    def _go_on(self, role: str, serving: _Serving, given: Any) -> None:
        started = time.monotonic()
        try:
            while True:
                steps = serving.steps
                ask = steps.throw(given) if isinstance(given, GossipError) else steps.send(given)
                given = None
                match ask:
                    case Here():
                        given = self.me
                    case Reply():
                        self.reply(ask)
                    case Call() | Look() | Next():
                        serving.ask, serving.id = ask, self.post(ask, role)
                        return
                    case _:
                        raise TypeError(f"a role asks for {type(ask).__name__}, which is for rounds")
        except GossipError as error:
            self._leave(role, f"{type(error).__name__}: {error}")
        except StopIteration:
            self._leave(role, "")
        finally:
            self.work_seconds += time.monotonic() - started

    def _leave(self, role: str, why: str) -> None:
        del self._serving[role]
        if why:
            self._line.problem(
                f"role {role}", f"this node no longer serves as {role}: {why}; start it again to serve"
            )
        else:
            log.info("this node leaves the role %s to others", role)
        self._line.send(ipc.LeaveRole(role=role))
