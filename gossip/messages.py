"""Every message that peers exchange, with the bounds that hold before anything is believed.

Decoding checks types, lengths and ranges (msgspec); the cores check meaning. Bulk bytes travel
beside `Part`, `Reduced`, `Reveal`, `Offer`, `Chunk`, `Push`, `Call` and `Answer`, in the link's bulk lane.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.grants import Redeem
from shoal.gossip.admission.rotations import Rotation

MAX_GROUP: Final = 64
MAX_ASKED: Final = 64
"""Chunks of a state that one peer asks of another at a time."""
MAX_NEAR: Final = 32
"""Addresses in one `Near`."""
MAX_RECORD_BYTES: Final = 4096
"""Of a sealed presence; a larger one could be heard but not be handed on."""
MAX_ANNOUNCE_BYTES: Final = 1984
"""Of a sealed announcement."""
MAX_WORD_BYTES: Final = 512
"""Of a sealed word about a group."""
MAX_WEIGHT: Final = 1e15
SECURE_INDEX: Final = 1000
"""Stage k of a secure sum, from 1, is exchange `index` + 1000 k of the group."""
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
GroupId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Peer: TypeAlias = Annotated[PeerId, msgspec.Meta(min_length=1, max_length=64)]
Round = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Ballot = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
Nonce = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
"""Chosen by the convener: a second try at a round makes another group than the first."""
Outcome = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""A digest of the contributors of every chunk: equal where all means are equal."""
Mask = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
"""A set of a group's members: bit i of the big-endian number is member i."""
Halvings = Annotated[int, msgspec.Meta(ge=0, le=3)]
"""How often the run's `max_chunk_numel` is halved for the chunks of a group: one of four powers of two."""
AskName = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
"""A digest of what an ask is, and of its tag: equal on all members, or nothing is exchanged."""
Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Bytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Slot = Annotated[int, msgspec.Meta(ge=0, lt=MAX_GROUP)]
Address = Annotated[str, msgspec.Meta(max_length=256)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400.0)]
Members = Annotated[tuple[Peer, ...], msgspec.Meta(min_length=1, max_length=MAX_GROUP)]
Shares = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=1 << 20)], ...], msgspec.Meta(max_length=MAX_GROUP)
]


Named = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
"""A verb, a tensor of a call or a role."""
Shape: TypeAlias = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=1 << 22)], ...], msgspec.Meta(max_length=6)
]
Shapes: TypeAlias = Annotated[tuple[tuple[Named, Shape], ...], msgspec.Meta(max_length=16)]
"""Name and sizes of each tensor of a call, sorted by name; the numbers travel as data."""
Step = Annotated[bytes, msgspec.Meta(max_length=64)]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The base of all messages."""


# --- who is there ---------------------------------------------------------------------------------


class Presence(Message, frozen=True):
    """I am here, in this run, with this state. SignedAnnounce by its author and handed on by others."""

    run: Annotated[bytes, msgspec.Meta(max_length=32)]
    """The run id; empty for a helper, which relays and serves but does not train."""
    run_name: Annotated[str, msgspec.Meta(max_length=200)]
    round: Round
    """The next round this peer will finish."""
    state: Annotated[bytes, msgspec.Meta(max_length=32)]
    """The hash of its state before that round; empty while it has none."""
    previous: Annotated[bytes, msgspec.Meta(max_length=32)]
    """The hash one round earlier: links states into lineages."""
    phase: Annotated[str, msgspec.Meta(max_length=16)]
    """working, syncing, finished or helping; only those working are waited for."""
    lease: Annotated[float, msgspec.Meta(gt=0, le=600.0)]
    """Seconds after which this record means nothing."""
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=8)] = ()
    has_finished_round: bool = False
    """Whether it has finished a round since it was started, or since it took this lineage over."""
    engine: Annotated[tuple[Address, ...], msgspec.Meta(max_length=4)] = ()
    """Where its hivemind is reached, if its run averages with that engine."""
    is_unanchored: bool = False
    """Whether it took its state over from the most, and from nobody it knew: such a state is no anchor."""


class Record(msgspec.Struct, frozen=True):
    """A presence with its author; `sealed` is the author's envelope, kept to hand on."""

    author: PeerId
    sequence: int
    presence: Presence
    sealed: bytes = b""


class Records(msgspec.Struct, frozen=True):
    """Records with their ages in seconds; made of sealed presences, opened one by one."""

    records: tuple[tuple[Record, float], ...]
    reply: bool = False
    """Whether the receiver should answer with records of its own."""


