"""PushSum: pairwise averaging, where each step gives half of what one has to one neighbour.

Every peer has a mass: a vector of sums and a weight. A step halves both, keeps one half and pushes the other
to a linked peer, the next in rotation; what arrives is added. The estimate of the mean is sums / weight.
Pushing leaves an estimate as it is, and moves mass; so, although some peers are given more than they give,
all estimates tend to (sum of all sums) / (sum of all weights), on any graph on which mass can get from
everyone to everyone, whichever way its edges point. (Kempe, Dobra, Gehrke, "Gossip-Based Computation of
Aggregate Information", FOCS 2003.) Training goes on meanwhile: local progress is added to the sums, times
the peer's own weight in the mean, whatever mass it holds just then (Assran, Loizou, Ballas, Rabbat,
"Stochastic Gradient Push for Distributed Deep Learning", ICML 2019, https://arxiv.org/abs/1811.10792).

So no mass may be lost or counted twice. What was pushed is kept by its giver until it is acknowledged:

    unknown --Settle--> asking --Applied--> settled --Push, Push, ...--> pushing --Applied--> settled
       ^                   ^------- silence: Settle, of a new epoch ---------'
       '---- link lost, from anywhere

The receiver applies a chunk if its id is the one after the last it applied, and its epoch is that of the last
`Settle`; so neither a copy nor what comes too late counts. Its answer to `Settle` says what it has applied,
the giver takes the rest back, and nothing of an earlier epoch can be applied any more. A giver that cannot
ask, since the link is gone, keeps what is in doubt until the link is back. Who has been started again cannot
say what it applied, and may have passed that on: whom it does not know it answers with a number it has never
used, from which ids go on; its giver sees that none of its own are meant, and takes nothing back.

A push may take minutes. Its receiver tells once a beat how much has come (`Coming`), and each byte earns time
(deadlines.py). A giver that has waited in vain takes back what its line has not sent yet, and then asks.

Invariant: the mass of all peers and all that is under way is constant, but for what is minted, moved, or
dies. A peer that dies takes its mass with it, and what was in doubt with it (`forget`); one that comes back
mints new mass. Each chunk of the vector has a weight of its own, so that none waits for the others.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.averaging.plausible import LONGEST, Accounts, plausible_share
from shoal.gossip.averaging.tensor_codecs import CODECS, BadCode, Codec, encode_with_feedback, with_exact_end
from shoal.gossip.deadlines import BEAT, Progress
from shoal.gossip.events import Data, Drop, Effects, Loan, Send, SetTimer, Timer, Vector
from shoal.gossip.messages import Applied, Coming, PairingMessage, Push, Settle
from shoal.gossip.run_spec import CHUNK_NUMEL
from shoal.gossip.sequence import Sequence

Span: TypeAlias = "slice[int, int, None]"
INFINITY: Final = float("inf")
MAX_DOUBTFUL: Final = 4
"""Peers without a link for which a push is kept: each costs half a vector's memory at most."""
MAX_GIVERS: Final = 1024
"""Peers whose last applied id is remembered; those without a link are forgotten first, and then take nothing
back."""
LEAST_HELD: Final = 0.5
"""Share of its own weight that a peer must hold to give: it then never holds less than half of that, and
local progress moves its estimate by at most four times itself. Costs hardly a step in ten."""
TOO_HEAVY: Final = "pushed more weight than a peer can have"
TOO_LONG: Final = "pushed numbers far longer than those of anybody else"
MAX_ASKS: Final = 2
"""Unanswered questions after which a step goes on without its peer."""


class PushSumConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What pairwise averaging goes by."""

    max_norm: float = 1e15
    """The largest Euclidean norm of a chunk that is believed."""
    codec: str = "float32"
    """How numbers travel; what a lossy one leaves out stays with its giver. Equal on all peers."""
    chunk_numel: int = CHUNK_NUMEL
    """Numbers per chunk. Equal on all peers."""
    exact: int = 0
    """So many numbers at the end are a model's buffers. Equal on all peers."""
    least_held: float = LEAST_HELD
    """See there."""


