"""What a node tells its `Member` core (commands), and what it is told (notices)."""

from dataclasses import dataclass, field
from typing import TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.grants import Redeem
from shoal.gossip.admission.roster import Word
from shoal.gossip.averaging.origin import Kind
from shoal.gossip.calls.answering import HandedOut, StepName
from shoal.gossip.calls.asking import Ended
from shoal.gossip.calls.asks import Holder, Next
from shoal.gossip.calls.calls import RoleTaken
from shoal.gossip.calls.forms import Forms
from shoal.gossip.events import Data, Happening, Vector
from shoal.gossip.group import Exchanged
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.gossip.membership.company import Alone, InCompany
from shoal.gossip.messages import Shapes
from shoal.gossip.policies.masking import Masking
from shoal.gossip.run_spec import RunSpec
from shoal.gossip.scope import NOWHERE, Here
from shoal.gossip.state.base_blocks import BaseBlocks

# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach:
    """A trainer is there; its run and its state."""

    run: bytes
    spec: RunSpec
    mergeable: bool
    had_company: bool = False
    """Whether the state on disk was made with others."""
    known: tuple[Acquaintance, ...] = ()
    """With whom this node finished rounds of the run before."""
    is_unanchored: bool = False
    """Whether the state was taken over from the most: see lineages.py."""


@dataclass(frozen=True, slots=True)
class NewState:
    """The node holds this state now and works on the round after it."""

    round: int
    state: bytes
    previous: bytes
    data: memoryview
    """The state's bytes; unchanged until the next `NewState`."""
    leaves: bytes = b""
    """The hashes of its chunks, where they are known."""
    contributors: tuple[PeerId, ...] = ()
    """With whom it was made."""


@dataclass(frozen=True, slots=True)
class RefuseState:
    """The node does not take this state over: what it fetched last, or one that rounds cannot go on from."""

    state: bytes
    fault: str = ""
    """Of those that gave it, where it was fetched: one of few, in plain words."""


@dataclass(frozen=True, slots=True)
class ResetTrust:
    """The user wants the node to begin anew with whom it knows."""


@dataclass(frozen=True, slots=True)
class CachedChunks:
    """Chunks by leaf hash that were kept from a fetch that broke off; told while another one runs."""

    chunks: dict[bytes, Data]


@dataclass(frozen=True, slots=True)
class FetchBase:
    """The trainer lacks the frozen base of its run: fetch it into this place."""

    base: BaseBlocks


@dataclass(frozen=True, slots=True)
class HoldBase:
    """The base lies here whole: hand it out to those that lack it."""

    base: BaseBlocks


@dataclass(frozen=True, slots=True)
class Contribute:
    """The trainer asks for a mean; `vector` becomes it."""

    index: int
    vector: Vector
    weight: float
    kind: Kind = "statistic"
    """What the vector is: see shoal.gossip.averaging.origin."""
    tag: str = ""
    """Which ask of the round it is."""
    discount: float = 1.0
    """What is left of the weight once it was capped: above 0 and at most 1."""
    among: tuple[PeerId, ...] = ()
    """Among which members of the round's group, this node one of them; empty: all."""
    masking: Masking | None = None
    """The grid of a sum under masks; None: as the run says."""


@dataclass(frozen=True, slots=True)
class ContributeBody:
    """The trainer asks for everyone's body."""

    index: int
    body: bytes
    tag: str = ""


@dataclass(frozen=True, slots=True)
class BeginExternalExchange:
    """The trainer asks for a mean that another engine makes: we are in an exchange until the round ends."""


@dataclass(frozen=True, slots=True)
class AbortRound:
    """The trainer's round ended without a new state."""


@dataclass(frozen=True, slots=True)
class Detach:
    """The trainer is gone for now."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over; the last state is served on."""


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Dial this address, and keep trying."""

    address: str
    source: str


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Stop dialling this address."""

    address: str


@dataclass(frozen=True, slots=True)
class SetAddresses:
    """Where others reach this node, and which networks it is in."""

    addresses: tuple[str, ...]
    here: Here = NOWHERE


@dataclass(frozen=True, slots=True)
class SetEngine:
    """Where others reach this node's other engine; nowhere while it is not up."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was sent in bulk since the last of these, and how long some of it was being written."""

    n_bytes: int
    busy: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Our node has put these on the roster, which has checked them: tell the others."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class JoinBy:
    """These are the words with which this node joins: show them to every peer."""

    redeem: Redeem


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The node leaves; its peers are told."""


@dataclass(frozen=True, slots=True)
class OfferRoles:
    """The trainer's method has roles; what this node makes of them. Follows `Attach`."""

    forms: Forms
    roles: tuple[str, ...]
    ability: float
    is_willing: bool
    """Whether it takes a role that nobody holds."""
    takes: frozenset[str]
    """The roles that it has at once; then it does nothing else."""


