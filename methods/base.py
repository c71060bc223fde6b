"""What a training method is: a frozen config, a state, and a round that asks.

A round is a generator. It computes, yields an ask, is resumed with the answer, and returns the next
state. It never mentions the network; the node answers its asks, a test answers them in lockstep.

    trained = learner.train(state.params, ...)                         # local work
    averaged = yield from all_reduce(trained.params, weight=trained.examples)
    return State(averaged.vector), Report(trained.loss, ...)

A failed ask is thrown into the generator as a `shoal.gossip.errors.GossipError`. A method that cannot do
better lets it out: the node runs the round again from the old state, which nothing has touched.
"""

from abc import abstractmethod
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
import numpy.typing as npt

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import Mode
from shoal.gossip.averaging.origin import Kind
from shoal.gossip.calls.asks import CallAsk
from shoal.gossip.events import Vector
from shoal.gossip.policies.masking import Masking

T = TypeVar("T")
_KINDS: Final[Mapping[str, Kind]] = {"params": "params", "delta": "delta"}
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Ask for the weighted mean of everyone's vector; answered with `Averaged`."""

    vector: Vector
    """float32 [n]; the answer may overwrite its memory. One as long as the params ends in the buffers,
    and those travel as float32 whatever the codec."""
    weight: float
    """Finite and not negative; how much this vector counts in the mean, within bounds: no peer's counts more
    than twice the median (gossip/averaging/bounds.py)."""
    tag: str
    """Which ask of the round it is: see `kind`."""
    discount: float = 1.0
    """Above 0 and at most 1; multiplies the weight after the bounds, so that a peer can count much less than
    others by its own wish. None can count more by it."""
    among: tuple[PeerId, ...] = ()
    """Among which members of the round's group: see methods/roles/scopes.py. Empty: among all."""
    masking: Masking | None = None
    """The grid of a sum under masks, in which nobody sees the vector. None: as the run says."""

    def __post_init__(self) -> None:
        """Refuse a discount that no peer takes.

        Raises:
            ValueError: it is 0 or less, above 1, or no number.
        """
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount is {self.discount}; give one above 0 and at most 1")

    @property
    def kind(self) -> Kind:
        """What bounds the vector: ``params`` are measured from the shared state, a ``delta`` from zero.

        A vector of another tag is a statistic, of which nothing is known: its bounds are loose.
        """
        # What is shared by some is no state; it is combined as the run says all the same.
        return "delta" if self.among else _KINDS.get(self.tag, "statistic")


@dataclass(frozen=True, slots=True)
class Gather:
    """Ask for everyone's small body, committed before it is revealed; answered with `Gathered`."""

    body: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Here:
    """Ask for what this node knows of itself in this round; answered at once with `Me`, without a peer."""


Exchange: TypeAlias = AllReduce | Gather
"""The asks that peers answer."""
Ask: TypeAlias = Exchange | Here | CallAsk
Steps: TypeAlias = Generator[Ask, Any, T]


@dataclass(frozen=True, slots=True)
class Averaged:
    """The answer to `AllReduce`: the same bytes on every member of the group."""

    vector: Vector
    """float32 [n]; the method's own to overwrite. With `one_exchange` valid until the next ask."""
    contributors: tuple[PeerId, ...]
    """The peers in the mean, sorted."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The answer to `Gather`: the agreed bodies, the same on every member of the group."""

    bodies: tuple[tuple[PeerId, bytes], ...]
    """Sorted by peer id; our own is among them."""
    me: PeerId
    """Which of the peers we are."""


@dataclass(frozen=True, slots=True)
class Me:
    """The answer to `Here`."""

    peer: PeerId
    round: int
    away: int = 0
    """Rounds that the swarm made without this node since `State.private` was made; all of them for a node
    that has none. A node that missed nothing has 0."""
    hosts: tuple[str, ...] = ()
    """The roles that it holds: see methods/roles/serves.py."""
    only_hosts: bool = False
    """Whether its user wants it to do nothing else (``--role host``)."""
    is_hurried: bool = False
    """Whether the peers wait for this node: a round of calls should end at this step."""


def all_reduce(
    vector: Vector,
    *,
    weight: float,
    tag: str = "params",
    discount: float = 1.0,
    among: tuple[PeerId, ...] = (),
    masking: Masking | None = None,
) -> Steps[Averaged]:
    """Return the weighted mean of the group's vectors, each bounded by the others.

    `discount`: by what this node makes itself lighter; see `AllReduce` for it, and for the others.

    Raises:
        GossipError: no group formed, or too few were left.
        ValueError: the discount is not above 0 and at most 1.
    """
    answer: Averaged = yield AllReduce(vector, weight, tag, discount, among, masking)
    return answer


def gather(body: bytes, *, tag: str = "bodies") -> Steps[Gathered]:
    """Return every group member's body, agreed upon before anyone has seen another's.

    Raises:
        GossipError: no group formed, or too few were left.
    """
    answer: Gathered = yield Gather(body, tag)
    return answer