class SealedRecords(Message, frozen=True):
    """`Records` as it travels."""

    records: Annotated[
        tuple[tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)], Seconds], ...],
        msgspec.Meta(max_length=32),
    ]
    reply: bool = False


class Near(Message, frozen=True):
    """Addresses for the receiver alone, since it is near: of the sender, and of peers that told it so.

    Unsigned, and not handed on: they mean something on this machine or in this network only.
    """

    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_NEAR)]


class Leave(Message, frozen=True):
    """I go; do not wait for me."""


class Describe(Message, frozen=True):
    """My run spec, sent to a peer of another run of the same name, so that both can say what differs."""

    spec: Annotated[bytes, msgspec.Meta(max_length=200_000)]


# --- who may take part ----------------------------------------------------------------------------


class RosterMessage(Message, frozen=True):
    """The base of what peers tell each other of a roster. What is in it counts by its own signatures."""

    charter: Hash
    """The id of the charter under which it was said."""


class RosterNews(RosterMessage, frozen=True):
    """This you may not have heard."""

    edicts: Annotated[tuple[Edict, ...], msgspec.Meta(max_length=8)]
    redeems: Annotated[tuple[Redeem, ...], msgspec.Meta(max_length=8)]


class RosterDigest(RosterMessage, frozen=True):
    """What I keep, as 16 hashes of 8 bytes."""

    buckets: Annotated[bytes, msgspec.Meta(min_length=128, max_length=128)]


class RosterHave(RosterMessage, frozen=True):
    """The first 8 bytes of the ids of all that I keep where you keep something else: send me what I lack."""

    buckets: Annotated[bytes, msgspec.Meta(min_length=128, max_length=128)]
    ids: Annotated[bytes, msgspec.Meta(max_length=160_000)]
    reply: bool = False
    """Whether the receiver should say the same where it lacks something."""


class RosterKeys(RosterMessage, frozen=True):
    """A new key of the private network, which only members can open."""

    rotations: Annotated[tuple[Rotation, ...], msgspec.Meta(min_length=1, max_length=8)]


RosterWord: TypeAlias = RosterNews | RosterDigest | RosterHave | RosterKeys
"""What peers say of the roster of a run."""

# --- a group for a round --------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """My local work for this round is done."""

    round: Round
    base: Hash
    """The hash of the state I started from."""
    uplink: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 0
    """kB/s that my line carries, as far as it holds me up; 0: not known."""
    wait: Seconds = 0.0
    """How long I wait for those who still work; who hears it can hurry in time."""
    unreached: Annotated[int, msgspec.Meta(ge=0, le=MAX_GROUP)] = 0
    """How many that work on the run I have no link to: of colleagues, who misses the fewest convenes."""
    has_colleagues: bool = False
    """Whether there are peers with which I have averaged for long: who has none yet lets me convene first."""


class Propose(Message, frozen=True):
    """Let us be a group: an offer of the convener."""

    round: Round
    base: Hash
    ballot: Ballot
    nonce: Nonce
    members: Members
    shares: Shares
    halvings: Halvings = 0
    newcomers: Mask = bytes(8)
    """Members that count for little yet, in an open run."""


class Accept(Message, frozen=True):
    """I join the group offered under this ballot."""

    round: Round
    ballot: Ballot
    nonce: Nonce
    linked: Mask
    """Which of its members I have links to, as a bit mask in their order."""


class Decline(Message, frozen=True):
    """I am in no group under this ballot of yours; or, of my own ballot: I convene no more."""

    round: Round
    ballot: Ballot
    nonce: Nonce


class Commit(Message, frozen=True):
    """All have accepted: the group stands."""

    round: Round
    base: Hash
    ballot: Ballot
    nonce: Nonce
    convener: Peer
    members: Members
    shares: Shares
    halvings: Halvings = 0
    newcomers: Mask = bytes(8)
    """Both as proposed."""


class Unheard(Message, frozen=True):
    """Of these members of your group I hold no `Ready` that gives these shares: show me theirs."""

    round: Round
    ballot: Ballot
    nonce: Nonce
    members: Mask


class Signed(msgspec.Struct, frozen=True):
    """A word with its author; `sealed` is the author's envelope, kept to show to others."""

    author: PeerId
    message: Ready | Accept
    sealed: bytes = b""


class Shown(msgspec.Struct, frozen=True):
    """What members of my group have said to me; made of sealed words, opened one by one."""

    round: int
    words: tuple[Signed, ...]


class SealedWords(Message, frozen=True):
    """`Shown` as it travels."""

    round: Round
    words: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_WORD_BYTES)], ...],
        msgspec.Meta(max_length=MAX_GROUP),
    ]


