"""Labels: which of them are known, and how wrong they are; computed by every peer for itself from a seed.

Noise model of FedLN (Tsouvalas et al., https://arxiv.org/abs/2208.09378): of the peers a share f is noisy.
On a noisy peer each class has K = max(ceil((C - 1)(1 - sparsity)), 1) classes it is taken for, and a label
stays with probability 1 - level, else becomes one of the K. Sparsity 1: one fixed wrong class for each;
sparsity 0: any class.
"""

from math import ceil

import numpy as np
import numpy.typing as npt

from shoal.methods.errors import BadOption

Labels = npt.NDArray[np.int64]


def known_subset(labels: Labels, share: float, *, seed: int) -> npt.NDArray[np.bool_]:
    """Choose the examples whose labels are known: a share of every class, at least one example of each.

    Raises:
        BadOption: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise BadOption(f"labelled = {share}: choose which share of the labels is known, from 0 to 1")
    dice = np.random.default_rng([seed, 1])
    known = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = dice.permutation(np.flatnonzero(labels == label))
        known[members[: max(1, round(share * len(members)))]] = share > 0
    return known


def noisy_peers(peers: int, share: float, *, seed: int) -> npt.NDArray[np.bool_]:
    """Choose which peers have noisy labels: this share of them, to the nearest whole peer.

    Raises:
        BadOption: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise BadOption(f"noisy = {share}: choose which share of the peers is noisy, from 0 to 1")
    chosen = np.zeros(peers, bool)
    chosen[np.random.default_rng([seed, 2]).permutation(peers)[: round(share * peers)]] = True
    return chosen


def confusions(classes: int, sparsity: float, dice: np.random.Generator) -> list[Labels]:
    """Draw the K wrong classes that each class is taken for."""
    count = max(ceil((classes - 1) * (1 - sparsity)), 1)
    return [
        dice.choice(np.delete(np.arange(classes), label), count, replace=False) for label in range(classes)
    ]


def add_noise(labels: Labels, classes: int, *, level: float, sparsity: float, seed: int) -> Labels:
    """Return labels of which a share of `level` is wrong.

    Raises:
        BadOption: the level or the sparsity is not from 0 to 1.
    """
    for name, value in (("noise", level), ("sparsity", sparsity)):
        if not 0 <= value <= 1:
            raise BadOption(f"{name} = {value}: choose a number from 0 to 1")
    dice = np.random.default_rng([seed, 3])
    wrong = confusions(classes, sparsity, dice)
    noisy = labels.copy()
    for place in np.flatnonzero(dice.random(len(labels)) < level):
        noisy[place] = dice.choice(wrong[labels[place]])
    return noisy
