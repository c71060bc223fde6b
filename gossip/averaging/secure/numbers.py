"""Numbers of a masked sum: what one member gives, on the grid that all members choose alike.

    advert    weight, and how far the contribution reaches         said in the open, before the sum
    grids     one for what is measured from a state, one for buffers; clipped at 1.25 times the median reach
    words     of all grids, one after the other

An ask may fix its grid itself (`Masking`). With noise there is another (noisy_grid.py). Then nothing is said
of how far numbers reach.
"""

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Annotated, Final

import msgspec
import numpy as np

from shoal.crypto.keystream import KEY_BYTES, Keystream
from shoal.crypto.masking import is_public
from shoal.crypto.shamir import Entropy
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.bounds import Stated, lower_median, weights_of
from shoal.gossip.averaging.origin import Origin
from shoal.gossip.averaging.secure.integer_grid import MAX_FACTOR, PIECE, Grid, Words, factors_of
from shoal.gossip.averaging.secure.noisy_grid import NoisyGrid
from shoal.gossip.buffers import BUFFERS
from shoal.gossip.errors import LocalViolation
from shoal.gossip.events import Vector
from shoal.gossip.messages import MAX_WEIGHT

FINE_BITS: Final = 20
"""Of a code of what is no change of a state: of a statistic, of buffers, and where states differ."""
HEADROOM: Final = 1.25
"""Times the lower median of what contributions reach, to which all are clipped."""
SMALLEST: Final = 1e-30
"""What reaches no farther counts as zero."""