Negotiation: TypeAlias = Propose | Accept | Decline | Commit | Unheard | Shown
"""What peers that are ready say to agree on a group."""

# --- the exchange in a group ----------------------------------------------------------------------


class Exchange(Message, frozen=True):
    """The base of what belongs to one ask of one group."""

    group: GroupId
    index: Annotated[int, msgspec.Meta(ge=0, lt=7 * SECURE_INDEX)]
    """Index of this ask within the round, from 0; of a stage of a secure sum 1000 more for each stage."""


class Announce(Exchange, frozen=True):
    """How much my contribution weighs and how large it is; to all, before its first chunk."""

    weight: Annotated[float, msgspec.Meta(ge=0, le=MAX_WEIGHT)]
    base: Annotated[bytes, msgspec.Meta(max_length=32)]
    """The hash of the state I started from."""
    mixes: bool
    """Whether I take the members' states to differ, since there are several groups."""
    norms: Annotated[bytes, msgspec.Meta(max_length=24 * MAX_GROUP)]
    """Euclidean norms by part, little-endian float32 [4, members]: of the distance from my state, without
    and of buffers; of the vector itself, without and of buffers. Where the run clips [6, members]: of the
    distance from the last change, too, without and of buffers."""
    ask: AskName = bytes(8)
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """What is left of my weight, by my own wish, once it was capped."""
    last: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    """Names the last change, where the run clips and I hold it."""


class SignedAnnounce(msgspec.Struct, frozen=True):
    """An announcement with its author; `sealed` is the author's envelope, kept to hand on."""

    author: PeerId
    announce: Announce
    sealed: bytes = b""


class Announcements(Exchange, frozen=True):
    """Announcements that the sender holds; made of sealed ones, opened one by one."""

    announced: tuple[SignedAnnounce, ...]


class SealedAnnouncements(Exchange, frozen=True):
    """`Announcements` as it travels."""

    announced: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_ANNOUNCE_BYTES)], ...],
        msgspec.Meta(max_length=2 * MAX_GROUP),
    ]


class Unannounced(Exchange, frozen=True):
    """Hand me on what these members announced: a mean that you sent was made by it."""

    members: Mask


class Part(Exchange, frozen=True):
    """A chunk of my contribution to a part, for its owner."""

    part: Slot
    chunk: Index
    ballot: Ballot


class Reduced(Exchange, frozen=True):
    """A chunk of the mean, with the contributors as a bit mask over the members."""

    part: Slot
    chunk: Index
    ballot: Ballot
    contributors: Mask
    announced: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)] = bytes(16)
    """A digest of the announcements by which it was made; zeros in the inner all-reduce of a gather."""


class Yield(Exchange, frozen=True):
    """The former owners of this part are silent: you are the next. I answer your claim with my data."""

    part: Slot
    ballot: Ballot


class Claim(Exchange, frozen=True):
    """I own this part now: send me your result or else your contribution, chunk by chunk."""

    part: Slot
    ballot: Ballot


class Alive(Exchange, frozen=True):
    """I am still at it: what you wait for from me waits for others."""

    moved: Bytes = 0
    """Bytes of bulk that have come to me in this exchange: while they grow, so does what I can give."""


class Cut(Exchange, frozen=True):
    """I wait for this member no longer. It should go on without me, and expect nothing from me.

    All members are told: what more than half of those that one of them hears say, it does too.
    """

    member: Peer


class Abandon(Exchange, frozen=True):
    """I take no further part in this exchange; do not wait for me."""


class Done(Exchange, frozen=True):
    """I have every mean; this is what they are made of. I stay until all members that live say so too."""

    outcome: Outcome


class Digest(Exchange, frozen=True):
    """The hash of the body that I shall reveal."""

    digest: Hash
    ask: AskName = bytes(8)


class Reveal(Exchange, frozen=True):
    """A member's body, as data: my own, or one that was missing at the receiver."""

    member: Slot


class Missing(Exchange, frozen=True):
    """Send me the bodies of these members: they are in the agreed set and never reached me."""

    members: Annotated[tuple[Slot, ...], msgspec.Meta(min_length=1, max_length=MAX_GROUP)]


ExchangeMessage: TypeAlias = (
    Announce
    | Announcements
    | Unannounced
    | Part
    | Reduced
    | Yield
    | Claim
    | Alive
    | Cut
    | Abandon
    | Done
    | Digest
    | Reveal
    | Missing
)


