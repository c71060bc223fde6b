"""MaskedSum: the weighted mean of a group of which nobody learns anything but the mean.

    advertise   gather     keys for this attempt, weight, and how far the contribution reaches
    deal        telling    shares of the secrets behind the keys, each sealed to its holder
    heard       telling    whose shares came; whose shares came to as many as open a sum is in the masks
    sum         all-reduce masked words (word_sum.py), with its takeovers: owners see masked words only
    consent     telling    the digest of all that was agreed on, and of who is in the sum of each part
    unmask      telling    of those in it shares of one secret, of all others shares of the other

Contributions are clipped and put on an integer grid (numbers.py), with factors that follow from the weights
as in every mean (bounds.py), and masked (crypto/masking.py). A member that vanishes before the sum is
in no mask, or its masks are taken out by shares; one that vanishes afterwards is in the sum. All but a third
of the members that advertised have to stay to the end, and three at least. A member reveals nothing before as
many of them as open a sum have said that they saw the same, so that no two lists are opened. What a body of a
gather says counts only if its author committed itself to it before this member too.

With noise (gossip/policies/privacy.py) a part opens only if as many are in it as noise was made for.

A member that fails leaves the vector as it was. It is written when everything has been opened and lies in the
range that the grid allows. A member may turn a mean to anything in that range, and no farther.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from math import inf
from typing import Final

import msgspec
import numpy as np

from shoal.crypto.errors import BadKey, BadShare
from shoal.crypto.keys import PeerId
from shoal.crypto.masking import LEAST, MaskKeys, Masks, Roster
from shoal.crypto.shamir import Entropy
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.attendance import UNNAMED
from shoal.gossip.averaging.chunks import bounds
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.averaging.gather import INNER_INDEX, Gather
from shoal.gossip.averaging.origin import EXACT, Origin
from shoal.gossip.averaging.secure.integer_grid import Words
from shoal.gossip.averaging.secure.numbers import Advert, Numbers, read_advert
from shoal.gossip.averaging.secure.telling import Telling
from shoal.gossip.averaging.secure.word_sum import WordSum
from shoal.gossip.deadlines import BEAT
from shoal.gossip.events import Data, Drop, Effects, Send, SetTimer, Timer, Vector
from shoal.gossip.group import Bodies, Exchanged, Group
from shoal.gossip.messages import SECURE_INDEX, Abandon, Exchange, ExchangeMessage

GRACE: Final = 2 * BEAT
"""Seconds by which each stage is more patient than the one before."""
HEARD_BYTES: Final = 8
"""Of the set of members whose shares came: bit k is member k."""
MAX_EARLY: Final = 8 << 20
"""Bytes of what others send ahead of this member."""


class Stage(IntEnum):
    """Where a masked sum stands."""

    ADVERTISE = 1
    DEAL = 2
    HEARD = 3
    SUM = 4
    CONSENT = 5
    UNMASK = 6
    DONE = 7
    FAILED = 8


class MaskedSum:
    """One member's side of one masked sum. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        group: Group,
        index: int,
        vector: Vector,
        weight: float,
        config: ExchangeConfig,
        origin: Origin,
        ask: bytes = UNNAMED,
        discount: float = 1.0,
        *,
        entropy: Entropy,
        unwanted: frozenset[PeerId] = frozenset(),
    ) -> None:
        """`vector` float32 [n], finite, becomes the mean when all is opened. `ask`: see `ask_name`.

        `unwanted`: whom this member would leave out of the masks (doubts.py). It takes more than a third.
        """
        self.group, self.index = group, index
        self.lost_members: list[PeerId] = []
        self.unlike: list[PeerId] = []
        self.unfair_cuts: list[PeerId] = []
        self.failure = ""
        self.is_refused = False
        """Whether all members refuse alike: too few are left, or what they have cannot be opened."""
        self.void: tuple[PeerId, ...] = ()
        """The contributors of a sum that opened to nonsense."""
        self.left_out_by: tuple[PeerId, ...] = ()
        """Members of the masks that this one is not in."""
        self.stage = Stage.ADVERTISE
        self._me, self._vector, self._config, self._origin = me, vector, config, origin
        self.numbers = Numbers(vector, origin, config)
        self._ask, self._entropy, self._unwanted = ask, entropy, unwanted
        self._mine = group.members.index(me)
        self._number = {peer: number for number, peer in enumerate(group.members)}
        self._keys = MaskKeys(len(group.members), entropy)
        self._said = (weight, discount)
        self._adverts: dict[int, Advert] = {}
        self._masks: Masks | None = None
        self._dealt: dict[int, bytes] = {}
        self._words: Words = np.zeros(0, np.uint64)
        self._edges: list[int] = []
        self._lists: list[frozenset[int]] = []
        self._exchanges: dict[Stage, GroupExchange] = {}
        self._out: list[PeerId] = []
        """Members that are there and in no mask."""
        self._early: list[tuple[PeerId, ExchangeMessage, Data]] = []
        self._early_bytes = 0
        self.result: Exchanged | None = None

    def __repr__(self) -> str:
        """Say no secret."""
        return f"MaskedSum(ask {self.index}, {self.stage.name.lower()})"

    # --- an exchange ------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        return self.stage in (Stage.DONE, Stage.FAILED)

    @property
    def outcome(self) -> Exchanged | None:
        """See `shoal.gossip.averaging.exchange`."""
        return self.result

    @property
    def newcomers_took(self) -> float:
        """See `shoal.gossip.averaging.exchange`."""
        return sum((each.newcomers_took for each in self._exchanges.values()), 0.0)

    def owns(self, index: int) -> bool:
        """See `shoal.gossip.averaging.exchange`."""
        return 0 < index // SECURE_INDEX < Stage.DONE and index % INNER_INDEX == self.index

    def begin(self, now: float) -> Effects:
        """Advertise keys."""
        if len(self.group.members) < LEAST:
            return self._refuse(
                f"{len(self.group.members)} of at least {LEAST} peers were ready for a secure sum"
            )
        body = self.numbers.advert(*self._said, self._keys.public)
        return self._enter(Stage.ADVERTISE, self._gather(Stage.ADVERTISE, self.group, body, self._ask), now)

    def handle(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        """Take a message of this exchange."""
        if peer not in self._number or peer == self._me or not isinstance(message, Exchange):
            return []
        stage = Stage(message.index // SECURE_INDEX)
        current = self._exchanges.get(self.stage)
        if current is None:
            return self._exchanges[stage].handle(peer, message, data, now) if stage in self._exchanges else []
        if stage == self.stage:
            return self._after(current.handle(peer, message, data, now), now)
        if stage > self.stage:
            if self._early_bytes + len(data) <= MAX_EARLY and len(self._early) < 64 * len(self._number):
                self._early.append((peer, message, data))
                self._early_bytes += len(data)
            return self._after(current.heard_elsewhere(peer, now, is_ahead=True), now)
        if isinstance(message, Abandon):
            return self._after(current.lost(peer, now), now)
        effects = current.heard_elsewhere(peer, now, is_ahead=False)
        former = self._exchanges.get(stage)
        # It tells who still waits there that it is over.
        return effects + (former.handle(peer, message, data, now) if former is not None else [])

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """See `shoal.gossip.averaging.exchange`."""
        if (current := self._exchanges.get(self.stage)) is not None:
            current.arriving(peer, n_bytes, now)

    def fire(self, timer: Timer, now: float) -> Effects:
        """See `shoal.gossip.averaging.exchange`."""
        current = self._exchanges.get(self.stage)
        return [] if current is None else self._after(current.fire(timer, now), now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member whose link is gone."""
        current = self._exchanges.get(self.stage)
        return [] if current is None else self._after(current.lost(peer, now), now)

    def heard_elsewhere(self, peer: PeerId, now: float, *, is_ahead: bool) -> Effects:
        """See `shoal.gossip.averaging.exchange`."""
        current = self._exchanges.get(self.stage)
        if current is None:
            return []
        return self._after(current.heard_elsewhere(peer, now, is_ahead=is_ahead), now)

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        current = self._exchanges.get(self.stage)
        return [] if current is None else current.abandon()

    @property
    def origin(self) -> Origin:
        """What the contribution is measured from."""
        return self._origin

    # --- from stage to stage ----------------------------------------------------------------------

    def _gather(self, stage: Stage, group: Group, body: bytes, ask: bytes = UNNAMED) -> Gather:
        return Gather(self._me, group, self.index + SECURE_INDEX * stage, body, self._config_of(stage), ask)

    def _telling(self, stage: Stage, group: Group, body: bytes) -> Telling:
        return Telling(self._me, group, self.index + SECURE_INDEX * stage, body, self._config_of(stage))

    def _config_of(self, stage: Stage) -> ExchangeConfig:
        """Return how long a stage waits: longer than who is still in the one before, for one that is lost."""
        config, more = self._config, (stage - 1) * GRACE
        return msgspec.structs.replace(
            config, silence_timeout=config.silence_timeout + more, slow_timeout=config.slow_timeout + more
        )

    def _enter(self, stage: Stage, exchange: GroupExchange, now: float) -> Effects:
        self.stage = stage
        self._exchanges[stage] = exchange
        effects = self._after(exchange.begin(now), now)
        for peer in [each for each in (*self.lost_members, *self._out) if each in exchange.group.members]:
            effects += self.lost(peer, now)
        early, self._early, self._early_bytes = self._early, [], 0
        for peer, message, data in early:
            effects += self.handle(peer, message, data, now)
        return effects

    def _after(self, effects: Effects, now: float) -> Effects:
        """Take note of what came of a stage, and go on with the next when it is over."""
        current = self._exchanges.get(self.stage)
        if current is None:
            return effects
        for mine, theirs in (
            (self.lost_members, current.lost_members),
            (self.unlike, current.unlike),
            (self.unfair_cuts, current.unfair_cuts),
        ):
            mine += [peer for peer in theirs if peer not in mine and peer not in self._out]
        self.failure = self.failure or current.failure
        if not current.is_over:
            return effects
        outcome = current.outcome
        if outcome is None:
            self.stage = Stage.FAILED
            return effects
        if isinstance(current, Gather) and not isinstance(current, Telling) and current.unproved:
            return effects + self._give_up("members were told different things by one of them")
        try:
            if isinstance(outcome, Exchanged):
                return effects + self._summed(current.group, outcome, now)
            return effects + self._gathered(outcome, now)
        except (BadKey, BadShare) as error:
            return effects + self._refuse(str(error))

    def _gathered(self, outcome: Bodies, now: float) -> Effects:
        bodies = {self._number[peer]: body for peer, body in outcome.bodies}
        if self._mine not in bodies:
            return self._give_up("the others went on without this node")
        step: dict[Stage, Callable[[Mapping[int, bytes], float], Effects]] = {
            Stage.ADVERTISE: self._advertised,
            Stage.DEAL: self._took,
            Stage.HEARD: self._heard,
            Stage.CONSENT: self._consented,
            Stage.UNMASK: self._unmasked,
        }
        return step[self.stage](bodies, now)

    def _advertised(self, bodies: Mapping[int, bytes], now: float) -> Effects:
        effects: Effects = []
        for number, body in bodies.items():
            advert = read_advert(body, len(self.group.members))
            if advert is None:
                effects.append(Drop(self.group.members[number], "malformed keys for a secure sum"))
            else:
                self._adverts[number] = advert
        newcomers = {number for number in self._adverts if self.group.members[number] in self.group.newcomers}
        self.numbers.agree(self._adverts, newcomers)
        context = msgspec.msgpack.encode((self.group.id, self.group.round, self.index))
        publics = {number: advert.keys for number, advert in self._adverts.items()}
        roster = Roster(context, publics, len(self.group.members))
        if self.numbers.is_private and (why := self.numbers.choose_noise(self._adverts, roster.threshold)):
            return effects + self._refuse(why)
        self._masks = Masks(self._keys, self._mine, roster, self._entropy)
        dealing = self._telling(Stage.DEAL, self._subgroup(self._adverts), self._masks.dealt)
        return effects + self._enter(Stage.DEAL, dealing, now)

    def _took(self, bodies: Mapping[int, bytes], now: float) -> Effects:
        assert self._masks is not None
        size = self._masks.dealt_bytes
        self._dealt = {number: body for number, body in bodies.items() if len(body) == size}
        wanted = [n for n in self._dealt if n == self._mine or self.group.members[n] not in self._unwanted]
        heard = sum(1 << number for number in wanted).to_bytes(HEARD_BYTES, "big")
        group = self._exchanges[Stage.DEAL].group
        return self._enter(Stage.HEARD, self._telling(Stage.HEARD, group, heard), now)

    def _heard(self, bodies: Mapping[int, bytes], now: float) -> Effects:
        assert self._masks is not None
        need = self._masks.roster.threshold
        told = [int.from_bytes(body, "big") for body in bodies.values() if len(body) == HEARD_BYTES]
        maskers = [n for n in self._adverts if sum(mask >> n & 1 for mask in told) >= need]
        if self._mine not in maskers:
            self.left_out_by = tuple(self.group.members[n] for n in maskers)
            return self._give_up("the others left this node out of a secure sum")
        self._masks.take(self._dealt, maskers)
        absent = sorted(set(self._adverts) - set(maskers))
        self._out = [self.group.members[n] for n in absent if n in self._dealt]
        # One that hears of it may go before this member does.
        self.lost_members = [peer for peer in self.lost_members if peer not in self._out]
        # Members that came to other sets cut and own parts alike: they find out by what they consent to.
        group = self._exchanges[Stage.HEARD].group
        self._words = self._encode()
        self._edges = bounds(self._words.size, group.parts)
        for part in range(len(group.members)):
            self._masks.hide(part, self._part(part))
        numel = max(2, self._config.chunk_numel // 2 * 2)
        plain = {"codec": "float32", "exact": 0, "combine": "mean", "chunk_numel": numel, "max_norm": inf}
        config = msgspec.structs.replace(self._config_of(Stage.SUM), **plain)
        index, vector = self.index + SECURE_INDEX * Stage.SUM, self._words.view(np.float32)
        summing = WordSum(self._me, group, index, vector, 1.0, config, origin=EXACT)
        effects = self._enter(Stage.SUM, summing, now)
        for number in absent:
            effects += self.lost(self.group.members[number], now)
        return effects

    def _summed(self, group: Group, outcome: Exchanged, now: float) -> Effects:
        assert self._masks is not None
        everybody = frozenset(self._masks.maskers)
        numbers = [self._number[peer] for peer in group.members]
        self._lists = [everybody] * len(self.group.members)
        for part, masks in enumerate(outcome.masks):
            if len(set(masks)) > 1:
                return self._refuse("an owner was lost while it gave out the sum of a part in several chunks")
            for mask in masks:
                self._lists[part] = frozenset(n for at, n in enumerate(numbers) if mask >> at & 1)
        if (fewest := min(map(len, self._lists))) < LEAST:
            return self._refuse(f"{fewest} of at least {LEAST} peers contributed to a secure sum")
        noisy = self.numbers.noisy
        if noisy is not None and fewest < (least := noisy.threshold):
            return self._refuse(f"{fewest} of the {least} peers that noise was made for contributed")
        consent = self._masks.transcript(self._lists)
        return self._enter(Stage.CONSENT, self._telling(Stage.CONSENT, group, consent), now)

    def _consented(self, bodies: Mapping[int, bytes], now: float) -> Effects:
        assert self._masks is not None
        alike = [number for number, body in bodies.items() if body == bodies[self._mine]]
        if len(alike) < self._masks.roster.threshold:
            need = self._masks.roster.threshold
            return self._refuse(f"{len(alike)} of at least {need} peers saw the same secure sum")
        group = self._exchanges[Stage.CONSENT].group
        revealing = self._telling(Stage.UNMASK, group, self._masks.reveal(self._lists))
        return self._enter(Stage.UNMASK, revealing, now)

    def _unmasked(self, bodies: Mapping[int, bytes], now: float) -> Effects:
        assert self._masks is not None
        opened = self._masks.mask_of(bodies)
        for part in range(len(self._edges) - 1):
            opened.unhide(part, self._part(part))
        if not self.numbers.write_mean(self._words, self._lists, self._edges):
            self.void = tuple(self.group.members[n] for n in sorted(frozenset().union(*self._lists)))
            return self._refuse("a secure sum lies outside its range: a member gave what it may not")
        self._origin.keep_positive(self._vector, 0)
        self.result = self._exchanged()
        self.stage = Stage.DONE
        return self._stop_timers()

    def _exchanged(self) -> Exchanged:
        lists = self._lists[: len(self._edges) - 1]
        masks = tuple(
            (sum(1 << number for number in each),) if lo < hi else ()
            for each, lo, hi in zip(lists, self._edges, self._edges[1:], strict=False)
        )
        in_all = frozenset.intersection(*(each for each, mask in zip(lists, masks, strict=True) if mask), *())
        summed = self._exchanges[Stage.SUM].outcome
        takeovers = summed.takeovers if isinstance(summed, Exchanged) else 0
        return Exchanged(masks, tuple(sorted(self.group.members[n] for n in in_all)), takeovers)

    def _refuse(self, why: str) -> Effects:
        """End as all members do that see the same."""
        self.is_refused = True
        self.failure = why
        return self._give_up(why)

    def _give_up(self, why: str) -> Effects:
        self.failure = self.failure or why
        gone = Abandon(self.group.id, self.index + SECURE_INDEX * min(self.stage, Stage.UNMASK))
        is_last, self.stage = self.stage is Stage.UNMASK, Stage.FAILED
        if is_last:
            # All was told. The others open with it, and a word that overtakes it would take it from them.
            return self._stop_timers()
        others = [peer for peer in self.group.members if peer != self._me]
        return [*(Send(peer, gone) for peer in others), *self._stop_timers()]

    def _stop_timers(self) -> Effects:
        return [SetTimer(inf, Timer.GATHER), SetTimer(inf, Timer.ALL_REDUCE)]

    def _subgroup(self, numbers: Mapping[int, object] | list[int]) -> Group:
        """Return the group of some of its members, which turns and cuts as it does."""
        group, some = self.group, sorted(numbers)
        members = tuple(group.members[number] for number in some)
        shares = tuple(group.shares[number] for number in some)
        return Group(
            group.id, group.round, members, shares, group.chunk_numel, group.newcomers & set(members)
        )

    # --- numbers ----------------------------------------------------------------------------------

    def _encode(self) -> Words:
        return self.numbers.encode(self._mine, self._entropy)

    def _part(self, part: int) -> Words:
        return self._words[self._edges[part] : self._edges[part + 1]]
