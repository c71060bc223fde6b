"""Methods with roles: what one declares, and the helpers that its generators ask with.

A node runs the method's `round` as any other does: that is the side of the data. A node that holds a role
runs `serve` beside it, from when it takes the role. Its generator has no round and need not end; it goes on
whenever the round waits: for an answer, for peers, for the next round. Both run in one thread, so
what they share can lie on the learner, of which each node has one:

    class Mine:
        roles = ("host",)

        def verbs(self, learner):
            z = TensorForm((64, 11, 32), "float16")
            return {"forward": Form({"z": z}, {"y": TensorForm((64, 10))})}

        def round(self, state, learner, round_):
            if (yield from here()).only_hosts:
                yield from attend()                              # until the others wait for us
                mean = yield from all_reduce(state.params.copy(), weight=0)
                return State(mean.vector), Report(0.0, 0, 0, mean.contributors)
            out = yield from call("host", "forward", {"z": z}, step=b"%d/0" % round_)
            ...

        def serve(self, learner, role):
            while True:
                asked = yield from next_calls("forward", until=Everyone())
                yield from reply((each, {"y": learner.body(each.tensors["z"])}) for each in asked.calls)

No call lasts longer than a learned deadline, and none holds up a round: peers wait for this node as they do
for one that trains slowly. Where no one answers, `Unanswered` is thrown in.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import (
    Answer,
    Attend,
    Call,
    Count,
    Holder,
    Holders,
    Look,
    Next,
    Refusal,
    Reply,
    Request,
    Requests,
    Until,
)
from shoal.gossip.calls.forms import Form, Tensors
from shoal.methods.base import Steps

ONE: Final = Count(1)


@runtime_checkable
class Serves(Protocol):
    """A method with roles beside that of a node with data. See the module's docstring."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that a run needs, such as ``host``; somebody takes each that nobody holds."""
        ...

    def verbs(self, learner: Any) -> Mapping[str, Form]:
        """Return what peers may call each other for, equal on all peers of a run."""
        ...

    def serve(self, learner: Any, role: str) -> Steps[None]:
        """Answer calls for as long as this node holds the role; return where another peer should hold it.

        A `GossipError` that it lets out ends the role at this node, until it is taken anew.
        """
        ...


def call(
    to: str | PeerId | Iterable[PeerId],
    verb: str,
    tensors: Tensors,
    *,
    step: bytes,
    is_last: bool = False,
) -> Steps[Answer]:
    """Return a peer's answer. `to`: a role, or peers of which the first that answers does; else see `Call`.

    `PeerId` is a `str` to Python: a text that is one of the run's roles is a role, any other a peer.

    Raises:
        Unanswered: nobody answered in time.
        BadTensors: the tensors do not fit the verb's form.
    """
    peers = to if isinstance(to, str) else tuple(to)
    answer: Answer = yield Call(peers, verb, tensors, step, is_last)
    return answer


def push(to: str | PeerId | Iterable[PeerId], verb: str, tensors: Tensors, *, step: bytes) -> Steps[None]:
    """Send what nobody answers: it goes to the first choice only, and may be lost.

    Raises:
        BadTensors: the tensors do not fit the verb's form.
    """
    yield Call(to if isinstance(to, str) else tuple(to), verb, tensors, step)


def next_calls(*verbs: str, until: Until = ONE) -> Steps[Requests]:
    """Return calls of these verbs, one at least unless `until` names peers."""
    asked: Requests = yield Next(verbs, until)
    return asked


def reply(answers: Iterable[tuple[Request, Tensors | Refusal]]) -> Steps[None]:
    """Answer requests.

    Raises:
        BadTensors: an answer does not fit the verb's form.
    """
    yield Reply(tuple(answers))


def look(role: str) -> Steps[tuple[Holder, ...]]:
    """Return who holds a role, in the order in which a call to the role tries them."""
    found: Holders = yield Look(role)
    return found.holders


def attend() -> Steps[None]:
    """Hold roles and do nothing else, until the peers wait for this node's contribution."""
    yield Attend()
