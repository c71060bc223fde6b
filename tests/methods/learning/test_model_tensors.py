"""Which tensors travel, under which names and in what precision; and what is refused before the start."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from shoal.gossip.run_spec import RunSpec, run_id
from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.model_tensors import ModelVector, manifest, read_model, write_model
from shoal.methods.learning.task import Task
from shoal.methods.overlap import Moved

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")


class Deep(nn.Module):  # type: ignore[misc]
    def __init__(self, name: str, depth: int) -> None:
        super().__init__()
        self.add_module(name, Deep(name, depth - 1) if depth else nn.Linear(1, 1))


def complex_weight() -> nn.Module:
    model = nn.Linear(2, 2)
    model.spectrum = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    return model


def many_dimensions() -> nn.Module:
    model = nn.Linear(2, 2)
    model.cube = nn.Parameter(torch.zeros((1,) * 9))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex": (complex_weight, "spectrum is trained and complex64.*view_as_real"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "0.weight has no size yet: run one batch"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "weight has no numbers"),
    "long name": (lambda: Deep("x" * 60, 4), "is a name of 3.. characters, and at most 200"),
    "dimensions": (many_dimensions, "cube has 9 dimensions, and at most 8"),
    "too many": (
        lambda: nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(20_001)]),
        "20001 tensors that travel, and a run at most 20000: 20000 is one too many",
    ),
    "nothing": (nn.ReLU, "nothing to train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_trained_and_cannot_travel_is_refused_by_name(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(BadTask, match=words):
        manifest(make())


def test_a_frozen_complex_parameter_stays_on_the_node() -> None:
    model = complex_weight()
    model.spectrum.requires_grad_(False)
    assert [spec.name for spec in manifest(model)] == ["weight", "bias"]


def test_a_trained_parameter_travels_even_if_the_model_does_not_save_it() -> None:
    class Shy(nn.Linear):  # type: ignore[misc]
        def state_dict(self, *given: Any, **options: Any) -> Any:
            return {k: v for k, v in super().state_dict(*given, **options).items() if k != "bias"}

    assert [spec.name for spec in manifest(Shy(1, 1))] == ["weight", "bias"]


def grow(model: nn.Module) -> None:
    model.extra = nn.Linear(1, 1)


def shrink(model: nn.Module) -> None:
    model[1].bias = None


def cut(model: nn.Module) -> None:
    prune.l1_unstructured(model[0], "weight", 0.5)


def widen(model: nn.Module) -> None:
    model[1].bias = nn.Parameter(torch.zeros(5))


def turn(model: nn.Module) -> None:
    model[1].phase = nn.Parameter(torch.zeros(1, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grow, "extra.bias is new, extra.weight is new"),
        (shrink, "1.bias is gone"),
        (cut, "0.weight is gone, 0.weight_mask is new, 0.weight_orig is new"),
        (widen, r"1.bias was \[2\] and is \[5\]"),
        (turn, "1.phase is trained and complex64"),
    ],
)
def test_a_model_that_changes_after_the_start_is_told_which_tensor_did(
    change: Callable[[nn.Module], None], words: str
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    vector = ModelVector(model)
    params = vector.read()
    change(model)
    with pytest.raises(BadTask, match=words):
        vector.read()
    with pytest.raises(BadTask, match=words):
        vector.write(params)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def partly_compiled() -> nn.Module:
    model = net()
    model[0] = torch.compile(model[0])
    return model


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(net()),
    "a compiled part": partly_compiled,
    "data parallel": lambda: nn.DataParallel(net()),
    "compiled in data parallel": lambda: nn.DataParallel(torch.compile(net())),
    "half": lambda: net().half(),
    "bfloat16": lambda: net().bfloat16(),
    "double": lambda: net().double(),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_model_is_of_one_run_however_it_is_wrapped_and_computed(name: str) -> None:
    def run(model: nn.Module) -> bytes:
        return run_id(RunSpec(method="fedavg", task="own", tensors=manifest(model)))

    assert run(WRAPPED[name]()) == run(net())


def test_a_child_that_is_only_called_module_keeps_its_name() -> None:
    class Holder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(1, 1)

    assert [spec.name for spec in manifest(Holder())] == ["module.weight", "module.bias"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_training_has_not_changed_comes_back_to_the_last_bit(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    vector = ModelVector(model)
    master = np.random.default_rng(0).standard_normal(vector.read().size).astype(np.float32)
    master[-vector.buffers :] = np.abs(master[-vector.buffers :])
    vector.write(master)
    assert np.array_equal(vector.read(), master)
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    changed = np.flatnonzero(vector.read() != master)
    assert changed.tolist() == [0]
    assert vector.read()[0] - master[0] == pytest.approx(1, abs=0.01)


def test_a_hundred_small_outer_steps_add_up_in_a_bfloat16_model() -> None:
    model = nn.Linear(4, 4, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(0.3)
    vector = ModelVector(model)
    vector.write(vector.read())
    start = vector.read()
    for _ in range(100):
        vector.write(vector.read() + np.float32(1e-4))
    np.testing.assert_allclose(vector.read() - start, 1e-2, rtol=0.01)


def test_an_outer_change_that_bfloat16_would_round_away_is_kept_in_all_of_twenty_numbers() -> None:
    model = nn.Linear(20, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(0.3)
        rounded = (model.weight + 1e-4).bfloat16()
    assert torch.equal(rounded, model.weight), "the dtype of the model keeps none of them"
    vector = ModelVector(model)
    start = vector.read()
    vector.write(start + np.float32(1e-4))
    assert int(np.isclose(vector.read() - start, 1e-4, rtol=0.01).sum()) == 20


def test_a_mean_that_arrives_in_training_is_not_rounded_either() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    vector = ModelVector(model)
    vector.write(np.array([0.3], np.float32))
    vector.move(Moved(np.array([0.30001], np.float32), np.array([0.3], np.float32)))
    assert vector.read()[0] == pytest.approx(0.30001, abs=1e-7)


class Rounded(Task):
    """A model in bfloat16 whose learning rate is too small to change it."""

    def model(self) -> nn.Module:
        return nn.Linear(4, 2).bfloat16()

    def train_data(self) -> Any:
        return torch.ones(4, 4, dtype=torch.bfloat16), torch.tensor([0, 1, 0, 1])

    def test_data(self) -> Any:
        return self.train_data()


def test_rounding_is_no_progress_of_a_learner() -> None:
    learner = TorchLearner(Rounded())
    start = (learner.initial + np.float32(1e-5)).astype(np.float32)
    trained = learner.train(start, steps=3, lr=1e-12, batch_size=4)
    assert np.array_equal(trained.params, start)


def test_measuring_a_bfloat16_model_in_training_changes_nothing_of_it() -> None:
    def trained(*, measures: bool) -> bytes:
        learner = TorchLearner(Rounded())
        other = learner.initial + np.float32(0.001)

        def measure() -> None:
            before = copy.deepcopy(learner.model.state_dict())
            learner.evaluate(other)
            for name, tensor in learner.model.state_dict().items():
                assert torch.equal(tensor, before[name]), name

        if measures:
            learner.arrived = measure
        return learner.train(learner.initial, steps=2, lr=0.1, batch_size=4).params.tobytes()

    assert trained(measures=True) == trained(measures=False)


def test_reading_and_writing_a_plain_model_is_exact() -> None:
    model, other = net(), net()
    write_model(other, read_model(model))
    assert np.array_equal(read_model(other), read_model(model))
