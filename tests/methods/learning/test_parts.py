"""Parts of a model: what travels, what is pinned by its hash, and what stays on its node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from lockstep import train
from torch import nn

import shoal
from scripts.home_lora import Gpt2
from shoal.gossip.run_spec import RunSpec, difference, run_id
from shoal.gossip.state.pinned_hash import BLOCK_BYTES, pinned_hash
from shoal.methods.errors import BadTask
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedit.lora import add_lora
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.model_tensors import ModelVector, Staying, travelling
from shoal.methods.learning.parts import Travels, check_frozen, pinned_of, staying
from shoal.methods.learning.task import Task
from shoal.methods.learning.unshared import read_unshared
from shoal.node.storage.model_file import save_model
from shoal.node.storage.private_rounds import own_parts
from shoal.node.trainer.model_size import size_of
from shoal.node.trainer.spec import run_spec
from shoal.node.trainer.unshared_file import UnsharedFile

METHOD = FedAvg(FedAvgConfig(steps=3, lr=0.1, batch_size=16))


def tuned() -> nn.Module:
    """Return a frozen base with norms, under a trained head."""
    base = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)).requires_grad_(False)
    return nn.Sequential(base, nn.BatchNorm1d(8), nn.Linear(8, 2))


class Tuned(Task):
    """Two classes of points by a model with a frozen base; each node has other points."""

    def __init__(self, seed: int = 0, travels: Travels = "trained", own: str = "") -> None:
        dice = torch.Generator().manual_seed(seed)
        self.x, self.travels, self._own = torch.randn(64, 6, generator=dice), travels, own

    def model(self) -> nn.Module:
        return tuned()

    def part(self, name: str) -> str:
        return "own:head" if self._own and name.startswith(self._own) else ""

    def train_data(self) -> Any:
        return self.x, (self.x.sum(1) > 0).long()

    def test_data(self) -> Any:
        return self.train_data()


def spec_of(learner: TorchLearner) -> RunSpec:
    pinned = pinned_of(learner.model, learner.stays)
    return run_spec(RunSpec(tensors=()), {}, learner.manifest, (), learner.buffers, *pinned)


def base_of(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.model[0].state_dict().items()}


def test_what_is_frozen_is_in_no_vector_and_never_changes() -> None:
    learners = [TorchLearner(Tuned(seed)) for seed in (1, 2)]
    names = [spec.name for spec in learners[0].manifest]
    assert names == ["1.weight", "1.bias", "2.weight", "2.bias", "1.running_mean", "1.running_var"]
    assert learners[0].initial.size == 50
    before = [base_of(learner) for learner in learners]
    # The norm in the base would move its statistics in training, were they not held.
    states, reports = train(METHOD, learners, learners[0].initial, 3)
    assert not np.array_equal(states[0].params, learners[0].initial)
    assert states[0].params.tobytes() == states[1].params.tobytes()
    for learner, base in zip(learners, before, strict=True):
        learner.evaluate(states[0].params)
        assert all(torch.equal(base[name], tensor) for name, tensor in base_of(learner).items())
    assert reports[2][0].loss < reports[0][0].loss


def test_another_base_or_a_renamed_tensor_makes_another_run_and_is_named() -> None:
    ours = TorchLearner(Tuned())
    assert run_id(spec_of(TorchLearner(Tuned(7)))) == run_id(spec_of(ours))
    other = TorchLearner(Tuned())
    with torch.no_grad():
        other.model[0][3].bias[1] += 1e-6
    assert run_id(spec_of(other)) != run_id(spec_of(ours))
    said = "other numbers in the frozen tensors: take the same base, in the same revision, on all peers"
    assert difference(spec_of(ours), spec_of(other)) == said

    class Renamed(Tuned):
        def model(self) -> nn.Module:
            model = tuned()
            model[0].add_module("last", model[0].pop(3))
            return model

    renamed = spec_of(TorchLearner(Renamed()))
    assert difference(spec_of(ours), renamed) == (
        "pinned tensor 0.3.bias float32[8] here, 0.last.bias float32[8] there"
    )


def test_the_hash_is_over_blocks_of_names_shapes_types_and_bytes() -> None:
    model = nn.Linear(BLOCK_BYTES // 4, 1, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    model.codes = nn.Parameter(torch.arange(3, dtype=torch.uint8), requires_grad=False)
    model.scale = nn.Parameter(torch.tensor(1.0))
    specs, found = pinned_of(model, staying(model))
    assert [str(spec) for spec in specs] == ["codes uint8[3]", f"weight bfloat16[1, {BLOCK_BYTES // 4}]"]
    weights = model.weight.detach().view(torch.uint8).numpy().tobytes()
    assert len(weights) == BLOCK_BYTES // 2

    def leaf(data: bytes) -> bytes:
        return blake3(b"\x02" + data).digest()

    text = b"\x03" + b"\x93\xa5codes\xa5uint8\x91\x03" + (3).to_bytes(8, "big") + leaf(b"\0\1\2")
    text += b"\x93\xa6weight\xa8bfloat16\x92\x01\xce\x00\x01\x00\x00" + len(weights).to_bytes(8, "big")
    assert found == blake3(text + leaf(weights)).digest()
    large = bytes(BLOCK_BYTES + 1)
    assert (
        pinned_hash([(specs[0], large)])
        == blake3(
            b"\x03"
            + b"\x93\xa5codes\xa5uint8\x91\x03"
            + len(large).to_bytes(8, "big")
            + leaf(large[:-1])
            + leaf(large[-1:])
        ).digest()
    )


def test_nothing_is_pinned_where_nothing_is_frozen() -> None:
    learner = TorchLearner(Tuned(travels="all"))
    assert pinned_of(learner.model, learner.stays) == ((), b"")
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    assert staying(plain) == Staying()
    plain[0].bias.requires_grad_(False)
    # Beside something trained a norm without weights of its own goes on learning its statistics.
    assert staying(plain).pinned == {"0.bias"}


def test_an_own_part_is_trained_and_measured_at_home_and_saved_with_the_model(tmp_path: Path) -> None:
    learners = [TorchLearner(Tuned(seed, own="2.")) for seed in (1, 2)]
    assert "2.weight" not in {spec.name for spec in learners[0].manifest}
    assert learners[0].stays.own == {"2.weight": "head", "2.bias": "head"}
    states, _ = train(METHOD, learners, learners[0].initial, 3)
    heads = [learner.model[2].weight.detach().clone() for learner in learners]
    assert not torch.equal(heads[0], heads[1])
    assert run_id(spec_of(learners[0])) == run_id(spec_of(learners[1]))
    assert "accuracy" in learners[0].evaluate(states[0].params)
    assert torch.equal(learners[0].model[2].weight, heads[0])
    unshared = read_unshared(learners[0].model, learners[0].stays)
    assert unshared.keys() == {
        "2.weight", "2.bias", "0.1.num_batches_tracked", "1.num_batches_tracked"
    }  # fmt: skip
    file = tmp_path / "file"
    save_model(file, states[0].params, learners[0].manifest, 0, unshared)
    model = tuned()
    missing, unexpected = model.load_state_dict(shoal.load_model(file), strict=False)
    assert torch.equal(model[2].weight, heads[0])
    assert set(missing) == learners[0].stays.pinned
    assert not unexpected


def test_a_round_that_failed_and_a_restart_leave_a_nodes_own_as_it_was(tmp_path: Path) -> None:
    learner = TorchLearner(Tuned(own="2."))
    file = UnsharedFile(tmp_path, spec_of(learner), learner.model, learner.stays)
    file.save(1)
    before = learner.model[2].weight.detach().clone()
    learner.train(learner.initial, steps=2, lr=0.1, batch_size=8)
    assert not torch.equal(learner.model[2].weight, before)
    file.put_back()
    assert torch.equal(learner.model[2].weight, before)
    again = TorchLearner(Tuned(own="2."), seed=9)
    file = UnsharedFile(tmp_path, spec_of(learner), again.model, again.stays)
    file.restore()
    file.begun(1)
    assert torch.equal(again.model[2].weight, before)


@pytest.mark.parametrize("confirmed", [1, 2])
def test_killed_before_or_after_its_state_is_known_it_goes_on_with_what_belongs_to_that(
    confirmed: int, tmp_path: Path
) -> None:
    learner = TorchLearner(Tuned(own="2."))
    file = UnsharedFile(tmp_path, spec_of(learner), learner.model, learner.stays)
    heads = {}
    for round_ in range(2):
        file.begun(round_)
        learner.train(learner.initial, steps=2, lr=0.1, batch_size=8)
        file.save(round_ + 1)
        heads[round_ + 1] = learner.model[2].weight.detach().clone()
    again = TorchLearner(Tuned(own="2."), seed=9)
    file = UnsharedFile(tmp_path, spec_of(learner), again.model, again.stays)
    file.restore()
    file.begun(confirmed)
    assert torch.equal(again.model[2].weight, heads[confirmed])
    kept = own_parts(tmp_path, spec_of(learner), confirmed)
    assert np.array_equal(kept["2.weight"], heads[confirmed].numpy())


def test_a_set_of_names_travels_and_the_rest_is_frozen() -> None:
    learner = TorchLearner(Tuned(travels={"2.weight"}))
    assert [spec.name for spec in learner.manifest] == ["2.weight"]
    learner.train(learner.initial, steps=2, lr=0.1, batch_size=8)
    assert not learner.model[2].bias.requires_grad
    assert size_of(Tuned(travels={"2.weight"})).numel == 16
    one = TorchLearner(Tuned(travels=lambda name, tensor: tensor.numel() == 2))
    assert [spec.name for spec in one.manifest] == ["2.bias"]


WRONG: dict[str, tuple[Travels, str]] = {
    "unknown": ({"3.weight"}, "travels names 3.weight, which is no tensor"),
    "empty": (frozenset(), "travels names no tensor"),
    "word": ("some", "travels = 'some': give 'trained', 'all'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_travel_is_refused(name: str) -> None:
    travels, text = WRONG[name]
    with pytest.raises(BadTask, match=text):
        TorchLearner(Tuned(travels=travels))


def test_a_part_of_no_kind_is_refused() -> None:
    with pytest.raises(BadTask, match=r"part\('weight'\) is 'mine': return 'params', 'base', or 'own:NAME'"):
        staying(nn.Linear(1, 1), part=lambda name: "mine")


def test_in_a_loop_of_ones_own_what_is_trained_must_travel() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(BadTask, match="bias is trained, and travels= leaves it out: freeze it"):
        check_frozen(model, staying(model, {"weight"}))


def test_what_was_pinned_is_not_trained_later() -> None:
    model = tuned()
    vector = ModelVector(model, staying(model))
    vector.read()
    model[0][0].weight.requires_grad_(True)
    with pytest.raises(BadTask, match=r"0.0.weight was frozen at the start and is trained now"):
        vector.read()


class Layer(nn.Module):  # type: ignore[misc]
    """A layer with low-rank changes, under the names that PEFT gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 4)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})


