"""The tasks of paired modalities: their parts, and that two modalities tell more than one."""

from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from shoal.methods.errors import BadOption
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.mpsl.pairs import WORDS, DigitsCaptions, captioned, sounded

TASKS = ("digits_captions", "digits_tones")


@pytest.mark.parametrize("name", TASKS)
def test_shares_are_disjoint_and_all_parts_are_there(name: str) -> None:
    whole = load_task(name, {"alpha": 100.0})
    parts = [load_task(name, {"share": f"{i}/3", "validation": 0.2}) for i in (1, 2, 3)]
    rows = [row.tobytes() for part in parts for row in part.train_data()[0].numpy()]
    held, test = parts[0].validation_data(), parts[0].test_data()
    assert held is not None
    assert test is not None
    assert len(set(rows)) == len(rows) == 2 * (1347 - len(held[0]))
    assert len(whole.train_data()[0]) == 2694
    assert len(test[0]) == 450
    assert not {row.tobytes() for row in held[0].numpy()} & set(rows)
    scores = whole.outputs(whole.model(), test[0])
    assert scores.shape == (450, 10)


def test_words_are_of_the_vocabulary_and_the_same_on_every_node() -> None:
    words = captioned().train[0][:, 64:]
    assert words.shape[1] == WORDS
    assert set(np.unique(words)) == set(range(40))
    assert sounded().train[0].shape[1] == 128
    assert torch.equal(DigitsCaptions().train_data()[0], DigitsCaptions().train_data()[0])


def test_options_that_make_no_sense_are_told() -> None:
    for options, said in (({"use": "sound"}, "both, image or other"), ({"width": 30}, "multiple of 4")):
        with pytest.raises(BadOption, match=said):
            load_task("digits_captions", options)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_both_modalities_beat_the_better_one_by_8_points(name: str) -> None:
    reached: dict[str, list[float]] = {}
    for seed in (0, 1):
        for use in ("image", "other", "both"):
            options: dict[str, Any] = {"use": use}
            learner = TorchLearner(load_task(name, options), seed=seed)
            trained = learner.train(learner.initial, steps=6 * 84, lr=0.003, batch_size=32)
            reached.setdefault(use, []).append(learner.evaluate(trained.params)["accuracy"])
    mean = {use: fmean(values) for use, values in reached.items()}
    assert mean["both"] >= max(mean["image"], mean["other"]) + 0.08, mean