@dataclass(frozen=True, slots=True)
class CallPeer:
    """The trainer calls: see gossip/calls/asks.py. Tensors come packed."""

    id: int
    to: tuple[PeerId, ...] | str
    verb: str
    step: bytes
    shapes: Shapes
    data: Data
    is_last: bool


@dataclass(frozen=True, slots=True)
class WantCalls:
    """The trainer, in one of its roles, asks for the calls of others."""

    role: str
    ask: Next


@dataclass(frozen=True, slots=True)
class AnswerCalls:
    """The trainer answers calls: the step, packed tensors, and why not where it refuses."""

    answers: tuple[tuple[StepName, Shapes, Data, str], ...]


@dataclass(frozen=True, slots=True)
class LookForRole:
    """The trainer asks who holds a role."""

    id: int
    role: str


@dataclass(frozen=True, slots=True)
class LeaveRole:
    """The trainer serves this role no longer."""

    role: str


@dataclass(frozen=True, slots=True)
class AttendRound:
    """The trainer only hosts: it contributes once the peers that train are ready."""


Contribution: TypeAlias = Contribute | ContributeBody
"""What the trainer asks of a group. What begins it is in ask_queue.py."""
CallCommand: TypeAlias = (
    OfferRoles | CallPeer | WantCalls | AnswerCalls | LookForRole | LeaveRole | AttendRound
)
Command: TypeAlias = (
    Attach
    | NewState
    | RefuseState
    | ResetTrust
    | CachedChunks
    | FetchBase
    | HoldBase
    | Contribution
    | BeginExternalExchange
    | AbortRound
    | Detach
    | Finish
    | RemoveAddress
    | SetAddresses
    | SetEngine
    | Measured
    | Submit
    | JoinBy
    | Goodbye
    | CallCommand
)
Event: TypeAlias = Happening | AddAddress | Command
"""All that a member is told."""


# --- notices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean stands in the vector of `Contribute`."""

    round: int
    index: int
    exchanged: Exchanged
    matchmaking_seconds: float
    exchange_seconds: float
    members: tuple[PeerId, ...] = ()
    """All whose contribution may be in it; none are named where pairs average."""
    mixes: bool = False
    """Whether the members' states may differ, and bring with them what others gave."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The agreed bodies, sorted by peer id."""

    round: int
    index: int
    bodies: tuple[tuple[PeerId, bytes], ...]
    matchmaking_seconds: float
    exchange_seconds: float
    mixes: bool = False
    """As `Averaged` has it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The ask failed; `kind` is a class name of gossip/errors.py."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Behind:
    """The swarm is elsewhere: local work is in vain, a state is being fetched."""

    round: int


@dataclass(frozen=True, slots=True)
class Synced:
    """The swarm's state arrived; answer with `NewState` once it is in place."""

    round: int
    state: bytes
    previous: bytes
    vector: Vector
    donors: dict[PeerId, int] = field(default_factory=dict)
    """Chunks by who sent them."""
    reused: int = 0
    """Chunks that nobody had to send."""
    leaves: bytes = b""
    """The hashes of its chunks."""
    rounds_apart: int = 0
    """From where we and those that hold it parted, to the later of the two rounds."""


@dataclass(frozen=True, slots=True)
class ChunksVerified:
    """Verified chunks of a state that is being fetched; what they lie in is not written again."""

    state: bytes
    n_bytes: int
    chunks: list[tuple[int, memoryview]]


@dataclass(frozen=True, slots=True)
class BaseArriving:
    """More of a base lies verified in its place."""

    name: bytes
    leaves: bytes
    missing: int
    """Blocks that are still to come."""
    givers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class BaseFetched:
    """A base lies whole in its place."""

    name: bytes
    leaves: bytes
    givers: dict[PeerId, int]
    """Blocks by who sent them."""


@dataclass(frozen=True, slots=True)
class FinishEarly:
    """The others wait: contribute what there is."""


@dataclass(frozen=True, slots=True)
class PeerAddresses:
    """A linked peer says where it is reached: worth remembering for the next start, whoever dialled whom."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Acquainted:
    """With whom this node has finished rounds by now: worth keeping for the next start."""

    known: tuple[Acquaintance, ...]
    is_unanchored: bool = False
    """Whether its state was taken over from the most."""


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """The roster has news in it: worth keeping for the next start."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer and we do not average, and why."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class RoleFound:
    """Who holds the role that was looked for."""

    id: int
    holders: tuple[Holder, ...]


CallNotice: TypeAlias = HandedOut | Ended | RoleTaken | RoleFound
Notice: TypeAlias = (
    Averaged
    | Gathered
    | Failed
    | Behind
    | Synced
    | ChunksVerified
    | BaseArriving
    | BaseFetched
    | FinishEarly
    | PeerAddresses
    | RosterChanged
    | Acquainted
    | Refused
    | Alone
    | InCompany
    | CallNotice
)
"""All that a member tells its node."""