def here() -> Steps[Me]:
    """Return what this node knows of itself in this round."""
    answer: Me = yield Here()
    return answer


class Deferred(Mapping[str, Array]):
    """Arrays that live on elsewhere, such as in an optimizer, and are made only where somebody reads them.

    What is read is how they are then: those who keep such a mapping keep no copy.
    """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """About how many bytes reading them makes."""


@dataclass(frozen=True, slots=True)
class State:
    """All that a method carries to the next round.

    `params` and `shared` are equal on all peers that agree: they make the state hash and are what a
    newcomer fetches. `private` never leaves the node.

    What a round is given cannot be written, and is valid until the round ends: it may lie in memory that
    is shared with the daemon.
    """

    params: Vector
    shared: Mapping[str, Vector] = field(default_factory=dict)
    private: Mapping[str, Array] = field(default_factory=dict)
    buffers: int = 0
    """So many numbers at the end of the params are a model's buffers: to be averaged, never stepped."""
    room: "State | None" = field(default=None, repr=False, compare=False)
    """Where the params and shared vectors of the next state may be written, which saves a copy."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of local work."""

    params: Vector
    loss: float
    """Mean over the steps."""
    examples: int
    """Seen by the steps, with repetition; the usual weight in a mean is `Learner.examples`."""
    steps: int
    memory: Mapping[str, Array] = field(default_factory=dict)
    """What the optimizer carries to its next steps, such as moments; belongs in `State.private`."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round tells the people who watch."""

    loss: float
    examples: int
    steps: int
    contributors: tuple[PeerId, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, trained: Trained, contributors: tuple[PeerId, ...] = ()) -> "Report":
        """Report local work and who was in the mean."""
        return cls(trained.loss, trained.examples, trained.steps, contributors)


class Learner(Protocol):
    """Local training of one model on one node's data; the torch side: methods/learning/learner.py."""

    examples: int
    """How many training examples this node has."""

    def train(
        self,
        params: Vector,
        *,
        steps: int,
        lr: float,
        batch_size: int,
        proximal: float = 0.0,
        optimizer: str = "task",
        memory: Mapping[str, Array] | None = None,
        round_: int = 0,
        objective: Any = None,
        correction: Vector | None = None,
        ascent: float = 0.0,
    ) -> Trained:
        """Take `steps` optimizer steps from `params`, with proximal/2·|w − params|² in the loss.

        `correction`: float32, as long as the params; added to the gradient in every step, but for buffers.
        `ascent`: the gradient is that of the same batch at w + ascent·g/(|g| + 1e-7), where g is the one at
        w.

        `optimizer`: ``task`` for the task's own, else ``sgd``, ``adam`` or ``adamw``, which go on from
        `memory`. `round_` chooses the batches: a round that is run again sees the same ones. `objective`,
        of methods/learning/objective.py, replaces the task's loss and batches.

        Raises:
            Interrupted: the node wants the round thrown away.
            Diverged: the loss or the params are no longer finite.
        """
        ...


