"""Partitions: which example belongs to which peer, computed by every peer for itself from a seed.

Dirichlet partition (Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification", 2019, https://arxiv.org/abs/1909.06335): for every label, the shares of
the peers are drawn from Dirichlet(alpha). Small alpha: a peer sees few labels; large: all look alike.
"""

import numpy as np
import numpy.typing as npt

from shoal.methods.errors import BadOption

Indices = npt.NDArray[np.int64]


def parse_share(share: str) -> tuple[int, int]:
    """Read ``2/5`` as the second of five shares: (1, 5).

    Raises:
        BadOption: it is something else.
    """
    mine, _, count = share.partition("/")
    if not (mine.isdecimal() and count.isdecimal() and 1 <= int(mine) <= int(count) <= 10_000):
        raise BadOption(f"share = {share!r}: write which share of how many, from 1/5 to 5/5")
    return int(mine) - 1, int(count)


def dirichlet(
    labels: npt.NDArray[np.int64], peers: int, *, alpha: float, seed: int, minimum: int = 16
) -> list[Indices]:
    """Split examples into one private share per peer, every example in exactly one.

    A peer that drew fewer than `minimum` examples gets the rest from whoever has most, so that nobody is
    left without data to train on.

    Raises:
        BadOption: alpha is not positive, or there are too many peers for that many examples.
    """
    if not 0 < alpha < 1e6:
        raise BadOption(f"alpha = {alpha}: choose a number above 0; 0.1 is very unequal, 100 nearly equal")
    if peers * minimum > len(labels):
        raise BadOption(f"{len(labels)} examples are too few for {peers} shares of at least {minimum}")
    dice = np.random.default_rng(seed)
    shares: list[list[int]] = [[] for _ in range(peers)]
    for label in np.unique(labels):
        members = dice.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(dice.dirichlet(np.full(peers, alpha)))[:-1] * len(members)
        for share, part in zip(shares, np.split(members, cuts.astype(np.int64)), strict=True):
            share.extend(part.tolist())
    for share in shares:
        while len(share) < minimum:
            richest = max(shares, key=len)
            share.append(richest.pop(int(dice.integers(len(richest)))))
    return [np.array(sorted(share), np.int64) for share in shares]


def uniform(examples: int, peers: int, *, seed: int, spread: float = 0.0) -> list[Indices]:
    """Split examples at random into shares of one size, or of sizes within `spread` of their mean.

    Raises:
        BadOption: the spread is not from 0 to below 1, or there are fewer examples than peers.
    """
    if not 0 <= spread < 1:
        raise BadOption(f"spread = {spread}: choose how far sizes differ from their mean, from 0 to below 1")
    if examples < peers:
        raise BadOption(f"{examples} examples are too few for {peers} shares")
    dice = np.random.default_rng([seed, 4])
    sizes = 1 + spread * (2 * dice.random(peers) - 1)
    cuts = np.rint(np.cumsum(sizes)[:-1] / sizes.sum() * examples).astype(np.int64)
    return [np.sort(part) for part in np.split(dice.permutation(examples), cuts)]


def stratified_split(
    labels: npt.NDArray[np.int64], share: float, *, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the indices of the rest and of a share that is put aside, each with as much of every label.

    Draws as ``sklearn.model_selection.train_test_split(stratify=labels, random_state=seed)`` does, and so
    returns the same: a node that only trains on digits need not load scikit-learn, which takes a second.
    """
    # Old generators draw the same in every version of NumPy.
    dice = np.random.RandomState(seed)
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    held_count = int(np.ceil(share * len(labels)))
    rest_counts = _proportional(counts, len(labels) - held_count, dice)
    held_counts = _proportional(counts - rest_counts, held_count, dice)
    rest: list[np.intp] = []
    held: list[np.intp] = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(places == label)[dice.permutation(count)]
        rest.extend(members[: rest_counts[label]])
        held.extend(members[rest_counts[label] : rest_counts[label] + held_counts[label]])
    return dice.permutation(rest), dice.permutation(held)


def _proportional(
    counts: npt.NDArray[np.intp], total: int, dice: np.random.RandomState
) -> npt.NDArray[np.intp]:
    """Return whole numbers that add up to `total`, as near as can be to proportions; dice break ties."""
    exact = counts / counts.sum() * total
    found: npt.NDArray[np.intp] = np.floor(exact).astype(np.intp)
    remainders = exact - found
    missing = total - int(found.sum())
    for value in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        tied = np.flatnonzero(remainders == value)
        chosen = dice.choice(tied, size=min(len(tied), missing), replace=False)
        found[chosen] += 1
        missing -= len(chosen)
    return found