# --- pairwise averaging ---------------------------------------------------------------------------


class Pairing(Message, frozen=True):
    """The base of what two peers say of what one gives the other."""

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    """Of the giver: what it gave under an earlier one and was not yet applied is void."""


class Push(Pairing, frozen=True):
    """A chunk of what I give you: numbers, as data, and the weight that comes with them."""

    id: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    """One more than that of the last chunk you applied."""
    chunk: Index
    weight: Annotated[float, msgspec.Meta(ge=0, le=MAX_WEIGHT)]


class Settle(Pairing, frozen=True):
    """What have you applied? Apply nothing more of an earlier epoch."""


class Applied(Pairing, frozen=True):
    """I have applied what you gave up to this id, and nothing after it."""

    id: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Coming(Pairing, frozen=True):
    """I have applied what you gave up to this id, and so many bytes of bulk have come of you since."""

    id: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    moved: Bytes


PairingMessage: TypeAlias = Push | Settle | Applied | Coming


# --- calls ----------------------------------------------------------------------------------------


class RoleOffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer says of one role."""

    role: Named
    holds: bool
    """Whether I hold it; else I am willing to."""


class Roles(Message, frozen=True):
    """Which roles of the run I hold or would take."""

    roles: Annotated[tuple[RoleOffer, ...], msgspec.Meta(max_length=16)]
    ability: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    """How much I can compute beside others, such as processors; the ablest takes what nobody holds."""
    only_hosts: bool
    """Whether I have no data: whoever waits for me in a round waits for nothing."""
    lease: Annotated[float, msgspec.Meta(gt=0, le=600.0)]
    """Seconds after which this means nothing."""


class Called(Message, frozen=True):
    """The base of what two peers say of one call. It travels unsigned, so it names its run."""

    run: Hash
    verb: Named
    step: Step


class Call(Called, frozen=True):
    """Do this, and answer; or do it once, if its form has no answer. Tensors as data."""

    shapes: Shapes
    is_last: bool = False
    """Whether I do not call this verb again soon."""


class Answer(Called, frozen=True):
    """This came of your call. Tensors as data."""

    shapes: Shapes


class Unserved(Called, frozen=True):
    """I do not answer this call: ask somebody else."""

    reason: Annotated[str, msgspec.Meta(max_length=100)]


CallMessage: TypeAlias = Call | Answer | Unserved

# --- fetching a state -----------------------------------------------------------------------------


class Want(Message, frozen=True):
    """Do you hold this state?"""

    state: Hash


class Offer(Message, frozen=True):
    """I hold it. The leaf hashes travel as data; their tree hash is the state's name."""

    state: Hash
    previous: Annotated[bytes, msgspec.Meta(max_length=32)]
    round: Round
    n_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 44)]


class NotHeld(Message, frozen=True):
    """I do not hold this state (any more)."""

    state: Hash


class Fetch(Message, frozen=True):
    """These chunks I want of you now, in this order; nothing that only an earlier list asked for."""

    state: Hash
    chunks: Annotated[tuple[Index, ...], msgspec.Meta(max_length=MAX_ASKED)]


class Wait(Message, frozen=True):
    """What you asked for will come: others come first, or the way is slow."""

    state: Hash


class Chunk(Message, frozen=True):
    """A chunk of a state."""

    state: Hash
    chunk: Index


FromDonor: TypeAlias = Offer | NotHeld | Wait | Chunk
"""What a donor of a state answers."""

PeerMessage: TypeAlias = (
    Records
    | Near
    | RosterWord
    | Leave
    | Describe
    | Ready
    | Negotiation
    | ExchangeMessage
    | PairingMessage
    | Roles
    | CallMessage
    | Want
    | Fetch
    | FromDonor
)
"""All that peers say to each other; of `Records` and `Shown` travel `SealedRecords` and `SealedWords`."""

Wire: TypeAlias = (
    SealedRecords
    | Near
    | Leave
    | Describe
    | RosterNews
    | RosterDigest
    | RosterHave
    | RosterKeys
    | Ready
    | Propose
    | Accept
    | Decline
    | Commit
    | Unheard
    | SealedWords
    | Announce
    | SealedAnnouncements
    | Unannounced
    | Part
    | Reduced
    | Yield
    | Claim
    | Alive
    | Cut
    | Abandon
    | Done
    | Digest
    | Reveal
    | Missing
    | Want
    | Offer
    | NotHeld
    | Fetch
    | Wait
    | Chunk
    | Push
    | Settle
    | Applied
    | Coming
    | Roles
    | Call
    | Answer
    | Unserved
)