class Stage(Enum):
    """How a giver stands with one receiver."""

    UNKNOWN = "unknown"
    ASKING = "asking"
    SETTLED = "settled"
    PUSHING = "pushing"


@dataclass(slots=True)
class _Given:
    """What we gave to one peer."""

    stage: Stage = Stage.UNKNOWN
    epoch: int = 0
    next_id: int = 1
    sent: dict[int, tuple[int, float, Vector]] = field(default_factory=dict)
    """By id, what is not acknowledged: chunk, weight and numbers."""
    due: float = INFINITY
    asks: int = 0
    progress: Progress | None = None
    """Of the push that is under way."""
    lent: list[Loan] = field(default_factory=list)
    """Its numbers, on their way."""
    applied: int = 0
    """Bytes of it that were applied."""
    came: int = 0
    """Bytes of it that have come, as its receiver says."""

    def take_back(self) -> None:
        """Let no more of the push be sent: nobody would apply it."""
        for loan in self.lent:
            loan.end()
        self.lent = []


class PushSum:
    """One peer's mass, and what is under way. See the module's docstring."""

    def __init__(self, numel: int, config: PushSumConfig, epochs: Sequence, run: bytes = b"") -> None:
        """`epochs`: of what we give, and of our answers to those whom we do not know."""
        self.config, self.run = config, run
        self.wait = 15.0
        """Seconds without a byte after which a push is asked about; learned."""
        self.longest = self.wait
        """Seconds that a push may take at most beyond them, while it moves."""
        self.given_up: list[PeerId] = []
        """Peers to which a push was too slow, until the owner of this core takes them."""
        self.sums: Vector = np.zeros(numel, dtype=np.float32)
        self.weights: npt.NDArray[np.float64] = np.zeros(-(-numel // config.chunk_numel), dtype=np.float64)
        """By chunk."""
        self._read_at = self.weights.copy()
        """The weights when the estimate was read last."""
        self.accounts = Accounts()
        self.uncounted = 0.0
        """Weight of others that was more than plausible, over all chunks: it and its numbers are lost."""
        self.has_shortened = False
        """Whether a push was shortened to a plausible length."""
        self.partial: list[tuple[PeerId, str]] = []
        """Peers of whose pushes a part did not count, and their faults, until the owner of this core takes
        them. A newcomer may bring little, and its push is clipped: that is no fault, and empty."""
        self._length = 0.0
        """The norm of our estimate when it was read last."""
        self.share = 0.0
        """Our weight in the mean; 0 until mass was minted."""
        self.givers: set[PeerId] = set()
        """Peers that have given us something since this was last emptied."""
        self.target: PeerId | None = None
        """To whom the step that is under way gives."""
        self._epochs = epochs
        self._codec = CODECS[config.codec]
        self._linked: set[PeerId] = set()
        self._given: OrderedDict[PeerId, _Given] = OrderedDict()
        self._applied: OrderedDict[PeerId, tuple[int, int]] = OrderedDict()
        """By giver: its epoch, and the id of the last chunk we applied."""
        self._told: dict[PeerId, float] = {}
        """By giver: when we told it last how much has come."""
        self._last = PeerId("")
        self._has_pushed = False
        """Whether the step that is under way has given what it gives."""

    # --- commands ---------------------------------------------------------------------------------

    def mint(self, vector: Vector, weight: float) -> None:
        """Take part from now on, with this contribution."""
        self.share = weight
        self._length = float(np.linalg.norm(vector))
        self.sums += np.float32(weight) * vector
        self.weights += weight

    def move(self, delta: Vector, weight: float) -> None:
        """Add local progress: the mean moves by our share of it, now `weight`.

        A model's buffers are no progress: what we held of them when the work began has become what it led to.
        """
        # With more examples than before we count more from now on, and bring the mass for it.
        more, self.share = weight - self.share, weight
        for chunk in range(self.weights.size):
            here, mass = self._slice(chunk), float(self.weights[chunk])
            if more:
                self.weights[chunk] = max(mass + more, LEAST_HELD * mass)
                self.sums[here] *= np.float32(self.weights[chunk] / mass)
            self.sums[here] += np.float32(weight) * delta[here]
            if exact := self._exact(here):
                end = slice(here.stop - exact, here.stop)
                held = min(float(self._read_at[chunk]), mass) * float(self.weights[chunk]) / mass
                self.sums[end] += np.float32(held - weight) * delta[end]

    def read(self, out: Vector) -> None:
        """Write our estimate of the mean."""
        for chunk in range(self.weights.size):
            here = self._slice(chunk)
            np.divide(self.sums[here], np.float32(self.weights[chunk]), out=out[here])
        self._length = float(np.linalg.norm(out[: self.sums.size]))
        self._read_at = self.weights.copy()

    def step(self, peers: set[PeerId], now: float) -> Effects:
        """Give half to the next of these peers to which nothing is in doubt; without one keep all.

        Whoever holds little keeps it too, until it is given more.
        """
        if self.is_poor:
            return []
        able = sorted(peer for peer in peers & self._linked if not self._is_doubtful(peer))
        if self.target is not None or not able:
            return []
        self._has_pushed = False
        self.target = self._last = next((peer for peer in able if peer > self._last), able[0])
        given = self._given.setdefault(self.target, _Given())
        return self._push(self.target, now) if given.stage is Stage.SETTLED else self._ask(self.target, now)

    @property
    def is_poor(self) -> bool:
        """Whether too little is held to give of it."""
        return not self.share or self.weights.min() < self.config.least_held * self.share

    def stop(self) -> None:
        """Wait for the step no longer; what it gave is still asked about."""
        self.target = None

    # --- events -----------------------------------------------------------------------------------

    def found(self, peer: PeerId, now: float) -> Effects:
        """A link to a peer is up: ask what became of what was under way."""
        self._linked.add(peer)
        given = self._given.get(peer)
        return self._ask(peer, now) if given is not None and given.sent else []

    def lost(self, peer: PeerId, now: float) -> Effects:
        """The last link to a peer is gone."""
        self._linked.discard(peer)
        given = self._given.get(peer)
        if given is None:
            return []
        given.stage, given.due = Stage.UNKNOWN, INFINITY
        given.take_back()
        if self.target == peer:
            self.target = None
        if not given.sent:
            del self._given[peer]
        doubtful = [each for each, held in self._given.items() if held.sent and each not in self._linked]
        for other in doubtful[: max(0, len(doubtful) - MAX_DOUBTFUL)]:
            self.forget(other)
        return self._set_timer()

    def forget(self, peer: PeerId) -> None:
        """A peer is dead: what was in doubt went with it."""
        if (given := self._given.pop(peer, None)) is not None:
            given.take_back()
        if self.target == peer:
            self.target = None

    def timer(self, now: float) -> Effects:
        """Ask about what was not acknowledged in time."""
        effects: Effects = []
        for peer, given in list(self._given.items()):
            if now < given.due:
                continue
            if given.asks >= MAX_ASKS and self.target == peer:
                self.target = None
            if given.stage is Stage.PUSHING:
                self.given_up.append(peer)
            if given.sent or self.target == peer:
                effects += self._ask(peer, now)
            else:
                given.stage, given.due = Stage.UNKNOWN, INFINITY
        return effects + self._set_timer()

    def handle(self, peer: PeerId, message: PairingMessage, data: Data, now: float) -> Effects:
        """A message of this protocol arrived."""
        match message:
            case Push():
                return self._handle_push(peer, message, data, now)
            case Settle():
                return self._handle_settle(peer, message, now)
            case Applied():
                return self._handle_applied(peer, message, now)
            case Coming():
                return self._handle_coming(peer, message, now)

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> Effects:
        """So many bytes have come of a bulk message of this peer that is not here yet: tell it."""
        epoch, last = self._applied.get(peer, (-1, 0))
        if epoch < 0 or now < self._told.get(peer, 0.0) + BEAT:
            return []
        self._told[peer] = now
        return [Send(peer, Coming(epoch, last, n_bytes))]

    def _handle_push(self, peer: PeerId, message: Push, data: Data, now: float) -> Effects:
        epoch, last = self._applied.get(peer, (-1, 0))
        if message.epoch != epoch or message.id != last + 1:
            return []
        if message.chunk >= self.weights.size:
            return [Drop(peer, "no such chunk")]
        here = self._slice(message.chunk)
        numbers = self._decode(data, here)
        if numbers is None or not is_sane(numbers, self.config.max_norm):
            return [Drop(peer, "push is not finite, or of another size")]
        if not self.share:
            # What is plausible is told by our own weight; its giver takes back what was not applied.
            return []
        self._applied[peer] = (epoch, message.id)
        self._take(message.chunk, *self._plausible(peer, message, numbers))
        self.givers.add(peer)
        if message.chunk == self.weights.size - 1:
            return [Send(peer, Applied(epoch, message.id))]
        return self.arriving(peer, 0, now)

    def _plausible(self, peer: PeerId, message: Push, numbers: Vector) -> tuple[float, Vector]:
        """Return as much of a push as its giver can plausibly have to give."""
        here, n_chunks = self._slice(message.chunk), self.weights.size
        weight = n_chunks * self.accounts.take(peer, message.weight / n_chunks, self.share, len(self._linked))
        weight = min(weight, message.weight)
        if weight < message.weight:
            self.uncounted += message.weight - weight
            self.partial.append((peer, TOO_HEAVY if message.weight > self._most else ""))
            numbers = numbers * np.float32(weight / message.weight)
        estimate = self.sums[here] / np.float32(self.weights[message.chunk])
        own = float(np.linalg.norm(estimate))
        # Or our whole estimate: a chunk may be next to nothing here and not there.
        own = max(own, self._length)
        length = float(np.linalg.norm(numbers))
        if own and length > LONGEST * own * weight:
            self.has_shortened = True
            self.partial.append((peer, TOO_LONG))
            numbers = numbers * np.float32(LONGEST * own * weight / length)
        return weight, self._within_reach(peer, message.chunk, weight, numbers, estimate)

    @property
    def _most(self) -> float:
        """More weight than any correct peer gives at a time."""
        return self.share * plausible_share(len(self._linked))

    def _within_reach(
        self, peer: PeerId, chunk: int, weight: float, numbers: Vector, estimate: Vector
    ) -> Vector:
        """Return numbers of this weight, no farther from our estimate than is plausible of their giver."""
        # As mass: a peer may say that its numbers weigh next to nothing, and nothing is divided by that.
        near: Vector = estimate * np.float32(weight)
        apart: Vector = numbers - near
        length = float(np.linalg.norm(apart))
        distance = length / weight if weight else INFINITY
        reach = self.accounts.reach(peer, chunk, distance)
        if reach >= distance:
            return numbers
        self.has_shortened = True
        self.partial.append((peer, ""))
        return near + apart * np.float32(reach / distance)

    def _handle_settle(self, peer: PeerId, message: Settle, now: float) -> Effects:
        epoch, last = self._applied.get(peer) or (-1, self._epochs.next())
        if message.epoch < epoch:
            return []
        self._applied[peer] = (message.epoch, last)
        self._applied.move_to_end(peer)
        self._told[peer] = now
        if len(self._applied) > MAX_GIVERS:
            strangers = (each for each in self._applied if each not in self._linked)
            forgotten = next(strangers, next(iter(self._applied)))
            del self._applied[forgotten]
            self._told.pop(forgotten, None)
        return [Send(peer, Applied(message.epoch, last))]

    def _handle_applied(self, peer: PeerId, message: Applied, now: float) -> Effects:
        given = self._given.get(peer)
        if given is None or message.epoch != given.epoch:
            return []
        given.applied += self._let_go(given, message.id)
        if given.stage is Stage.ASKING:
            # Else it knows nothing of what we gave: what was in doubt died with its former life.
            if next(iter(given.sent), 0) == message.id + 1:
                for chunk, weight, numbers in given.sent.values():
                    self._take(chunk, weight, numbers)
                    self.accounts.gave(peer, -weight / self.weights.size)
            given.sent, given.next_id = {}, message.id + 1
            self._settled(given)
            if self.target == peer and not self._has_pushed:
                return self._push(peer, now)
        elif given.stage is not Stage.PUSHING or given.sent:
            return []
        self._settled(given)
        if self.target == peer:
            self.target = None
        return self._set_timer()

    def _handle_coming(self, peer: PeerId, message: Coming, now: float) -> Effects:
        """A push moves: wait on for it."""
        given = self._given.get(peer)
        if given is None or message.epoch != given.epoch or given.stage is not Stage.PUSHING:
            return []
        given.applied += self._let_go(given, message.id)
        # More than the next chunk cannot be on its way.
        rest = min(message.moved, max((self._n_bytes(sent[0]) for sent in given.sent.values()), default=0))
        more, given.came = given.applied + rest - given.came, max(given.came, given.applied + rest)
        if more > 0 and given.progress is not None:
            given.progress.moved(more, now)
            given.due = given.progress.due
        return self._set_timer()

    def _let_go(self, given: _Given, last: int) -> int:
        """Keep no more of what was applied, up to this id; return how many bytes that was."""
        applied = [id_ for id_ in given.sent if id_ <= last]
        return sum(self._n_bytes(given.sent.pop(id_)[0]) for id_ in applied)

    # --- inside -----------------------------------------------------------------------------------

    @property
    def push_bytes(self) -> int:
        """Bytes of numbers that a push carries."""
        return sum(self._n_bytes(chunk) for chunk in range(self.weights.size))

    def _n_bytes(self, chunk: int) -> int:
        here = self._slice(chunk)
        return self._codec_of(here).size(here.stop - here.start)

    def _push(self, peer: PeerId, now: float) -> Effects:
        """Give half of every chunk."""
        given = self._given[peer]
        effects: Effects = []
        self._has_pushed = True
        self.accounts.halve()
        self.accounts.gave(peer, float(self.weights.mean()) / 2)
        for chunk in range(self.weights.size):
            here = self._slice(chunk)
            half = self.sums[here] * np.float32(0.5)
            data, numbers = encode_with_feedback(self._codec_of(here), half, None)
            weight = float(self.weights[chunk]) / 2
            self.sums[here] -= numbers
            self.weights[chunk] -= weight
            given.sent[given.next_id] = (chunk, weight, numbers)
            loan = Loan(memoryview(data))
            given.lent.append(loan)
            effects.append(Send(peer, Push(given.epoch, given.next_id, chunk, weight), loan))
            given.next_id += 1
        given.progress = Progress(now, self.wait, self.longest, self.push_bytes)
        given.stage, given.due, given.applied, given.came = Stage.PUSHING, given.progress.due, 0, 0
        return [*effects, *self._set_timer()]

    def _ask(self, peer: PeerId, now: float) -> Effects:
        given = self._given[peer]
        given.take_back()
        if given.stage is not Stage.ASKING:
            given.stage, given.epoch, given.asks = Stage.ASKING, self._epochs.next(), 0
        given.asks += 1
        given.due = now + self.wait
        return [Send(peer, Settle(given.epoch)), *self._set_timer()]

    def _settled(self, given: _Given) -> None:
        given.stage, given.due, given.asks, given.lent = Stage.SETTLED, INFINITY, 0, []

    def _is_doubtful(self, peer: PeerId) -> bool:
        given = self._given.get(peer)
        return given is not None and bool(given.sent)

    def _take(self, chunk: int, weight: float, numbers: Vector) -> None:
        self.sums[self._slice(chunk)] += numbers
        self.weights[chunk] += weight

    def _decode(self, data: Data, here: "Span") -> Vector | None:
        codec, numel = self._codec_of(here), here.stop - here.start
        if len(data) != codec.size(numel):
            return None
        try:
            return codec.decode(data, numel)
        except BadCode:
            return None

    def _codec_of(self, here: "Span") -> Codec:
        return with_exact_end(self._codec, self._exact(here))

    def _exact(self, here: "Span") -> int:
        """Return how many of the numbers here, at the end, belong to the model's buffers."""
        return min(here.stop - here.start, max(0, here.stop - self.sums.size + self.config.exact))

    def _slice(self, chunk: int) -> "Span":
        lo = chunk * self.config.chunk_numel
        return slice(lo, min(lo + self.config.chunk_numel, self.sums.size))

    def _set_timer(self) -> Effects:
        return [
            SetTimer(min((given.due for given in self._given.values()), default=INFINITY), Timer.PUSH_SUM)
        ]
