"""Digits with what is missing in the field: few labels, wrong labels, or a model too big for the wire.

The digits, the test set and the seeds are those of methods/tasks/digits.py. Each node computes the same split
and the same hidden or wrong labels, and keeps its own part; nothing else of the data is known to it.
"""

from typing import Literal

import numpy as np
from torch import nn

from shoal.methods.errors import BadOption
from shoal.methods.tasks.digits import load_sets
from shoal.methods.tasks.label_noise import add_noise, known_subset, noisy_peers
from shoal.methods.tasks.partition import dirichlet, parse_share, uniform
from shoal.methods.tasks.shares import Seen, SharedData, all_of

CLASSES = 10
SPREAD = 0.25
"""Sizes of shares lie within a quarter of their mean, as in FedSTAR's and FedLN's experiments."""


class _Shares(SharedData):
    """Digits, a perceptron, and Adam, which the papers of these tasks use."""

    def __init__(self, seen: Seen, validation: float) -> None:
        """`validation`: as for the task digits."""
        super().__init__(load_sets(validation), seen, optimizer="adam")

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class PartlyLabelledDigits(_Shares):
    """Which digit is it, when only some of the digits have a label? For FedSTAR."""

    def __init__(
        self,
        share: str = "1/1",
        labelled: float = 0.05,
        seed: int = 0,
        spread: float = SPREAD,
        validation: float = 0.0,
    ) -> None:
        """`share`: ours, such as 2/5. `labelled`: how many labels are known. `spread`: of the shares' sizes.

        `validation`: as for the task digits.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, peers = parse_share(share)
        labels = load_sets(validation).train[1]
        part = uniform(len(labels), peers, seed=seed, spread=spread)[mine]
        known = known_subset(labels, labelled, seed=seed)[part]
        super().__init__(Seen(part, labels[part], known), validation)


class NoisyDigits(_Shares):
    """Which digit is it, when most peers have many wrong labels? For FedLN."""

    def __init__(
        self,
        share: str = "1/1",
        noise: float = 0.7,
        sparsity: float = 0.7,
        noisy: float = 0.8,
        seed: int = 0,
        spread: float = 0.0,
        validation: float = 0.0,
    ) -> None:
        """`noisy`: which share of the peers has noise; `noise`: how many labels are wrong there.

        `sparsity`: 0 for any wrong class, 1 for a fixed one; see label_noise.py. `validation`: as for
        the task digits.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, peers = parse_share(share)
        true = load_sets(validation).train[1]
        part = uniform(len(true), peers, seed=seed, spread=spread)[mine]
        level = noise if noisy_peers(peers, noisy, seed=seed)[mine] else 0.0
        # Every noisy peer has confusions of its own.
        given = add_noise(true[part], CLASSES, level=level, sparsity=sparsity, seed=seed * 10_000 + mine)
        super().__init__(Seen(part, given, np.ones(len(part), bool)), validation)


class CompressibleDigits(_Shares):
    """Which digit is it, with a model of some size? For FedCompress."""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.5,
        seed: int = 0,
        minimum: int = 16,
        network: str = "small",
        validation: float = 0.0,
    ) -> None:
        """`share`, `alpha`, `seed`, `minimum`, `validation`: as for the task digits.

        `network`: small, mlp or cnn.

        Raises:
            BadOption: an option makes no sense.
        """
        if network not in _NETWORKS:
            raise BadOption(f"network = {network}: choose one of: {', '.join(_NETWORKS)}")
        mine, peers = parse_share(share)
        labels = load_sets(validation).train[1]
        part = dirichlet(labels, peers, alpha=alpha, seed=seed, minimum=minimum)[mine]
        super().__init__(all_of(labels, part), validation)
        self._network: Literal["small", "mlp", "cnn"] = network  # type: ignore[assignment]

    def model(self) -> nn.Module:
        """See `Task`."""
        return _NETWORKS[self._network]()


def _small() -> nn.Module:
    """Return a perceptron of 4,810 parameters."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _mlp() -> nn.Module:
    """Return a perceptron of 173,162 parameters."""
    return nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def _cnn() -> nn.Module:
    """Return a convolutional network of 37,610 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


_NETWORKS = {"small": _small, "mlp": _mlp, "cnn": _cnn}