def adapted() -> nn.Module:
    model = nn.Module()
    model.q_proj, model.prompt_encoder, model.score = Layer(), nn.Embedding(3, 4), nn.Linear(4, 2)
    return model


FAMILIES: dict[str, Callable[[str], bool]] = {
    "lora": lambda name: "lora_" in name,
    "prompt": lambda name: name == "prompt_encoder.weight",
    "head": lambda name: name.startswith("score."),
    "bias": lambda name: name in ("q_proj.base_layer.bias", "score.bias", "score.weight"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_usual_choices_have_a_name(family: Any) -> None:
    model = adapted()
    wanted = {name for name, _ in model.named_parameters() if FAMILIES[family](name)}
    assert shoal.select(model, family) == wanted
    assert wanted


def test_a_choice_that_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(BadTask, match="no tensor of the family lora"):
        shoal.select(nn.Linear(1, 1), "lora")


def test_of_gpt_2_small_with_low_rank_changes_of_rank_eight_294912_numbers_travel() -> None:
    with torch.device("meta"):
        model = Gpt2()
        whole = sum(each.numel() for each in model.parameters())
        add_lora(model, 8, 16.0, 0.0, ["c_attn"])
    stays = staying(model, shoal.select(model, "lora"))
    assert whole == 124_439_808
    assert sum(each.numel() for each in travelling(model, stays).values()) == 294_912
