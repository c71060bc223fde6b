"""Digit tasks: which node holds what, the same bits everywhere, and options that make sense."""

import numpy as np
import pytest
import torch

from shoal.methods.errors import BadOption
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.tasks.digits_multitask import PICTURES, DigitTasks, frozen_head

SIX = "upright,rotated,mirrored,relabelled,turned,inverted"


def test_nodes_and_tasks_stand_in_a_ring() -> None:
    held = [tuple(DigitTasks(share=f"{i}/6").parts()) for i in range(1, 7)]
    assert held[0] == ("upright", "rotated")
    assert held[5] == ("upright", "inverted")
    assert sorted(name for names in held for name in names) == sorted(SIX.split(",") * 2)


def test_each_digit_of_a_task_goes_to_one_of_its_holders() -> None:
    sizes = [
        {name: part.train_data()[0] for name, part in DigitTasks(share=f"{i}/6", per_node=4).parts().items()}
        for i in range(1, 7)
    ]
    upright = [images["upright"] for images in sizes if "upright" in images]
    assert len(upright) == 4
    assert sum(map(len, upright)) == 1347


def test_a_node_can_bring_a_task_of_its_own() -> None:
    assert tuple(DigitTasks(share="6/6", own="parity,large").parts()) == ("parity", "large")


def test_two_nodes_mean_the_same_by_a_task_and_not_by_two() -> None:
    one, other = DigitTasks(share="1/6").parts(), DigitTasks(share="2/6").parts()
    assert one["rotated"].identity() == other["rotated"].identity()
    mild = DigitTasks(share="1/6", conflict="mild").parts()["rotated"]
    ids = [one["upright"].identity().id, one["rotated"].identity().id, mild.identity().id]
    assert len(set(ids)) == 3


def test_relabelled_digits_are_the_same_pictures_under_other_names() -> None:
    parts = DigitTasks(share="1/1", tasks="upright,relabelled").parts()
    (x, y), (same, other) = parts["upright"].test_data(), parts["relabelled"].test_data()
    assert torch.equal(x, same)
    names = parts["relabelled"].identity().classes
    assert [names[label] for label in other.tolist()] == [str(label) for label in y.tolist()]


def test_a_rotated_picture_turned_back_is_upright() -> None:
    image = np.arange(64, dtype=np.float64).reshape(1, 64)
    for there, back in (("rotated", "tilted"), ("turned", "turned"), ("mirrored", "mirrored")):
        assert PICTURES[back](PICTURES[there](image)).tolist() == image.tolist()


def test_heads_are_the_same_numbers_on_every_machine() -> None:
    head = frozen_head("shared")
    assert set(head.flatten().tolist()) == {-0.125, 0.125}
    assert (head[0, :12] * 8).tolist() == [1, 1, 1, -1, -1, -1, -1, 1, -1, -1, -1, 1]


def test_as_one_task_it_trains_one_body_on_all_of_them() -> None:
    learner = TorchLearner(DigitTasks(share="1/6"), seed=0)
    before = learner.evaluate(learner.initial)
    trained = learner.train(learner.initial, steps=60, lr=0.1, batch_size=32)
    after = learner.evaluate(trained.params)
    assert set(after) == {"accuracy", "accuracy upright", "accuracy rotated"}
    assert after["accuracy"] == pytest.approx((after["accuracy upright"] + after["accuracy rotated"]) / 2)
    assert after["accuracy"] > before["accuracy"] + 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"tasks": "upright,sideways"},
        {"own": "nothing"},
        {"per_node": 0},
        {"per_node": 7},
        {"conflict": "war"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str | int]) -> None:
    with pytest.raises(BadOption, match="choose|there are"):
        DigitTasks(**options)  # type: ignore[arg-type]
