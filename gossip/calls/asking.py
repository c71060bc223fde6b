"""Asking: the calls of this node's trainer, each until an answer, or until no choice is left.

    call --> first choice --answer--> told to the trainer
                 | refused, lost, or silent for the learned deadline
                 v
             next choice ... --none--> unanswered

The last choice is waited for though its link is lost: a peer that is linked again within the deadline is sent
the same call again, and acts once (answering.py). How long to wait is learned by verb (gossip/deadlines.py);
how quick a peer is, from its answers. Tensors of an answer are checked before they are read.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.calls.forms import Form, check
from shoal.gossip.calls.tally import Tally
from shoal.gossip.deadlines import SHORTEST_TIMEOUT, Deadline, median
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.messages import Answer, Call, Shapes, Unserved

MAX_CALLS: Final = 256
"""Calls of the trainer that are not answered, at a time."""
MAX_KNOWN: Final = 128
"""Peers whose times are remembered."""
LONGEST_STRETCH: Final = 2.0
"""Times the deadline that an answer may take whose bytes keep coming."""
SHUNNED: Final = 60.0
"""Seconds for which a peer that left a call unanswered is asked last."""
INFINITY: Final = float("inf")
UNASKED: Final = "answer that nobody waits for"


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a call."""

    id: int
    peer: PeerId | None
    """Who answered; None: nobody, or nobody needed to."""
    shapes: Shapes = ()
    data: Data = b""
    failure: str = ""
    """Why nobody answered."""


@dataclass(slots=True)
class _Open:
    """A call that is not answered."""

    message: Call
    data: Data
    choices: deque[PeerId]
    """The one that is asked first, and those after it."""
    asked_at: float
    due: float
    latest: float
    """When even bytes that keep coming are of no use."""
    failures: tuple[str, ...] = ()


