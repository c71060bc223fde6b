"""Noisy grid: changes as whole numbers with a share of noise each, that are added under masks.

    code     the change in steps of the run's grid, plus this member's noise, plus half: 0 to 2 half
    field    as wide as the sum of all members' codes: nothing is carried to the next
    word     as many fields as fit in 64 bits, laid out as in integer_grid.py

Nothing of a grid follows from anybody's data: the range is that of the clip norm, and of the noise, which
follow from the run and from how many advertised. So a number takes more room than in integer_grid.py.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from shoal.crypto.discrete_gaussian import discrete_gaussian
from shoal.crypto.shamir import Entropy
from shoal.gossip.averaging.secure.integer_grid import PIECE, Words
from shoal.gossip.events import Vector
from shoal.gossip.policies.privacy import STEPS, TAIL, Privacy, on_grid, shrink_of


@dataclass(frozen=True, slots=True)
class NoisyGrid:
    """How a vector travels. Equal on all members."""

    count: int
    """Numbers of the vector."""
    privacy: Privacy
    members: int
    """How many may take part."""
    threshold: int
    """How many of them open a sum, at least."""

    @property
    def sigma(self) -> float:
        """The standard deviation of each member's share of the noise, in steps."""
        return self.privacy.sigma(self.count, self.threshold)

    @property
    def half(self) -> int:
        """The largest magnitude of a member's number."""
        return STEPS + 1 + ceil(TAIL * self.sigma)

    @property
    def width(self) -> int:
        """Bits of a field."""
        return (2 * self.half * self.members).bit_length()

    @property
    def fields(self) -> int:
        """Fields in a word; none where a field has no room."""
        return 64 // self.width

    @property
    def n_words(self) -> int:
        """Words of the vector."""
        return -(-self.count // self.fields)

    def encode(self, vector: Vector, origin: Vector | None, entropy: Entropy, *, gives: bool) -> Words:
        """Return the words of a contribution, float32 [count]; of noise alone where it `gives` nothing."""
        shrink = shrink_of(vector, origin, self.privacy.clip_norm) if gives else 0.0
        codes = on_grid(vector, origin, shrink, self.privacy.step)
        most = self.half - STEPS - 1
        codes += np.clip(discrete_gaussian(self.count, self.sigma, entropy), -most, most)
        codes += self.half
        words = np.zeros(self.n_words, np.uint64)
        for field in range(self.fields):
            some = codes[field * self.n_words : (field + 1) * self.n_words].astype(np.uint64)
            words[: some.size] |= some << np.uint64(field * self.width)
        return words

    def decode(self, words: Words, lo: int, members: int, givers: int, mean: Vector) -> bool:
        """Write the mean change of the numbers in sums of words that begin at word `lo`, float32 [count].

        `members`: how many are in the sums; `givers`: how many of them gave more than noise. False where a
        number is outside what they can have given.
        """
        most, mask = np.uint64(2 * self.half * members), np.uint64((1 << self.width) - 1)
        scale = self.privacy.step / max(1, givers)
        for field in range(self.fields):
            start = field * self.n_words + lo
            stop = min(start + words.size, self.count)
            for at in range(start, stop, PIECE):
                some = words[at - start : min(at + PIECE, stop) - start]
                sums = (some >> np.uint64(field * self.width)) & mask
                if sums.max() > most:
                    return False
                mean[at : at + sums.size] = (sums.astype(np.int64) - members * self.half) * scale
        return True
