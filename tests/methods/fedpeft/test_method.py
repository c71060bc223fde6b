"""FedPEFT: what each family trains, that nothing else changes, and what a round sends."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lockstep import train
from torch import nn

from shoal.methods.errors import BadTask
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedpeft.adapters import blocks_of
from shoal.methods.fedpeft.method import FedPEFT, FedPEFTConfig
from shoal.methods.fedpeft.shifted import Shifted
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.parts import pinned_of, prepared
from shoal.methods.learning.task import Task
from shoal.methods.lockstep import run
from shoal.methods.registry import describe
from shoal.node.trainer.model_size import size_of


def method(family: Any, **options: Any) -> FedPEFT:
    return FedPEFT(FedPEFTConfig(family=family, **options))


class Sequences(Task):
    """Which half of a sequence is larger, by a small transformer."""

    def __init__(self, seed: int = 0) -> None:
        self.x = torch.randn(48, 6, 8, generator=torch.Generator().manual_seed(seed))

    def model(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Sequential(encoder, nn.Flatten(), nn.Linear(48, 2))

    def train_data(self) -> Any:
        return self.x, (self.x[:, :3].sum((1, 2)) > self.x[:, 3:].sum((1, 2))).long()

    def test_data(self) -> Any:
        return self.train_data()


FAMILIES: dict[str, Callable[[str], bool]] = {
    "head": lambda name: name.startswith("2."),
    "bias": lambda name: name.startswith("2.") or name.endswith(".bias"),
    "adapter": lambda name: name.startswith("2.") or ".adapter." in name,
    "prompt": lambda name: name in ("2.weight", "2.bias", "0.layers.0.prompt"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_family_changes_and_the_rest_stays_to_the_last_bit(family: str) -> None:
    ours = method(family, steps=3, batch_size=16)
    learners = [TorchLearner(Sequences(seed), method=ours) for seed in (1, 2)]
    names = {spec.name for spec in learners[0].manifest}
    parameters = {name: each.detach().clone() for name, each in learners[0].model.named_parameters()}
    assert names == {name for name in parameters if FAMILIES[family](name)}
    pinned = [pinned_of(learner.model, learner.stays) for learner in learners]
    assert pinned[0] == pinned[1]
    states, _ = train(ours, learners, learners[0].initial, 2)
    learners[0].evaluate(states[0].params)
    assert [pinned_of(learner.model, learner.stays) for learner in learners] == pinned
    for learner in learners:
        for name, tensor in learner.model.named_parameters():
            if name not in names:
                assert torch.equal(tensor, parameters[name]), name
    moved = learners[0].model.get_parameter(sorted(names)[-1])
    assert not torch.equal(moved, parameters[sorted(names)[-1]])


def test_adapters_change_nothing_before_the_first_step() -> None:
    x = torch.randn(2, 6, 8)
    torch.manual_seed(3)
    plain = Sequences().model().eval()
    torch.manual_seed(3)
    model, _ = prepared(Sequences(), method("adapter"))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain(x))
        copied = copy.deepcopy(model)
        copied[0].layers[1].adapter.up.bias += 1
        assert not torch.equal(copied(x), plain(x))
        assert torch.equal(model(x), plain(x))


def test_a_prompt_is_cut_off_again_and_has_its_say() -> None:
    x = torch.randn(2, 6, 8)
    model, _ = prepared(Sequences(), method("prompt", length=4))
    with torch.no_grad():
        model.eval()
        before = model(x)
        assert model[0](x).shape == x.shape
        model[0].layers[0].prompt += 1
        assert not torch.allclose(model(x), before)


def test_what_the_model_has_trained_is_fedavg_bit_for_bit() -> None:
    work: dict[str, Any] = {"steps": 3, "lr": 0.1, "batch_size": 16}
    ended = []
    for each in (method("trained", **work), FedAvg(FedAvgConfig(**work))):
        learners = [TorchLearner(Sequences(seed), method=each) for seed in (1, 2)]
        ended.append(train(each, learners, learners[0].initial, 2)[0][0].params)
    assert ended[0].tobytes() == ended[1].tobytes()


def test_a_round_sends_what_is_trained_and_is_shown_so() -> None:
    ours = method("bias", steps=1)
    learners = [TorchLearner(Shifted(f"{i}/2"), method=ours) for i in (1, 2)]
    done = run(ours, learners, learners[0].initial, 1)
    n_trained = 64 + 64 + 10 + 640
    assert done.vector_bytes == 4 * n_trained
    assert done.vector_bytes < 0.1 * 4 * 8970
    shown = describe("fedpeft", size_of(Shifted(), ours))
    assert shown.traffic.reduced == n_trained
    assert shown.traffic.bytes_per_round(2) <= 1.05 * 4 * n_trained + 4000


def test_a_model_without_blocks_is_told_to_take_another_family() -> None:
    with pytest.raises(BadTask, match="no blocks and no hidden linear layer: choose the family head or bias"):
        blocks_of(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(BadTask, match="a prompt stands before a sequence"):
        prepared(Shifted(), method("prompt"))


def test_a_model_of_hugging_face_peft_is_taken_as_it_is() -> None:
    peft = pytest.importorskip("peft")

    class Adapted(Sequences):
        def model(self) -> nn.Module:
            base = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 2))
            return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["1"]))

    ours = method("trained", steps=3)
    learners = [TorchLearner(Adapted(seed), method=ours) for seed in (1, 2)]
    assert learners[0].initial.size == 2 * (48 + 16)
    assert all("lora_" in spec.name for spec in learners[0].manifest)
    pinned = [pinned_of(learner.model, learner.stays) for learner in learners]
    assert pinned[0] == pinned[1]
    states, _ = train(ours, learners, learners[0].initial, 2)
    assert not np.array_equal(states[0].params, learners[0].initial)
    assert pinned_of(learners[0].model, learners[0].stays) == pinned[0]


@pytest.mark.slow
def test_biases_and_head_gain_a_quarter_over_the_untouched_model() -> None:
    ours = method("bias")
    learners = [TorchLearner(Shifted(f"{i}/8"), method=ours) for i in range(1, 9)]
    before = learners[0].evaluate(learners[0].initial)["accuracy"]
    states, _ = train(ours, learners, learners[0].initial, 20)
    assert learners[0].evaluate(states[0].params)["accuracy"] >= before + 0.25
