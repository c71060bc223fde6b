"""Local training with torch: by hand, repeatable, interruptible, and with everything a model may hold."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shoal.methods.errors import BadOption, BadTask, Diverged, Interrupted
from shoal.methods.learning.learner import Callbacks, TorchLearner, choose_device
from shoal.methods.learning.model_tensors import ModelVector, float_tensors, manifest, read_model, write_model
from shoal.methods.learning.task import Task
from shoal.methods.overlap import Moved


class Line(Task):
    """Fit y = 2x by least squares; the params are slope and nothing else."""

    def __init__(self, examples: int = 4) -> None:
        self.x = torch.ones(examples, 1)

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def train_data(self) -> Any:
        return self.x, 2 * self.x

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return ((model(x) - y) ** 2).mean() / 2


class Normed(Task):
    """A model with batch norm, dropout, an integer buffer, a frozen tensor that travels, and a tied one."""

    travels = "all"

    def __init__(self) -> None:
        self.x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))

    def model(self) -> nn.Module:
        model = nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 6)
        )
        model[4].weight = model[3].weight
        model[3].bias.requires_grad_(False)
        model.register_buffer("scratch", torch.ones(3), persistent=False)
        return model

    def train_data(self) -> Any:
        return self.x, (self.x.sum(1) > 0).long()

    def test_data(self) -> Any:
        return self.train_data()


ONE = np.array([1.0], np.float32)


def test_two_steps_by_hand() -> None:
    # The gradient at slope w is w - 2: from 1 by 0.5 to 1.5, to 1.75; losses 0.5 and 0.125.
    trained = TorchLearner(Line()).train(ONE, steps=2, lr=0.5, batch_size=4)
    assert trained.params.tolist() == [1.75]
    assert trained.loss == pytest.approx(0.3125)
    assert (trained.examples, trained.steps) == (8, 2)


def test_the_proximal_term_by_hand() -> None:
    # The second gradient is 1.5 - 2 + 1 · (1.5 - 1) = 0.
    trained = TorchLearner(Line()).train(ONE, steps=2, lr=0.5, batch_size=4, proximal=1.0)
    assert trained.params.tolist() == [1.5]


def test_a_node_with_fewer_examples_than_a_batch_takes_all() -> None:
    assert TorchLearner(Line(3)).train(ONE, steps=2, lr=0.1, batch_size=32).examples == 6


def test_the_same_seed_and_round_repeat_bit_for_bit_and_others_do_not() -> None:
    def run(seed: int, round_: int) -> bytes:
        learner = TorchLearner(Normed(), seed=seed)
        start = TorchLearner(Normed(), seed=0).initial
        learner.train(start, steps=1, lr=0.1, batch_size=8, round_=9)  # what came before does not matter
        return learner.train(start, steps=3, lr=0.1, batch_size=8, round_=round_).params.tobytes()

    assert run(0, 0) == run(0, 0)
    assert len({run(0, 0), run(0, 1), run(1, 0)}) == 3


def test_the_seed_decides_the_initial_params_and_nothing_else_is_disturbed() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = TorchLearner(Normed(), seed=1), TorchLearner(Normed(), seed=1)
    assert np.array_equal(one.initial, two.initial)
    assert not np.array_equal(one.initial, TorchLearner(Normed(), seed=2).initial)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_manifest_has_floats_once_and_no_integers() -> None:
    names = [spec.name for spec in TorchLearner(Normed()).manifest]
    assert "1.running_mean" in names
    assert "3.weight" in names
    assert "3.bias" in names  # frozen
    assert "4.weight" not in names  # tied to 3.weight
    assert "1.num_batches_tracked" not in names
    assert "scratch" not in names  # not part of what is saved


def test_running_means_travel_and_integer_buffers_stay() -> None:
    learner = TorchLearner(Normed())
    trained = learner.train(learner.initial, steps=4, lr=0.1, batch_size=8)
    tracked = learner.model[1].num_batches_tracked.item()
    write_model(learner.model, learner.initial)
    assert not learner.model[1].running_mean.any()
    write_model(learner.model, trained.params)
    assert learner.model[1].running_mean.any()
    assert learner.model[1].num_batches_tracked.item() == tracked == 4
    assert np.array_equal(read_model(learner.model), trained.params)


def test_a_model_of_doubles_travels_as_float32() -> None:
    model = nn.Linear(2, 1).double()
    assert [spec.dtype for spec in manifest(model)] == ["float32", "float32"]
    assert read_model(model).dtype == np.float32
    write_model(model, np.array([1, 2, 3], np.float32))
    assert float_tensors(model)["weight"].tolist() == [[1, 2]]


def test_the_vector_is_a_copy() -> None:
    learner = TorchLearner(Line())
    vector = read_model(learner.model)
    vector[:] = 7
    assert read_model(learner.model)[0] != 7


def test_interrupt_stops_between_steps() -> None:
    asked = iter([False, False, True])

    class Asked(Callbacks):
        def is_interrupted(self) -> bool:
            return next(asked)

    learner = TorchLearner(Line(), callbacks=Asked())
    with pytest.raises(Interrupted):
        learner.train(ONE, steps=9, lr=0.1, batch_size=4)
    assert list(asked) == []


def test_hurry_takes_at_least_one_step() -> None:
    class Hurried(Callbacks):
        def is_hurried(self) -> bool:
            return True

    assert TorchLearner(Line(), callbacks=Hurried()).train(ONE, steps=9, lr=0.1, batch_size=4).steps == 1


def test_divergence_is_named() -> None:
    with pytest.raises(Diverged, match="in round 3\\); lower lr = 90"):
        TorchLearner(Line()).train(ONE, steps=100, lr=90.0, batch_size=4, round_=3)


def test_plain_sgd_remembers_nothing() -> None:
    assert TorchLearner(Line()).train(ONE, steps=1, lr=0.1, batch_size=4, optimizer="sgd").memory == {}


def test_evaluation_is_the_tasks() -> None:
    learner = TorchLearner(Normed())
    metrics = learner.evaluate(learner.initial)
    assert set(metrics) == {"accuracy"}
    assert metrics == learner.evaluate(learner.initial)  # dropout is off


def test_a_model_without_parameters_is_refused() -> None:
    class Empty(Line):
        def model(self) -> nn.Module:
            return nn.ReLU()

    with pytest.raises(BadTask, match="nothing to train"):
        TorchLearner(Empty())


def test_no_examples_are_refused() -> None:
    with pytest.raises(BadTask, match=r"Line.train_data\(\) is empty"):
        TorchLearner(Line(0))


@pytest.mark.parametrize("name", ["warp", "cuda:999"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(BadOption, match=f"device = {name}: .*; choose auto or cpu"):
        choose_device(name)


def test_auto_always_finds_a_device() -> None:
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


def once(moved: Moved, step: int) -> Any:
    """Return what a learner's `arrived` may be: something after this step, and nothing else."""
    answers = iter([None] * (step - 1) + [moved])
    return lambda: next(answers, None)