class Advert(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a member says of its contribution, and its keys for one attempt."""

    weight: Annotated[float, msgspec.Meta(ge=0, le=MAX_WEIGHT)]
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)]
    anchor: Annotated[bytes, msgspec.Meta(max_length=64)]
    """Names what the numbers are distances from; empty where that is this member's alone."""
    reach: Annotated[tuple[float, ...], msgspec.Meta(min_length=4, max_length=4)]
    """The largest magnitudes: of distances, without and of buffers; of the numbers themselves, likewise."""
    keys: Annotated[bytes, msgspec.Meta(max_length=32 * 129)]


def read_advert(body: bytes, labels: int) -> Advert | None:
    """Return what a member said, where it is sound. `labels`: how many keys it has."""
    try:
        advert = msgspec.msgpack.decode(body, type=Advert)
    except msgspec.MsgspecError:
        return None
    is_sound = all(0 <= reach < inf for reach in advert.reach) and is_public(advert.keys, labels)
    return advert if is_sound else None


class Numbers:
    """See the module's docstring."""

    def __init__(self, vector: Vector, origin: Origin, config: ExchangeConfig) -> None:
        """`vector`: float32 [n], which becomes the mean. `origin`: what it is measured from."""
        self.vector, self.factors = vector, dict[int, int]()
        """By member, how much it counts."""
        self.grids: list[Grid] = []
        self.noisy: NoisyGrid | None = None
        """In place of the grids, where the run adds noise."""
        self.is_based = False
        """Whether all measure their numbers from the same."""
        self._origin, self._config = origin, config
        self._split = vector.size - config.exact

    @property
    def is_private(self) -> bool:
        """Whether noise is added."""
        return self._config.privacy.kind == "distributed" and self._config.masking is None

    # --- before the sum ---------------------------------------------------------------------------

    def advert(self, weight: float, discount: float, keys: bytes) -> bytes:
        """Return what this member says of its contribution.

        Raises:
            LocalViolation: a number is not finite.
        """
        reach = self._reaches()
        if not all(np.isfinite(reach)):
            raise LocalViolation("a contribution that is not finite was let in by this node itself")
        if self.is_private or self._config.masking is not None:
            # How far a change reaches follows from data, which noise is to hide, or an ask.
            reach = (0.0,) * len(reach)
        return msgspec.msgpack.encode(Advert(weight, discount, self._anchor(), reach, keys))

    def agree(self, adverts: Mapping[int, Advert], newcomers: Collection[int]) -> None:
        """Choose, as all members do, how numbers are put on the grid, and by how much each counts."""
        adverts = dict(sorted(adverts.items()))
        claims = [Stated(a.weight, 0.0, number in newcomers, a.discount) for number, a in adverts.items()]
        if not claims:
            return
        masking = self._config.masking
        most = MAX_FACTOR if masking is None else masking.levels
        self.factors = dict(zip(adverts, factors_of(weights_of(claims), most), strict=True))
        anchors = {advert.anchor for advert in adverts.values()}
        self.is_based = len(anchors) == 1 and anchors != {b""}
        total = sum(self.factors.values())
        if masking is not None:
            self.grids = [Grid(self.vector.size, masking.clip, masking.bits, total)]
            return
        bits = self._config.grid_bits if self.is_based and anchors != {b"zero"} else FINE_BITS
        spans = ((self._split, bits), (self.vector.size - self._split, FINE_BITS))
        self.grids = [
            Grid(count, self._clip(adverts, newcomers, row), each, total)
            for row, (count, each) in enumerate(spans)
        ]

    def choose_noise(self, adverts: Mapping[int, Advert], threshold: int) -> str:
        """Choose the grid of a sum with noise; returns why there can be none, as all members see it."""
        if not self.is_based:
            return "a change has a norm only where all start from one state: take a larger --group-size"
        self.noisy = NoisyGrid(self.vector.size, self._config.privacy, len(adverts), threshold)
        # All count alike: a weight would make one member's change longer than noise was made for.
        gives = {number: int(advert.weight > 0) for number, advert in adverts.items()}
        self.factors = gives if any(gives.values()) else dict.fromkeys(gives, 1)
        return "" if self.noisy.fields else "so much noise has no room in a word: lower --noise-multiplier"

    # --- to words and back ------------------------------------------------------------------------

    def encode(self, me: int, entropy: Entropy) -> Words:
        """Return the words of this member's contribution."""
        if self.noisy is not None:
            base = self._base(0, self.vector.size)
            return self.noisy.encode(self.vector, base, entropy, gives=self.factors[me] > 0)
        dice = Keystream(entropy(KEY_BYTES))
        words, lo = [], 0
        for grid in self.grids:
            hi = lo + grid.count
            base = self._base(lo, hi) if self.is_based else None
            words.append(grid.encode(self.vector[lo:hi], self.factors[me], dice, base))
            lo = hi
        return np.concatenate(words) if all(each.size for each in words) else max(words, key=len)

    def write_mean(self, words: Words, lists: Sequence[frozenset[int]], edges: Sequence[int]) -> bool:
        """Write the mean of opened sums into the vector. False where one is outside its range: nothing is.

        `lists`: by part, who is in it. `edges`: where parts begin, and the last one ends.
        """
        parts = [(some, lo, hi) for some, lo, hi in zip(lists, edges, edges[1:], strict=False) if lo < hi]
        mean: Vector = np.frombuffer(BUFFERS.take(self.vector.nbytes), np.float32)
        if self.noisy is not None:
            for some, lo, hi in parts:
                givers = sum(self.factors[number] for number in some)
                if not self.noisy.decode(words[lo:hi], lo, len(some), givers, mean):
                    return False
            self._write(mean, 0, mean.size)
            return True
        at, start = 0, 0
        for grid in self.grids:
            here = mean[start : start + grid.count]
            for some, lo, hi in parts:
                first, last = max(lo, at), min(hi, at + grid.n_words)
                total = sum(self.factors[number] for number in some)
                if first < last and not (total and grid.decode(words[first:last], first - at, total, here)):
                    return False
            at, start = at + grid.n_words, start + grid.count
        start = 0
        for grid in self.grids:
            self._write(mean, start, start + grid.count)
            start += grid.count
        return True

    # --- inside -----------------------------------------------------------------------------------

    def _write(self, mean: Vector, lo: int, hi: int) -> None:
        base = self._base(lo, hi) if self.is_based else None
        np.add(mean[lo:hi], np.float32(0) if base is None else base, out=self.vector[lo:hi])

    def _anchor(self) -> bytes:
        """Name what the numbers are measured from, where all members may have the same."""
        origin = self._origin
        if origin.kind == "statistic" or self._config.masking is not None:
            return b"zero"
        return b"" if origin.mixes or origin.state is None else origin.kind.encode() + origin.name

    def _clip(self, adverts: Mapping[int, Advert], newcomers: Collection[int], row: int) -> float:
        """Return where a span is clipped. `row`: 0 without buffers, 1 of buffers."""
        # A member that claims no weight is in no median, nor is a newcomer where there are others.
        giving = {number: advert for number, advert in adverts.items() if advert.weight > 0} or adverts
        heard = [advert for number, advert in giving.items() if number not in newcomers]
        place = row + 2 * (not self.is_based)
        reach = HEADROOM * lower_median([advert.reach[place] for advert in heard or giving.values()])
        return reach if reach > SMALLEST else 0.0

    def _reaches(self) -> tuple[float, ...]:
        spans = ((0, self._split), (self._split, self.vector.size))
        found = [self._reach(lo, hi) for lo, hi in spans]
        return tuple(reach[row] for row in (0, 1) for reach in found)

    def _reach(self, lo: int, hi: int) -> tuple[float, float]:
        """Return the largest magnitude of how far a span is from what it is measured from, and of itself."""
        apart, itself, base = 0.0, 0.0, self._base(lo, hi)
        buffer: Vector = np.empty(min(hi - lo, PIECE), np.float32)
        for at in range(lo, hi, PIECE):
            here = self.vector[at : min(at + PIECE, hi)]
            # A number that is none stays: what is not finite is refused.
            itself = float(np.max((itself, here.max(), -here.min())))
            if base is not None:
                here = np.subtract(here, base[at - lo :][: here.size], out=buffer[: here.size])
                apart = float(np.max((apart, here.max(), -here.min())))
        return (itself if base is None else apart), itself

    def _base(self, lo: int, hi: int) -> Vector | None:
        """Return what a span of numbers is measured from; nothing stands for zero."""
        if self._config.masking is not None:
            return None
        return self._origin.of_buffers(lo, hi) if lo >= self._split else self._origin.of_numbers(lo, hi)
