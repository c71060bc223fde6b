"""Every built-in task has examples to choose values on, which nobody trains on or tests on."""

from typing import Any

import pytest
import torch
from torch import nn

from shoal.methods.errors import BadOption, BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import TASKS, Task, load_task
from shoal.methods.tasks.regrouped import OnePart, on_validation
from shoal.methods.tasks.shapes import KINDS, draw, load_shapes

CUT = (
    "digits",
    "digits_few_labels",
    "digits_noisy",
    "digits_compressible",
    "digits_body",
    "digit_tasks",
    "shifted",
    "digits_captions",
    "digits_tones",
)
"""Tasks that put examples aside when asked."""
GIVEN = ("shapes", "tables", "tones", "instructions")
"""Tasks that always have them."""
LOCAL_COPY = ("images", "image_tasks", "speech_commands")
"""Tasks of a user's own folder, in test_image_tasks.py and test_speech_commands.py."""


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def leaves(task: Task) -> list[Task]:
    return list(task.parts().values()) or [task]


def nodes(name: str) -> list[Task]:
    options = {"validation": 0.2} if name in CUT else {}
    return [load_task(name, {**options, "share": f"{i}/3"}) for i in (1, 2, 3)]


def test_no_built_in_task_is_left_out() -> None:
    assert {*CUT, *GIVEN, *LOCAL_COPY} == set(TASKS)


@pytest.mark.parametrize("name", [*CUT, *GIVEN])
def test_train_validation_and_test_share_no_example(name: str) -> None:
    for node in nodes(name):
        for task in leaves(node):
            held, test = task.validation_data(), task.test_data()
            assert held is not None
            assert test is not None
            trained = rows(task.train_data()[0])
            if (unlabelled := task.unlabelled_data()) is not None:
                trained |= rows(unlabelled)
            assert not trained & rows(held[0])
            assert not rows(test[0]) & (trained | rows(held[0]))


@pytest.mark.parametrize("name", [*CUT, *GIVEN])
def test_all_nodes_have_the_same_validation_examples(name: str) -> None:
    found: dict[str, tuple[Any, ...]] = {}
    for node in nodes(name):
        for part, task in (node.parts() or {"": node}).items():
            held = task.validation_data()
            assert held is not None
            inputs, labels = found.setdefault(part, tuple(held))
            assert torch.equal(inputs, held[0])
            assert torch.equal(labels, held[1])


@pytest.mark.parametrize("name", CUT)
def test_without_being_asked_all_is_trained_on_and_the_test_set_is_the_same(name: str) -> None:
    whole, cut = load_task(name, {"share": "1/1"}), load_task(name, {"share": "1/1", "validation": 0.2})
    for one, other in zip(leaves(whole), leaves(cut), strict=True):
        assert one.validation_data() is None
        before, after = one.test_data(), other.test_data()
        assert before is not None
        assert after is not None
        assert torch.equal(before[0], after[0])
    with pytest.raises(BadOption, match=r"validation = 0\.7"):
        load_task(name, {"validation": 0.7})


class Halves(Task):
    """Right on validation, wrong on test, whatever the model."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.eye(2), torch.tensor([0, 1])

    def outputs(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x

    def validation_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.eye(2), torch.tensor([0, 1])

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.eye(2), torch.tensor([1, 0])


def test_a_task_can_be_measured_on_its_validation_data() -> None:
    learner = TorchLearner(Halves())
    assert learner.evaluate(learner.initial) == {"accuracy": 0.0}
    assert TorchLearner(on_validation(Halves())).evaluate(learner.initial) == {"accuracy": 1.0}
    assert TorchLearner(on_validation(OnePart(Halves(), Halves()))).evaluate(learner.initial)


def test_the_parts_of_a_task_are_measured_on_theirs() -> None:
    task = load_task("digit_tasks", {"validation": 0.2})
    chosen = on_validation(task)
    for name, part in chosen.parts().items():
        test, held = part.test_data(), task.parts()[name].validation_data()
        assert test is not None
        assert held is not None
        assert torch.equal(test[0], held[0])
    model = task.model().eval()
    assert chosen.metrics(model) != task.metrics(model)


def test_a_task_without_validation_data_cannot_choose() -> None:
    with pytest.raises(BadTask, match=r"Digits\.validation_data\(\) is None; return examples"):
        on_validation(load_task("digits", {}))


def test_shapes_are_the_same_everywhere_and_all_kinds_as_frequent() -> None:
    x, y = draw(240, 3)
    assert (x.shape, x.dtype.name) == ((240, 144), "float32")
    assert y.tolist() == draw(240, 3)[1].tolist()
    assert [int((y == kind).sum()) for kind in range(len(KINDS))] == [24] * len(KINDS)


def test_neighbours_of_a_shape_are_often_of_another_kind() -> None:
    x, y = (torch.tensor(part[:400]) for part in load_shapes().train)
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(10, largest=False).indices
    assert 0.4 < float((y[near] != y[:, None]).double().mean()) < 0.6


@pytest.mark.parametrize(("name", "bar"), [("shapes", 0.8), ("tables", 0.9)])
def test_the_second_data_sets_can_be_learned(name: str, bar: float) -> None:
    learner = TorchLearner(load_task(name, {}))
    trained = learner.train(learner.initial, steps=800, lr=0.2, batch_size=32)
    assert learner.evaluate(trained.params)["accuracy"] > bar


@pytest.mark.parametrize("name", ["shapes", "tables"])
def test_the_second_data_sets_can_have_few_or_wrong_labels(name: str) -> None:
    few = [load_task(name, {"share": f"{i}/4", "alpha": 100, "labelled": 0.1}) for i in (1, 2, 3, 4)]
    known = sum(len(task.train_data()[0]) for task in few)
    hidden = sum(len(x) for task in few if (x := task.unlabelled_data()) is not None)
    assert known < 0.12 * (known + hidden)
    right = load_task(name, {"share": "1/4", "alpha": 100})
    wrong = load_task(name, {"share": "1/4", "alpha": 100, "noise": 0.7, "noisy": 1.0, "optimizer": "adam"})
    assert torch.equal(right.train_data()[0], wrong.train_data()[0])
    assert 0.5 < float((right.train_data()[1] != wrong.train_data()[1]).double().mean()) < 0.85
    with pytest.raises(BadOption, match="optimizer = rms: choose sgd or adam"):
        load_task(name, {"optimizer": "rms"})


def test_options_of_the_second_data_sets_are_checked() -> None:
    with pytest.raises(BadOption, match="network = rnn: choose one of: mlp, cnn"):
        load_task("shapes", {"network": "rnn"})
    with pytest.raises(BadOption, match="table = iris: choose one of: breast_cancer, wine"):
        load_task("tables", {"table": "iris"})
    with pytest.raises(BadOption, match="data = cats: choose one of: digits, shapes"):
        load_task("digits_body", {"data": "cats"})