def test_a_mean_that_arrives_moves_the_model_and_keeps_its_progress() -> None:
    # Halfway to 2 with every step: 1, then moved by 3 to 4, then 3.
    learner = TorchLearner(Line())
    learner.arrived = once(Moved(np.array([3.0], np.float32), np.array([0.0], np.float32)), 1)
    assert learner.train(np.zeros(1, np.float32), steps=2, lr=0.5, batch_size=4).params.tolist() == [3.0]


def test_the_pull_is_to_where_the_common_params_went() -> None:
    # A pull of 1 / lr: each step ends lr · gradient beside the anchor, which is 0, and then 3.
    learner = TorchLearner(Line())
    learner.arrived = once(Moved(np.array([3.0], np.float32), np.array([0.0], np.float32)), 1)
    done = learner.train(np.zeros(1, np.float32), steps=2, lr=1e-3, batch_size=4, proximal=1e3)
    assert done.params[0] == pytest.approx(3.0, abs=0.01)


def test_buffers_are_taken_as_agreed_so_that_no_variance_is_negative() -> None:
    learner = TorchLearner(Normed())
    moved = Moved(np.zeros_like(learner.initial), np.full_like(learner.initial, 5.0))
    vector = ModelVector(learner.model)
    vector.write(learner.initial)
    vector.move(moved)
    for name, tensor in float_tensors(learner.model).items():
        expected = torch.zeros_like(tensor) if "running" in name else None
        assert expected is None or torch.equal(tensor, expected), name
    weights = float_tensors(learner.model)["0.weight"].detach().clone()
    write_model(learner.model, learner.initial)
    assert torch.allclose(weights, float_tensors(learner.model)["0.weight"].detach() - 5.0)


def test_measuring_in_the_middle_of_local_work_changes_nothing_of_it() -> None:
    def trained(*, measures: bool) -> bytes:
        learner = TorchLearner(Normed())
        other = learner.initial + 1

        def measure() -> None:
            learner.evaluate(other)

        if measures:
            learner.arrived = measure
        return learner.train(learner.initial, steps=4, lr=0.1, batch_size=8).params.tobytes()

    assert trained(measures=True) == trained(measures=False)


def test_what_is_trained_is_left_where_it_is_wanted() -> None:
    learner, plain = TorchLearner(Normed()), TorchLearner(Normed())
    learner.out = np.zeros(learner.numel + 3, np.float32)
    start = learner.initial
    trained = learner.train(start, steps=2, lr=0.1, batch_size=8).params
    assert np.shares_memory(trained, learner.out)
    assert trained.tobytes() == plain.train(start, steps=2, lr=0.1, batch_size=8).params.tobytes()


def test_a_task_without_metrics_costs_no_copy_of_the_model() -> None:
    class Unmeasured(Normed):
        def test_data(self) -> None:
            return None

    learner = TorchLearner(Unmeasured())
    before = copy.deepcopy(learner.model.state_dict())
    assert learner.evaluate(learner.initial + 1) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())


def test_measuring_between_rounds_keeps_no_copy_of_what_travels() -> None:
    learner = TorchLearner(Normed())
    other = learner.initial + 1
    learner.evaluate(other)
    assert np.array_equal(ModelVector(learner.model).read(), other)


def test_params_that_cannot_be_written_are_read_without_a_copy_or_a_warning() -> None:
    learner = TorchLearner(Normed())
    start = learner.initial.copy()
    start.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.train(start, steps=1, lr=0.1, batch_size=8)
    learner.forget_initial()
    assert learner.initial.size == 0
    assert learner.numel == start.size