class Asking:
    """The caller's side of one node. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        patience: float,
        linked: AbstractSet[PeerId],
        admission: Admission,
        tally: Tally,
    ) -> None:
        """`linked`: the peers with links, as they are at any time; `admission`: counts what is dropped."""
        self._tally = tally
        self._me, self._patience, self._linked, self._admission = me, patience, linked, admission
        self._run, self._forms = b"", dict[str, Form]()
        self._open: dict[int, _Open] = {}
        self._waits: dict[str, Deadline] = {}
        self._seconds: OrderedDict[PeerId, deque[float]] = OrderedDict()
        self._shunned: OrderedDict[PeerId, float] = OrderedDict()
        self.ended: list[Ended] = []
        """What the trainer is to be told; whoever reads it empties it."""

    def attach(self, run: bytes, forms: Mapping[str, Form]) -> None:
        """A trainer is there; the calls of the one before are nobody's."""
        self._run, self._forms = run, dict(forms)
        self.detach()

    def detach(self) -> None:
        """The trainer is gone."""
        self._open.clear()
        self.ended.clear()

    # --- what the trainer asks --------------------------------------------------------------------

    def call(self, id_: int, peers: tuple[PeerId, ...], message: Call, data: Data, now: float) -> Effects:
        """Ask the first of these peers that is there; what comes of it stands in `ended`."""
        form = self._forms.get(message.verb)
        if form is None or len(self._open) >= MAX_CALLS:
            why = "too many calls at once" if form else f"{message.verb} is no verb of the method"
            self.ended.append(Ended(id_, None, failure=why))
            return []
        there = [peer for peer in dict.fromkeys(peers) if peer == self._me or peer in self._linked]
        if form.gives is None:
            self.ended.append(Ended(id_, None))
            return [Send(there[0], message, data)] if there else []
        if there and there[0] != peers[0]:
            self._tally.left(message.verb, peers[0], "gone", now)
        call = _Open(message, data, deque(there or peers[:1]), now, INFINITY, INFINITY)
        self._open[id_] = call
        if not call.choices:
            self._fail(id_, "nobody holds the role")
            return []
        return self._send(call, now)

    def order(self, peers: list[tuple[PeerId, float]], now: float) -> list[tuple[PeerId, float]]:
        """Return peers, given with their ability, and each one's median of seconds; the quickest first."""

        def rank(each: tuple[PeerId, float]) -> tuple[bool, bool, float, PeerId]:
            peer, ability = each
            seconds = self.seconds(peer)
            is_shunned = now < self._shunned.get(peer, 0.0)
            return is_shunned, not seconds, seconds or -ability, peer

        return [(peer, self.seconds(peer)) for peer, _ in sorted(peers, key=rank)]

    def seconds(self, peer: PeerId) -> float:
        """Return the median of a peer's answers' times; 0 where it gave none."""
        seen = self._seconds.get(peer)
        return median(list(seen)) if seen else 0.0

    @property
    def longest_wait(self) -> float:
        """The longest of the learned deadlines."""
        return max((wait.seconds() for wait in self._waits.values()), default=self._patience)

    @property
    def n_open(self) -> int:
        """How many calls are not answered."""
        return len(self._open)

    # --- what peers answer ------------------------------------------------------------------------

    def answered(self, peer: PeerId, message: Answer, data: Data, now: float) -> None:
        """Take an answer.

        Raises:
            RemoteViolation: it breaks the form of what was asked.
        """
        found = self._of(peer, message.verb, message.step)
        if found is None or message.run != self._run:
            self._admission.count(UNASKED)
            return
        id_, call = found
        gives = self._forms[message.verb].gives
        assert gives is not None
        check(message.shapes, len(data), gives)
        del self._open[id_]
        seconds = now - call.asked_at
        self._wait(message.verb).observe(seconds)
        self._tally.answered(message.verb, peer, seconds, now)
        self._shunned.pop(peer, None)
        seen = self._seconds.pop(peer, None)
        self._seconds[peer] = deque(maxlen=12) if seen is None else seen
        self._seconds[peer].append(max(seconds, 1e-6))
        if len(self._seconds) > MAX_KNOWN:
            self._seconds.popitem(last=False)
        self.ended.append(Ended(id_, peer, message.shapes, bytes(data)))

    def broke(self, peer: PeerId, verb: str, step: bytes, now: float) -> Effects:
        """An answer of this peer broke its form: ask the next."""
        return self._give_up(peer, verb, step, "answered what the verb does not give", now)

    def unserved(self, peer: PeerId, message: Unserved, now: float) -> Effects:
        """A peer does not answer."""
        if message.run != self._run:
            return []
        return self._give_up(peer, message.verb, message.step, message.reason, now)

    def arriving(self, peer: PeerId, now: float) -> None:
        """Bytes of a bulk message of this peer have come: it may be the answer."""
        for call in self._open.values():
            if call.choices[0] == peer:
                call.due = min(max(call.due, now + SHORTEST_TIMEOUT), call.latest)

    def found(self, peer: PeerId) -> Effects:
        """A peer is linked again: what it was asked may have been lost."""
        return [
            Send(peer, call.message, call.data) for call in self._open.values() if call.choices[0] == peer
        ]

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A peer is gone."""
        effects = Effects()
        for id_, call in list(self._open.items()):
            if call.choices[0] == peer and len(call.choices) > 1:
                effects += self._next(id_, call, "lost", now)
        return effects

    def timer(self, now: float) -> Effects:
        """Ask the next choice in place of each that was silent for too long."""
        effects = Effects()
        for id_, call in list(self._open.items()):
            if now < call.due:
                continue
            self._shun(call.choices[0], now)
            self._wait(call.message.verb).miss()
            effects += self._next(id_, call, "silent", now)
        return effects

    @property
    def due(self) -> float:
        """When a wait ends, if nothing comes."""
        return min((call.due for call in self._open.values()), default=INFINITY)

    # --- inside -----------------------------------------------------------------------------------

    def _of(self, peer: PeerId, verb: str, step: bytes) -> tuple[int, _Open] | None:
        for id_, call in self._open.items():
            if (call.choices[0], call.message.verb, call.message.step) == (peer, verb, step):
                return id_, call
        return None

    def _give_up(self, peer: PeerId, verb: str, step: bytes, why: str, now: float) -> Effects:
        found = self._of(peer, verb, step)
        if found is None:
            return []
        self._shun(peer, now)
        return self._next(*found, why, now)

    def _shun(self, peer: PeerId, now: float) -> None:
        self._shunned.pop(peer, None)
        self._shunned[peer] = now + SHUNNED
        if len(self._shunned) > MAX_KNOWN:
            self._shunned.popitem(last=False)

    def _next(self, id_: int, call: _Open, why: str, now: float) -> Effects:
        call.failures += (f"{call.choices[0][-6:]} {why}",)
        self._tally.left(call.message.verb, call.choices[0], why, call.asked_at)
        call.choices.popleft()
        while len(call.choices) > 1 and not self._is_there(call.choices[0]):
            call.choices.popleft()
        if not call.choices:
            self._fail(id_, "; ".join(call.failures)[:1000])
            return []
        return self._send(call, now)

    def _is_there(self, peer: PeerId) -> bool:
        return peer == self._me or peer in self._linked

    def _fail(self, id_: int, why: str) -> None:
        del self._open[id_]
        self.ended.append(Ended(id_, None, failure=why))

    def _send(self, call: _Open, now: float) -> Effects:
        wait = self._wait(call.message.verb).seconds()
        call.asked_at, call.due, call.latest = now, now + wait, now + LONGEST_STRETCH * wait
        return [Send(call.choices[0], call.message, call.data)]

    def _wait(self, verb: str) -> Deadline:
        if verb not in self._waits:
            self._waits[verb] = Deadline(self._patience, floor=SHORTEST_TIMEOUT)
        return self._waits[verb]
