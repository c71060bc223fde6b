"""What optimizers remember: of every kind, kept whole or not at all, and never a reason to stop training."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from callbacks import Told
from torch import nn

from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.optimizer_memory import (
    KEY,
    BadMemory,
    LiveMemory,
    groups_of,
    load_memory,
    save_memory,
)
from shoal.methods.learning.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Counting(torch.optim.Optimizer):  # type: ignore[misc]
    """SGD that counts in an int, masks with a bool tensor and learns a scale in its group."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {"scale": 1.0})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["scale"] *= 0.5
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["seen"] = 0, torch.zeros(p.shape, dtype=torch.bool)
                    state["nested"] = {"sum": torch.zeros(p.shape), "name": "sum"}
                state["step"] += 1
                state["seen"] |= p.grad != 0
                assert state["seen"].dtype == torch.bool
                state["nested"]["sum"] += p.grad
                with torch.no_grad():
                    p.sub_(group["scale"] / state["step"] * state["nested"]["sum"] * state["seen"])


class Slope(Task):
    """Fit y = 2x by a slope and nothing else."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def train_data(self) -> Any:
        return torch.ones(4, 1), 2 * torch.ones(4, 1)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return ((model(x) - y) ** 2).mean() / 2


class Gated(Task):
    """An embedding, with sparse gradients on demand, a layer that is used and one that never is."""

    def __init__(self, make: Make, *, sparse: bool = False) -> None:
        self._make, self._sparse = make, sparse

    def model(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "table": nn.Embedding(5, 3, sparse=self._sparse),
                "used": nn.Linear(3, 2),
                "unused": nn.Linear(3, 2),
            }
        )

    def train_data(self) -> Any:
        return torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 0, 1])

    def outputs(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        return model["used"](model["table"](x))

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return self._make([p for p in params if not self._sparse or p.shape == (5, 3)])


MAKERS: dict[str, Make] = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adamw amsgrad": lambda params: torch.optim.AdamW(params, lr=0.01, amsgrad=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=0.01),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
    "asgd": lambda params: torch.optim.ASGD(params, lr=0.1, lambd=0.5),
    "nadam": lambda params: torch.optim.NAdam(params, lr=0.01),
    "rprop": lambda params: torch.optim.Rprop(params, lr=0.01),
    "counting": Counting,
}


def rounds(learner: TorchLearner, memory: Any = None, count: int = 1) -> Any:
    params, trained = learner.initial, None
    for round_ in range(count):
        trained = learner.train(params, steps=2, lr=0.1, batch_size=4, memory=memory, round_=round_)
        params, memory = trained.params, trained.memory
    return trained


@pytest.mark.parametrize("name", MAKERS)
def test_two_rounds_are_as_many_steps_in_one_whatever_the_optimizer(name: str) -> None:
    """Also where a layer is never used, so that its parameters have no state."""
    apart = rounds(TorchLearner(Gated(MAKERS[name])), count=2)
    # All examples are in every batch, so rounds and steps see the same data.
    at_once = TorchLearner(Gated(MAKERS[name]))
    whole = at_once.train(at_once.initial, steps=4, lr=0.1, batch_size=4)
    np.testing.assert_allclose(apart.params, whole.params, atol=1e-6)
    cold = TorchLearner(Gated(MAKERS[name]))
    first = cold.train(cold.initial, steps=2, lr=0.1, batch_size=4)
    forgetful = cold.train(first.params, steps=2, lr=0.1, batch_size=4)
    assert not np.allclose(forgetful.params, whole.params, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.SparseAdam(params, lr=0.01),
        lambda params: torch.optim.Adagrad(params, lr=0.1),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    ],
)
@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_sparse_gradients_are_trained_and_remembered(make: Make, proximal: float) -> None:
    learner = TorchLearner(Gated(make, sparse=True))
    params, memory = learner.initial, None
    for round_ in range(3):
        trained = learner.train(
            params, steps=2, lr=0.1, batch_size=4, memory=memory, round_=round_, proximal=proximal
        )
        params, memory = trained.params, trained.memory
        assert memory
    assert not np.array_equal(params, learner.initial)


def test_the_pull_on_sparse_gradients_is_that_on_dense_ones() -> None:
    def trained(*, sparse: bool) -> Any:
        learner = TorchLearner(Gated(lambda params: torch.optim.SGD(params, lr=0.1), sparse=sparse))
        # Of the dense model only the table is trained too.
        if not sparse:
            for name, parameter in learner.model.named_parameters():
                parameter.requires_grad_(name == "table.weight")
        return learner.train(learner.initial, steps=5, lr=0.1, batch_size=4, proximal=0.7).params

    np.testing.assert_allclose(trained(sparse=True), trained(sparse=False), atol=1e-6)


def test_state_that_is_more_than_numbers_is_left_out_whole_and_said() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.state[parameter]["callback"] = object()
    memory, left_out = save_memory(optimizer, groups_of(optimizer))
    assert memory == {}
    assert "Adam keeps more than numbers" in left_out


def test_float32_moments_of_a_bfloat16_model_stay_float32() -> None:
    def made() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        return parameter, torch.optim.SGD([parameter], lr=1.0)

    parameter, one = made()
    one.state[parameter]["master"] = torch.tensor([1.0001, 2.0])
    other, two = made()
    load_memory(two, save_memory(one)[0])
    assert two.state[other]["master"].tolist() == torch.tensor([1.0001, 2.0]).tolist()


BAD = {
    "of an older version": {"exp_avg": np.ones(3, np.float32), "step": np.ones(1, np.float32)},
    "damaged": {KEY: np.arange(50, dtype=np.uint8)},
    "empty": {KEY: np.zeros(0, np.uint8)},
}


@pytest.mark.parametrize("name", BAD)
def test_a_memory_of_no_use_costs_a_message_and_no_round(name: str) -> None:
    told: list[tuple[str, str]] = []
    learner = TorchLearner(Gated(MAKERS["adam"]), callbacks=Told(told))
    after = rounds(learner, BAD[name])
    assert [source for source, _ in told] == ["memory"]
    assert "cannot be used" in told[0][1]
    assert np.array_equal(after.params, rounds(TorchLearner(Gated(MAKERS["adam"]))).params)


@pytest.mark.parametrize(
    ("one", "other"), [("adam", "momentum"), ("adafactor", "adam"), ("counting", "adafactor")]
)
def test_the_memory_of_another_optimizer_is_not_taken(one: str, other: str) -> None:
    memory = rounds(TorchLearner(Gated(MAKERS[one]))).memory
    told: list[tuple[str, str]] = []
    rounds(TorchLearner(Gated(MAKERS[other]), callbacks=Told(told)), memory)
    assert "and the optimizer is" in told[0][1]


def test_a_memory_that_only_the_step_finds_bad_is_not_taken() -> None:
    learner = TorchLearner(Gated(Counting))
    memory = rounds(learner).memory
    weights = list(learner.model.parameters())
    optimizer = Counting(weights)
    fresh = groups_of(optimizer)
    load_memory(optimizer, memory)
    for state in optimizer.state.values():
        state["nested"] = {"name": "its sum is gone"}
    told: list[tuple[str, str]] = []
    again = TorchLearner(Gated(Counting), callbacks=Told(told))
    rounds(again, save_memory(optimizer, fresh)[0])
    assert "KeyError" in told[0][1]


def test_parameters_of_other_shapes_are_another_memory() -> None:
    one = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    one.param_groups[0]["params"][0].grad = torch.ones(2)
    one.step()
    with pytest.raises(BadMemory, match="other shapes"):
        load_memory(torch.optim.Adam([nn.Parameter(torch.ones(3))]), save_memory(one)[0])


def test_a_setting_that_is_new_is_not_put_back_by_the_memory() -> None:
    parameter = nn.Parameter(torch.ones(2))
    one = torch.optim.Adam([parameter], lr=0.1)
    fresh = groups_of(one)
    parameter.grad = torch.ones(2)
    one.step()
    two = torch.optim.Adam([parameter], lr=0.01)
    load_memory(two, save_memory(one, fresh)[0])
    assert two.param_groups[0]["lr"] == 0.01


def rounds_of(count: int, *, keeps: bool, name: str = "adamw") -> tuple[bytes, list[Any]]:
    learner = TorchLearner(Slope())
    learner.keeps_optimizer = keeps
    params = learner.initial
    memory: Any = {}
    memories: list[Any] = []
    for number in range(count):
        trained = learner.train(
            params, steps=2, lr=0.1, batch_size=4, optimizer=name, memory=memory, round_=number
        )
        params, memory = trained.params, trained.memory
        memories.append(memory)
    return params.tobytes(), memories


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimizer_that_lives_on_does_what_one_of_its_memory_does(name: str) -> None:
    alive, memories = rounds_of(4, keeps=True, name=name)
    saved, _ = rounds_of(4, keeps=False, name=name)
    assert alive == saved
    optimizers = {id(memory.optimizer) for memory in memories if isinstance(memory, LiveMemory)}
    assert len(optimizers) == (1 if name == "adamw" else 0)


def test_what_lives_on_is_made_into_bytes_where_it_is_read() -> None:
    _, memories = rounds_of(2, keeps=True)
    _, saved = rounds_of(2, keeps=False)
    last = memories[-1]
    assert isinstance(last, LiveMemory)
    assert last.nbytes == 2 * 4 + 4  # two moments of one number, and a count of steps
    assert list(last) == list(saved[-1]) == [KEY]
    assert last[KEY].tobytes() == saved[-1][KEY].tobytes()


def test_an_optimizer_of_another_rate_or_kind_begins_from_the_bytes_of_the_memory() -> None:
    learner = TorchLearner(Slope())
    learner.keeps_optimizer = True
    first = learner.train(learner.initial, steps=2, lr=0.1, batch_size=4, optimizer="adamw").memory
    assert isinstance(first, LiveMemory)
    second = learner.train(
        learner.initial, steps=2, lr=0.2, batch_size=4, optimizer="adamw", memory=first
    ).memory
    assert isinstance(second, LiveMemory)
    assert second.optimizer is not first.optimizer
    assert float(next(iter(second.optimizer.state.values()))["step"]) == 4
