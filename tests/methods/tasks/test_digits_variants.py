"""Digits with hidden labels, wrong labels, or a larger model; and tones: what each node sees."""

import numpy as np
import pytest
import torch

from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Task, load_task
from shoal.methods.tasks.digits import load_split
from shoal.methods.tasks.digits_variants import CompressibleDigits, NoisyDigits, PartlyLabelledDigits
from shoal.methods.tasks.tones import CLASSES, generate


def test_shares_hold_every_digit_once_and_few_labels() -> None:
    tasks = [PartlyLabelledDigits(share=f"{i + 1}/5", labelled=0.05) for i in range(5)]
    labelled = [len(task.train_data()[0]) for task in tasks]
    unlabelled = [len(x) for task in tasks if (x := task.unlabelled_data()) is not None]
    assert sum(labelled) + sum(unlabelled) == len(load_split()[0])
    assert 60 <= sum(labelled) <= 75
    sizes = np.array(labelled) + np.array(unlabelled)
    assert sizes.min() >= 0.6 * sizes.mean()
    assert len(set(sizes.tolist())) > 1


def test_with_all_labels_nothing_is_unlabelled() -> None:
    assert PartlyLabelledDigits(labelled=1.0).unlabelled_data() is None


def test_noise_is_on_eight_of_ten_peers_and_clean_ones_see_the_truth() -> None:
    truth = [NoisyDigits(f"{i + 1}/10", noise=0.0).train_data()[1] for i in range(10)]
    seen = [NoisyDigits(f"{i + 1}/10", noise=0.7, sparsity=0.0).train_data()[1] for i in range(10)]
    shares = [float((a != b).double().mean()) for a, b in zip(truth, seen, strict=True)]
    assert sum(share == 0 for share in shares) == 2
    assert all(share == 0 or abs(share - 0.7) < 0.15 for share in shares)


@pytest.mark.parametrize(("network", "numel"), [("small", 4810), ("mlp", 173162), ("cnn", 37610)])
def test_models_have_the_sizes_that_are_told(network: str, numel: int) -> None:
    task = CompressibleDigits(network=network)
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == numel
    assert model(task.train_data()[0][:3]).shape == (3, 10)


@pytest.mark.parametrize(
    ("task", "options", "text"),
    [
        ("digits_compressible", {"network": "large"}, "choose one of: small, mlp, cnn"),
        ("digits_few_labels", {"labelled": 2.0}, "labelled = 2.0"),
        ("digits_noisy", {"noise": -1.0}, "noise = -1.0"),
        ("tones", {"spread": 1.0}, "spread = 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    task: str, options: dict[str, str | float], text: str
) -> None:
    with pytest.raises(BadOption, match=text):
        load_task(task, options)


@pytest.mark.parametrize("name", ["digits_few_labels", "digits_noisy", "digits_compressible", "tones"])
def test_nodes_agree_on_the_test_set_and_share_no_example(name: str) -> None:
    first, second = (load_task(name, {"share": share, "seed": 1}) for share in ("1/3", "2/3"))
    common = [data for data in (first.test_data(), second.test_data()) if data is not None]
    assert torch.equal(common[0][0], common[1][0])
    assert not _rows(first) & _rows(second)


def _rows(task: Task) -> set[bytes]:
    return {row.numpy().tobytes() for row in task.train_data()[0]}


def test_tones_are_the_same_everywhere_and_all_classes_as_frequent() -> None:
    x, y = generate(240, 3)
    again, _ = generate.__wrapped__(240, 3)
    assert np.array_equal(x, again)
    assert x.shape == (240, 64)
    assert np.bincount(y).tolist() == [30] * CLASSES
    assert x.mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert x.std(axis=1) == pytest.approx(1, abs=1e-4)


def test_tones_differ_by_pitch_and_timbre() -> None:
    x, y = generate(1200, 0)
    means = np.stack([x[y == label].mean(axis=0) for label in range(CLASSES)])
    apart = np.linalg.norm(means[:, None] - means[None], axis=2) + 9 * np.eye(CLASSES)
    assert apart.min() > 0.7
