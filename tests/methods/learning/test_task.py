"""Tasks: the defaults a user inherits, and how a task is found."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from shoal.methods.errors import BadOption, BadTask, TaskNotFound
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task, batch_of, count, load_task, to_device
from shoal.methods.tasks.digits import Digits


class Minimal(Task):
    """The least a user writes."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train_data(self) -> Dataset[Any]:
        return TensorDataset(torch.eye(2), torch.tensor([0, 1]))


def test_a_model_and_data_are_enough() -> None:
    learner = TorchLearner(Minimal())
    trained = learner.train(learner.initial, steps=50, lr=1.0, batch_size=2)
    assert trained.loss < 0.3
    assert learner.evaluate(trained.params) == {}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(BadTask, match=r"Task has no train_data\(\); return"):
        Task().train_data()
    with pytest.raises(BadTask, match=r"Task has no model\(\); return"):
        Task().model()


def test_accuracy_counts_over_all_batches() -> None:
    class Many(Minimal):
        def test_data(self) -> Any:
            x = torch.eye(2).repeat(1500, 1)
            return x, x.argmax(1).where(torch.arange(3000) >= 300, 1 - x.argmax(1))

    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        assert Many().metrics(model) == {"accuracy": 0.9}


def test_tensors_and_datasets_give_the_same_batches() -> None:
    pair = torch.arange(6).reshape(3, 2), torch.arange(3)
    indices = torch.tensor([2, 0])
    from_pair, from_set = batch_of(pair, indices), batch_of(TensorDataset(*pair), indices)
    assert count(pair) == count(TensorDataset(*pair)) == 3
    assert all(torch.equal(a, b) for a, b in zip(from_pair, from_set, strict=True))


def test_every_tensor_of_a_batch_is_moved() -> None:
    meta = torch.device("meta")
    moved = to_device({"x": [torch.zeros(1), (torch.zeros(2), "text")]}, meta)
    assert moved["x"][0].device == moved["x"][1][0].device == meta
    assert moved["x"][1][1] == "text"


def test_digits_are_found_by_name_with_options() -> None:
    task = load_task("digits", {"share": "2/5", "alpha": "0.5"})
    assert isinstance(task, Digits)


def test_shares_of_digits_are_private_and_the_test_set_is_common() -> None:
    shares = [Digits(share=f"{i}/4") for i in range(1, 5)]
    assert sum(len(share.train_data()[0]) for share in shares) == 1347
    assert all(torch.equal(s.test_data()[0], shares[0].test_data()[0]) for s in shares)
    assert len(shares[0].test_data()[0]) == 450
    assert float(shares[0].train_data()[0].max()) == 1.0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my_own_task.py"
    path.write_text("from shoal import Task\n\nclass Mine(Task):\n    pass\n\nOTHER = 3\n")
    (tmp_path / "half_task.py").write_text("import module_that_is_not_there\n")
    (tmp_path / "torn_task.py").write_text("class\n")
    return path


@pytest.mark.usefixtures("module")
def test_a_task_of_ones_own_is_found() -> None:
    assert type(load_task("my_own_task:Mine", {})).__name__ == "Mine"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "digit",
            "no task digit; write package.module:Class, or one of: digits, ",
        ),
        ("my_own_task:", "write package.module:Class"),
        ("no_such_module:Mine", "no module no_such_module; start in the folder that holds it, or install it"),
        ("my_own_task.sub:Mine", "no module my_own_task.sub; start in the folder"),
        ("half_task:Mine", "half_task needs module_that_is_not_there, which is not installed; install it"),
        ("torn_task:Mine", "torn_task does not load: invalid syntax"),
        ("my_own_task:Yours", "my_own_task has no task Yours; it has: Mine"),
        ("my_own_task:OTHER", "my_own_task has no task OTHER; it has: Mine"),
        ("shoal.methods.params:numel", "it has: no subclass of shoal.Task"),
    ],
)
def test_what_cannot_be_found_says_what_to_change(name: str, words: str) -> None:
    with pytest.raises(TaskNotFound) as caught:
        load_task(name, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_of_a_task_lists_the_valid_ones() -> None:
    with pytest.raises(BadOption, match="digits has no option shard; it has: share, alpha, seed, minimum"):
        load_task("digits", {"shard": "1/5"})


def test_a_task_that_lacks_a_package_of_an_extra_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lacking.py").write_text("raise ModuleNotFoundError(name='sklearn.datasets')")
    with pytest.raises(TaskNotFound, match=r"install scikit-learn with: pip install -e '\.\[testnet\]'"):
        load_task("lacking:Mine", {})
