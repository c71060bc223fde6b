"""Labels: hidden evenly, and wrong as often and in as many ways as asked."""

import numpy as np
import pytest

from shoal.methods.errors import BadOption
from shoal.methods.tasks.label_noise import add_noise, known_subset, noisy_peers

LABELS = np.random.default_rng(0).integers(0, 10, 4000)


@pytest.mark.parametrize("level", [0.0, 0.4, 0.7, 1.0])
@pytest.mark.parametrize(("sparsity", "wrong_classes"), [(0.0, 9), (0.7, 3), (1.0, 1)])
def test_noise_reaches_its_level_with_exactly_k_wrong_classes(
    level: float, sparsity: float, wrong_classes: int
) -> None:
    noisy = add_noise(LABELS, 10, level=level, sparsity=sparsity, seed=1)
    assert np.mean(noisy != LABELS) == pytest.approx(level, abs=0.05)
    if level:
        kinds = [len(np.unique(noisy[(c == LABELS) & (noisy != c)])) for c in range(10)]
        assert kinds == [wrong_classes] * 10


def test_the_same_seed_gives_the_same_noise_and_another_another() -> None:
    first, again, other = (add_noise(LABELS, 10, level=0.5, sparsity=0.5, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noisy_peers_are_as_many_as_asked() -> None:
    assert [int(noisy_peers(10, share, seed=3).sum()) for share in (0, 0.8, 1)] == [0, 8, 10]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_known_labels_are_a_share_of_every_class(share: float) -> None:
    known = known_subset(LABELS, share, seed=0)
    for label in range(10):
        of_class = label == LABELS
        assert known[of_class].mean() == pytest.approx(share, abs=0.01)


def test_of_every_class_one_label_is_known_at_least() -> None:
    known = known_subset(LABELS[:60], 0.01, seed=0)
    assert set(LABELS[:60][known]) == set(LABELS[:60])
    assert known.sum() == len(set(LABELS[:60]))


def test_shares_beyond_all_are_refused() -> None:
    with pytest.raises(BadOption, match="labelled = 2: choose"):
        known_subset(LABELS, 2, seed=0)
    with pytest.raises(BadOption, match="noisy = -1: choose"):
        noisy_peers(3, -1, seed=0)
    with pytest.raises(BadOption, match="sparsity = 3: choose"):
        add_noise(LABELS, 10, level=0, sparsity=3, seed=0)
