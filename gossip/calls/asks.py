"""The asks of calls, and their answers: words that methods, nodes and the lockstep runner share.

A caller's side:

    hosts  = yield Look("host")                                     -> Holders
    answer = yield Call("host", "forward", {"z": z}, step=key)      -> Answer, or Unanswered is thrown in
    answer = yield Call((answer.peer,), "grad", {"g": g}, step=key)

A host's side, in a generator that has no rounds and never ends:

    asked  = yield Next(("forward",), Everyone())                   -> Requests
    yield Reply(tuple((each, {"y": ...}) for each in asked.calls))
"""

from dataclasses import dataclass
from typing import TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.forms import Tensors


@dataclass(frozen=True, slots=True)
class Call:
    """Ask one peer; answered with `Answer`, or with None where the verb's form gives nothing.

    Whoever does not answer within the learned deadline, refuses, or is gone, is followed by the next choice.
    `Unanswered` is thrown in where there is none.
    """

    to: tuple[PeerId, ...] | str
    """The peers to ask, the first choice first; or a role: its holders, in the order of `Look`.

    A text that is no role of the run is a peer."""
    verb: str
    tensors: Tensors
    """float32, within the verb's form."""
    step: bytes
    """With the verb and us it names what is asked: at most 64 bytes. A peer acts once on it, however often it
    is asked, and answers the same again."""
    is_last: bool = False
    """Whether the callee need not wait for a further call of this verb from us: see `Everyone`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to `Call`."""

    peer: PeerId
    """Who gave it."""
    tensors: Tensors
    """float32, within the verb's form; finite."""


@dataclass(frozen=True, slots=True)
class Count:
    """So many calls, or as many as have come when the learned deadline since the first is over."""

    n: int


@dataclass(frozen=True, slots=True)
class Everyone:
    """A call of each of these peers, or as many as have come when the learned deadline is over.

    A peer that is gone is not waited for.
    """

    among: tuple[PeerId, ...] = ()
    """These are waited for at once: where none of them calls, the answer to `Next` has no calls.

    Empty: those that called this verb before, were not missed since, and did not say that it was the last.
    Then the wait begins with the first call."""


Until: TypeAlias = Count | Everyone


@dataclass(frozen=True, slots=True)
class Next:
    """Ask for the calls of others; answered with `Requests`."""

    verbs: tuple[str, ...]
    until: Until = Count(1)


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a peer. It is acted upon once, and answered once."""

    peer: PeerId
    """May be this node itself."""
    verb: str
    step: bytes
    tensors: Tensors
    """float32, within the verb's form; finite; read only."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The answer to `Next`."""

    calls: tuple[Request, ...]
    """Of each peer and verb at most one; sorted by peer, verb and step. None only with `Everyone.among`."""
    is_complete: bool
    """Whether all came that were waited for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is none; the caller asks its next choice."""

    reason: str
    """At most 100 characters."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer requests; answered with None at once. One that is never answered costs its caller a deadline."""

    answers: tuple[tuple[Request, Tensors | Refusal], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Ask who holds a role; answered with `Holders` at once. That others see the same is not implied."""

    role: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that holds a role."""

    peer: PeerId
    ability: float
    """As the peer says."""
    seconds: float
    """The median of its answers' times so far; 0 where it has answered none."""


@dataclass(frozen=True, slots=True)
class Holders:
    """The answer to `Look`: the quickest first, those not yet asked by their ability.

    This node is among them if it holds the role. Those that left a call unanswered of late come last.
    """

    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Attend:
    """Do nothing but hold roles, until the peers wait for this node's contribution to the round.

    For the round of a node that only hosts; answered with None.
    """


CallAsk: TypeAlias = Call | Next | Reply | Look | Attend
"""All asks of this module."""