class ModelSize(msgspec.Struct, frozen=True, kw_only=True):
    """What of a node's model and tasks decides how many bytes a method sends (node/trainer/model_size.py)."""

    numel: int
    """Numbers that travel in all."""
    body: int
    """Of these, the ones whose role is body."""
    head: int
    """And the ones whose role is head."""
    tensors: int
    embedding: int
    """Width of the penultimate representation; 0 where the model has none."""
    parts: int
    """Tasks of a node."""

    @classmethod
    def of_one_body(cls, numel: int) -> "ModelSize":
        """Assume the least of a model of which only its size is known: one body, one task."""
        return cls(numel=numel, body=numel, head=0, tensors=1, embedding=0, parts=1)


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer gives in a typical round, before any codec."""

    largest: int = 0
    """Numbers of its largest all-reduce; 0: it makes none. Memory for so many is made when a run begins."""
    reduced: int = 0
    """Numbers of all its all-reduces."""
    gathered: int = 0
    """Bytes of its bodies, about; 0: it gathers none."""

    @classmethod
    def one_mean(cls, numel: int) -> "Traffic":
        """Return that of one all-reduce of so many numbers."""
        return cls(largest=numel, reduced=numel)

    def bytes_per_round(self, peers: int) -> int:
        """Return what a peer sends, and receives, in a round of so many peers in float32.

        In an all-reduce every peer sends all but its own part to the owners of the parts, and its own
        part, reduced, to all others. What is gathered goes to every other peer.
        """
        return self.gathered * (peers - 1) + 2 * 4 * self.reduced * (peers - 1) // peers


@dataclass(frozen=True, slots=True)
class About:
    """What a person should know before choosing a method."""

    paper: str
    """Authors, title, venue, link."""
    exchanges: str
    """What leaves the node in a round."""
    use: str
    """When to use it and when not."""
    body_bound: str = ""
    """Of a method that gathers: how far one body can move the result, whatever is in it, in a sentence.
    Without it the method runs in closed runs alone."""


class Method(Protocol):
    """A training method. Its config is a frozen `msgspec.Struct` whose fields are hyperparameters.

    The class is made as ``TheMethod(config)``; the annotation of `config` tells which struct that is.
    """

    mergeable: ClassVar[bool]
    """Whether means over peers whose states differ still make sense (true where params travel)."""
    asks: ClassVar[bool]
    """Whether a round ever asks; a node whose method does not trains in a run of its own."""
    about: ClassVar[About]
    # Optional: `private_matches_state: ClassVar[bool] = True` where the private state makes sense only beside
    # the shared state that it was made with, such as duals. See node/storage/private_rounds.py.
    # Optional: `averages_changes: bool`, whether all its all-reduces are of small changes.
    # Optional: `weighs_peers: bool`, whether what it does for a run lies in what each peer counts.
    # Optional: `measures: ClassVar[bool] = True` where its reports have all metrics, since no node has a
    # whole model that the task could measure.
    # Optional: `one_exchange: ClassVar[bool] = True` where a round trains once and then makes one all-reduce,
    # of what it trained. Then what it trains and what it is answered stay in the memory that travels.

    @property
    def config(self) -> msgspec.Struct:
        """The hyperparameters."""
        ...

    def init(self, params: Vector) -> State:
        """Return the state before round 0."""
        ...

    def traffic(self, model: ModelSize) -> Traffic:
        """Return what a peer gives in a typical round with a model of this size."""
        ...

    def round(self, state: State, learner: Any, round_: int) -> Steps[tuple[State, Report]]:
        """Run one round; see the module's docstring."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A method that trains a part of a model, to which it may add modules."""

    def prepare(self, model: Any) -> Collection[str] | None:
        """Change a new torch model, and return the names of what travels; None: what the task says.

        It is called once, before anything is read of the model. The same model must come to the same on all
        peers: torch's random numbers are seeded by the run.

        Raises:
            BadTask: the model has no place for it.
        """
        ...


@runtime_checkable
class Demands(Protocol):
    """A method for which not every task will do."""

    def check(self, learner: Any) -> None:
        """Say so before the first round; `learner` is that of methods/learning/learner.py.

        Raises:
            BadTask: the task lacks what the method needs.
            BadOption: it needs another hyperparameter.
        """
        ...


class OuterMethod(Method, Protocol):
    """A method whose exchange is a part of its own."""

    follows_any_loop: ClassVar[bool]
    """Whether `outer` makes sense after local work of any kind, such as a user's own training loop."""

    def outer(self, state: State, trained: Vector, weight: float) -> Steps[tuple[State, tuple[PeerId, ...]]]:
        """Agree on the state that follows `state` when local work led to `trained`; and with whom.

        `trained` may be overwritten.

        Raises:
            GossipError: no group formed, or too few were left.
        """
        ...


def has_one_exchange(method: Method) -> bool:
    """Tell whether a round trains once and then makes one all-reduce, of what it trained."""
    return bool(getattr(method, "one_exchange", False))


def measures(method: Method) -> bool:
    """Tell whether a method's own reports have the metrics, in place of the task."""
    return bool(getattr(method, "measures", False))


def averages_changes(method: Method) -> bool:
    """Tell whether all all-reduces of a method are of small changes: the coarsest codecs are for these."""
    return bool(getattr(method, "averages_changes", False))


def weighs_peers(method: Method) -> bool:
    """Tell whether nothing is left of a method where all peers count alike."""
    return bool(getattr(method, "weighs_peers", False))


def masks(method: Method) -> bool:
    """Tell whether a method asks for sums under masks by itself, in every run."""
    return bool(getattr(method, "masks", False))


def gathers(method: Method) -> bool:
    """Tell whether a typical round of a method gathers bodies."""
    return method.traffic(ModelSize.of_one_body(1_000_000)).gathered > 0


def largest_exchange(method: Method, numel: int) -> int:
    """Return how many numbers the largest all-reduce has where so many travel; 0 if there is none."""
    return method.traffic(ModelSize.of_one_body(numel)).largest


def why_not_gather_secure(name: str) -> str:
    """Say why a method that gathers has no place in a secure run. `name`: the method's."""
    return f"secure: {name} gathers bodies, which all peers see: take --method fedavg, or leave out --secure"


def why_not_gather(name: str, method: Method, mode: Mode) -> str:
    """Say why a method may gather nothing in a run of this mode; empty if it may. `name`: the method's."""
    if mode == "closed" or method.about.body_bound:
        return ""
    return (
        f"method {name} gathers bodies and does not say how far one can move the result, so that in a run of"
        f" mode {mode} one peer may decide it: declare about.body_bound (CONTRIBUTING.md), or give --charter"
        " of a closed run (shoal found --mode closed)"
    )
