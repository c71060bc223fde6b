"""FedIT: low-rank changes, how the three variants average them, and what is masked."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round, train
from torch import nn

from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Report, State, Trained, gathers
from shoal.methods.errors import BadTask
from shoal.methods.fedit.lora import LoRALinear, add_lora, merge
from shoal.methods.fedit.method import SKETCH, Body, FedIT, FedITConfig, _sketched
from shoal.methods.fedit.products import mean_product, norm_of
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.parts import pinned_of, prepared
from shoal.methods.lockstep import run
from shoal.methods.params import flatten, views
from shoal.methods.tasks.instructions import IGNORED, KINDS, Instructions, encode, question
from shoal.node.trainer.model_size import size_of

SMALL: dict[str, Any] = {"width": 16, "layers": 1}


def method(variant: Any = "freeze-a", **options: Any) -> FedIT:
    return FedIT(FedITConfig(variant=variant, **options))


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


def test_at_the_start_the_model_is_the_base_and_merged_changes_are_the_changes() -> None:
    plain = seeded(Instructions(**SMALL).model).eval()
    model = seeded(lambda: prepared(Instructions(**SMALL), method())[0]).eval()
    tokens = Instructions(**SMALL).test_data()[0][:4]
    with torch.no_grad():
        assert torch.equal(model(tokens), plain(tokens))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        changed = model(tokens)
        assert not torch.allclose(changed, plain(tokens), atol=1e-3)
        merge(model)
        assert not any(isinstance(module, LoRALinear) for module in model.modules())
        assert torch.allclose(model(tokens), changed, atol=1e-5)


def test_targets_are_the_last_words_of_names() -> None:
    model = Instructions(**SMALL).model()
    add_lora(model, 2, 4.0, 0.0, ["q_proj", "v_proj"])
    found = [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    assert found == ["layers.0.q_proj", "layers.0.v_proj"]
    with pytest.raises(BadTask, match="targets may name some of down_proj, k_proj, lm_head, o_proj, q_proj"):
        add_lora(Instructions(**SMALL).model(), 2, 4.0, 0.0, ["query"])


@pytest.mark.parametrize(
    ("variant", "factors"), [("freeze-a", {"lora_B"}), ("separate", {"lora_A", "lora_B"})]
)
def test_only_changes_travel_and_all_else_stays_to_the_last_bit(variant: str, factors: set[str]) -> None:
    ours = method(variant, steps=2, rank=2)
    learners = [TorchLearner(Instructions(f"{i}/4", **SMALL), method=ours) for i in (1, 2)]
    assert {spec.name.split(".")[3] for spec in learners[0].manifest} == factors
    pinned = [pinned_of(learner.model, learner.stays) for learner in learners]
    assert pinned[0] == pinned[1]
    states, reports = train(ours, learners, learners[0].initial, 2)
    assert not np.array_equal(states[0].params, learners[0].initial)
    assert states[0].params.tobytes() == states[1].params.tobytes()
    assert [pinned_of(learner.model, learner.stays) for learner in learners] == pinned
    assert ("gap" in reports[1][0].metrics) == (variant == "separate")


SPECS = (
    TensorSpec("x.lora_A.default.weight", "float32", (2, 5)),
    TensorSpec("x.lora_B.default.weight", "float32", (4, 2)),
)


class OnPaper:
    """A learner whose local work ends at given factors."""

    manifest = SPECS

    def __init__(self, seed: int, examples: int) -> None:
        dice = np.random.default_rng(seed)
        self.examples = examples
        self.trained = dice.standard_normal(18, dtype=np.float32)

    def train(self, params: Any, **_: Any) -> Trained:
        return Trained(self.trained.copy(), 1.0, 1, 1)

    @property
    def product(self) -> np.ndarray[Any, Any]:
        return product(self.trained)


def product(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    a, b = views(vector, SPECS).values()
    return b.astype(np.float64) @ a.astype(np.float64)


def one_round(ours: FedIT, learners: list[OnPaper]) -> list[tuple[State, Report]]:
    state = State(np.zeros(18, np.float32))
    peers = names(len(learners))
    ended = run_round(
        {peer: ours.round(state, learner, 3) for peer, learner in zip(peers, learners, strict=True)}
    )
    assert not ended.failed
    return [ended.results[peer] for peer in peers]


def test_exact_is_the_mean_of_the_products_cut_to_the_rank() -> None:
    learners = [OnPaper(1, 10), OnPaper(2, 30)]
    sizes = [norm_of(tuple(views(each.trained, SPECS).values())) for each in learners]  # type: ignore[arg-type]
    assert sizes == pytest.approx([np.linalg.norm(each.product) for each in learners])
    # No product is longer than the lower median, here the smaller of the two.
    shares = [weight * min(sizes) / size for weight, size in zip((0.25, 0.75), sizes, strict=True)]
    wanted = sum(share * each.product for share, each in zip(shares, learners, strict=True))
    u, values, v = np.linalg.svd(wanted)
    best = (u[:, :2] * values[:2]) @ v[:2]
    (state, _), (other, _) = one_round(method("exact"), learners)
    assert state.params.tobytes() == other.params.tobytes()
    assert np.allclose(product(state.params), best, atol=1e-5)


def test_the_same_products_come_back_from_exact() -> None:
    learners = [OnPaper(1, 10), OnPaper(1, 30)]
    (state, _), _ = one_round(method("exact"), learners)
    assert np.allclose(product(state.params), learners[0].product, atol=1e-5)


def test_a_product_of_a_lower_rank_keeps_the_shape() -> None:
    a, b = np.zeros((3, 2), np.float32), np.ones((2, 3), np.float32)
    a[0] = 1
    made = mean_product([(a, b)], [1.0])
    assert [each.shape for each in made] == [(3, 2), (2, 3)]
    assert np.allclose(made[1] @ made[0], b @ a, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        msgspec.msgpack.encode(Body(1, b"1234")),
        msgspec.msgpack.encode(Body(1, np.full(18, np.nan, "<f4").tobytes())),
    ],
)
def test_factors_that_no_correct_peer_sends_are_left_out_and_counted(body: bytes) -> None:
    ours, learners = method("exact"), [OnPaper(1, 10), OnPaper(1, 10)]
    steps = ours.round(State(np.zeros(18, np.float32)), learners[0], 0)
    ask = next(steps)
    from shoal.methods.base import AllReduce, Averaged, Gathered

    mean = steps.send(Gathered(((names(2)[0], ask.body), (names(2)[1], body)), names(2)[0]))  # type: ignore[union-attr]
    assert isinstance(mean, AllReduce)
    assert np.allclose(product(mean.vector), learners[0].product, atol=1e-5)
    with pytest.raises(StopIteration) as ended:
        steps.send(Averaged(mean.vector, (names(2)[0],)))
    assert ended.value.value[1].metrics == {"refused": 1.0}


def test_with_one_a_the_mean_of_b_is_the_mean_of_the_products_and_separately_there_is_a_gap() -> None:
    one, two = OnPaper(1, 10), OnPaper(2, 30)
    (state, report), _ = one_round(method("separate"), [one, two])
    wanted = 0.25 * one.product + 0.75 * two.product
    probe = np.random.default_rng(3).standard_normal(5, dtype=np.float32)
    apart = np.linalg.norm((wanted - product(state.params)) @ probe) / np.linalg.norm(wanted @ probe)
    assert report.metrics["gap"] == pytest.approx(apart, rel=1e-4)
    a = views(one.trained, SPECS)[SPECS[0].name]
    two.trained = flatten({SPECS[0].name: a, SPECS[1].name: views(two.trained, SPECS)[SPECS[1].name]}, SPECS)
    (state, report), _ = one_round(method("separate"), [one, two])
    assert np.allclose(product(state.params), 0.25 * one.product + 0.75 * two.product, atol=1e-6)
    assert report.metrics["gap"] < 1e-6


def test_the_gap_of_many_layers_is_known_by_a_sketch_that_costs_next_to_nothing() -> None:
    shape: dict[str, Any] = {"width": 32, "layers": 2}
    ours = method("separate", steps=1, rank=8)
    learners = [TorchLearner(Instructions(f"{i}/2", **shape), method=ours) for i in (1, 2)]
    outputs = sum(spec.shape[0] for spec in learners[0].manifest if ".lora_B." in spec.name)
    assert outputs > 2 * SKETCH  # or nothing is sketched
    done = run(ours, learners, learners[0].initial, 1)
    assert done.vector_bytes == 4 * (learners[0].initial.size + SKETCH)
    dice = np.random.default_rng(0)
    vectors = dice.standard_normal((2, 5000), dtype=np.float32)
    sketches = _sketched(vectors, np.random.default_rng(1))
    assert sketches.shape == (2, SKETCH)
    assert np.linalg.norm(sketches, axis=1) == pytest.approx(np.linalg.norm(vectors, axis=1), rel=0.1)
    apart = _sketched(vectors[:1] - vectors[1:], np.random.default_rng(1))
    assert apart[0] == pytest.approx(sketches[0] - sketches[1], abs=1e-4)


def test_what_stands_before_the_answer_does_not_count() -> None:
    task = Instructions("2/4", **SMALL)
    tokens, targets = task.train_data()
    model = seeded(task.model)
    before = task.loss(model, (tokens, targets))
    other = torch.where(targets == IGNORED, IGNORED, targets)
    assert torch.equal(task.loss(model, (tokens, other)), before)
    assert question("repeat", "horse") == ("repeat: horse\n=", "hh\n")
    codes, wanted = encode("a\n=", "b\n")
    assert codes[:6] == [*b"a\n=b\n", 0]
    assert wanted[:6] == [IGNORED] * 3 + [*b"b\n", IGNORED]


def test_the_shown_traffic_is_that_of_the_changes() -> None:
    n_b = 2 * (4 * 16 + 64 + 16)
    n_a = 2 * (5 * 16 + 64)
    assert size_of(Instructions(**SMALL), method(rank=2)).numel == n_b
    size = size_of(Instructions(**SMALL), method("exact", rank=2))
    assert size.numel == n_a + n_b
    assert method("exact").traffic(size).gathered >= 4 * size.numel
    assert method("exact").traffic(size).reduced == size.numel
    assert not gathers(method())


def test_a_model_of_hugging_face_peft_is_taken_as_it_is() -> None:
    peft = pytest.importorskip("peft")

    class Adapted(Instructions):
        def model(self) -> nn.Module:
            config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
            return peft.get_peft_model(super().model(), config)

    ours = method(steps=2)
    learners = [TorchLearner(Adapted(f"{i}/4", **SMALL), method=ours) for i in (1, 2)]
    assert learners[0].initial.size == 2 * 2 * 16
    assert all(".lora_B." in spec.name for spec in learners[0].manifest)
    # A is pinned, and the same on all: it was drawn from the seed.
    pinned = [pinned_of(learner.model, learner.stays) for learner in learners]
    assert pinned[0] == pinned[1]
    assert any(".lora_A." in spec.name for spec in pinned[0][0])
    states, _ = train(ours, learners, learners[0].initial, 1)
    assert states[0].params.any()


@pytest.mark.slow
def test_on_questions_that_a_peer_never_saw_it_does_better_than_alone() -> None:
    ours = method(steps=15, lr=0.03, batch_size=16)
    learners = [TorchLearner(Instructions(f"{i}/4", layers=1), method=ours) for i in range(1, 5)]
    together = learners[0].evaluate(train(ours, learners, learners[0].initial, 10)[0][0].params)
    alone = learners[0].evaluate(train(ours, learners[:1], learners[0].initial, 10)[0][0].params)
    unseen = [f"loss_{kind}" for kind in KINDS[1:]]
    assert sum(together[name] for name in unseen) <= 0.8 * sum(alone[name] for name in unseen)
