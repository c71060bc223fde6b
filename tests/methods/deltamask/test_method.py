"""DeltaMask: common numbers, exact votes, bad updates left out; and what it reaches on the digits."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round
from torch import nn

from shoal.methods.base import Gather, Gathered, ModelSize, Report, State, Steps
from shoal.methods.coding.bit_coding import rice_bits
from shoal.methods.coding.fuse_filter import build
from shoal.methods.coding.gathered import SLICE_BYTES
from shoal.methods.deltamask.mask_update import Bounds, Filter, write
from shoal.methods.deltamask.masking import HeadOnly, MaskedBody, where
from shoal.methods.deltamask.method import BASE, KEPT, VOTES, DeltaMask, DeltaMaskConfig, choose, common_words
from shoal.methods.deltamask.posterior import ONE
from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Role, Task
from shoal.methods.params import views
from shoal.methods.registry import describe
from shoal.methods.tasks.digits import Digits
from shoal.methods.tasks.digits_pretrained import DigitsBody

PEERS = 5


class Tiny(Task):
    """Which of three directions is it? 8-64-3, of which 512 weights are the body."""

    def __init__(self, share: int = 0) -> None:
        """`share`: decides the examples."""
        dice = torch.Generator().manual_seed(share)
        self._y = torch.arange(48) % 3
        self._x = torch.randn(48, 8, generator=dice) / 2 + 2 * nn.functional.one_hot(self._y, 8)

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))

    def role(self, name: str) -> Role:
        """See `Task`."""
        return {"0.weight": "body", "0.bias": "frozen"}.get(name, "head")  # type: ignore[return-value]

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._x, self._y

    test_data = train_data


class Normed(Tiny):
    """The same with batch norms: one in the body, one in the head."""

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(
            nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 3)
        )

    def role(self, name: str) -> Role:
        """See `Task`."""
        return "body" if name.startswith(("0.", "1.")) else "head"


def tiny(share: int = 0) -> TorchLearner:
    return TorchLearner(Tiny(share), seed=1)


def body_of(steps: Steps[tuple[State, Report]]) -> bytes:
    """Run a round to its ask, and return what it sends."""
    ask = next(steps)
    assert isinstance(ask, Gather)
    return ask.body


QUICK = DeltaMaskConfig(head_rounds=0, steps=2, coding="rice")


def test_the_head_is_probed_while_all_else_stays() -> None:
    learner = tiny()
    before = learner.initial
    trained = learner.train(before, steps=5, lr=0.1, batch_size=16, objective=HeadOnly(learner)).params
    head = where(learner, "head")
    assert (trained[head] != before[head]).all()
    assert (trained[~head] == before[~head]).all()


def test_a_task_without_a_head_is_told_what_to_add() -> None:
    learner = TorchLearner(Digits("1/5"))
    with pytest.raises(BadTask, match="Digits has no head: let its role"):
        DeltaMask().check(learner)
    with pytest.raises(BadTask, match="Digits has no head"):
        next(DeltaMask().round(DeltaMask().init(learner.initial), learner, 0))
    DeltaMask(DeltaMaskConfig(head_rounds=0)).check(learner)


def test_the_gradient_of_the_mask_goes_straight_through_the_drawing() -> None:
    learner = tiny()
    scores = np.random.default_rng(0).normal(size=512).astype(np.float32)
    objective = MaskedBody(learner, scores)
    torch.manual_seed(5)
    objective.loss(learner.model, learner.data).backward()
    (mine,) = objective.local_parameters()
    # By hand: the same drawing, the gradient of the masked weights, times the weights, times σ'.
    torch.manual_seed(5)
    theta = torch.sigmoid(torch.tensor(scores)).view(64, 8)
    mask = torch.bernoulli(theta)
    first, _, last = learner.model
    masked = (first.weight.detach() * mask).requires_grad_()
    hidden = torch.relu(learner.data[0] @ masked.T + first.bias)
    nn.functional.cross_entropy(last(hidden), learner.data[1]).backward()
    assert masked.grad is not None
    by_hand = masked.grad * first.weight.detach() * theta * (1 - theta)
    torch.testing.assert_close(mine.grad, by_hand)
    assert first.weight.grad is None


def test_masks_leave_the_model_untouched() -> None:
    learner = tiny()
    objective = MaskedBody(learner, np.zeros(512, np.float32))
    trained = learner.train(
        learner.initial, steps=5, lr=0.1, batch_size=16, optimizer="adam", objective=objective
    )
    assert trained.params.tobytes() == learner.initial.tobytes()
    assert np.abs(objective.scores).max() > 0.1


# --- a round --------------------------------------------------------------------------------------


def round_of(
    method: DeltaMask, state: State, learners: int = 3, round_: int = 0
) -> list[tuple[State, Report]]:
    peers = names(learners)
    ended = run_round({p: method.round(state, tiny(i), round_) for i, p in enumerate(peers)})
    return [ended.results[peer] for peer in peers]


def test_with_unmoved_chances_nothing_is_sent() -> None:
    dice = np.random.default_rng(0)
    agreed, common = dice.integers(1, ONE, (2, 10_000), dtype=np.uint64).astype(np.uint32)
    assert choose(agreed, agreed, common, share=0.8, most=1000).size == 0


def test_a_bit_differs_only_where_the_chance_crossed_the_common_number() -> None:
    quarter = ONE // 4
    agreed = np.array([1, 1, 3, 3], np.uint32) * np.uint32(quarter)
    mine = np.array([3, 3, 1, 1], np.uint32) * np.uint32(quarter)
    # Between the two, above both, below both, between the two.
    common = np.array([2 * quarter, 3 * quarter + 1, quarter - 1, 2 * quarter], np.uint32)
    assert choose(agreed, mine, common, share=1.0, most=4).tolist() == [0, 3]


def test_the_most_certain_changes_are_sent() -> None:
    agreed = np.full(5, ONE // 2, np.uint32)
    mine = (np.array([0.6, 0.9, 0.7, 0.95, 0.8]) * ONE).astype(np.uint32)
    common = np.full(5, int(0.55 * ONE), np.uint32)
    assert choose(agreed, mine, common, share=0.6, most=5).tolist() == [1, 3, 4]
    assert choose(agreed, mine, common, share=1.0, most=2).tolist() == [1, 3]


def test_the_common_numbers_are_those_of_the_state_and_the_round() -> None:
    state = DeltaMask(QUICK).init(tiny().initial)
    again = DeltaMask(QUICK).init(tiny().initial)
    assert common_words(state, 3, 100).tolist() == common_words(again, 3, 100).tolist()
    assert common_words(state, 3, 100).tolist() != common_words(state, 4, 100).tolist()
    again.shared[VOTES][0] = 1
    assert common_words(state, 3, 100).tolist() != common_words(again, 3, 100).tolist()


def test_after_a_round_all_hold_the_mean_of_the_masks() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, kappa=1.0, density_cap=1.0))
    results = round_of(method, method.init(tiny().initial))
    states = [state for state, _ in results]
    for name in (BASE, KEPT, VOTES):
        assert len({state.shared[name].tobytes() for state in states}) == 1
    body = where(tiny(), "body")
    assert states[0].shared[VOTES].tolist() == [3]
    assert set(states[0].shared[KEPT][body].tolist()) <= {0, 1, 2, 3}
    assert not states[0].shared[KEPT][~body].any()
    kept = states[0].shared[KEPT][body] >= 1.5
    assert (states[0].params[body] == np.where(kept, tiny().initial[body], 0)).all()
    assert (states[0].params[~body] == tiny().initial[~body]).all()


def test_votes_add_up_until_the_posterior_starts_again() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, reset_every=3))
    state, votes = method.init(tiny().initial), []
    for round_ in range(7):
        state, _ = round_of(method, state, round_=round_)[0]
        votes.append(state.shared[VOTES][0])
    assert votes == [3, 6, 9, 3, 6, 9, 3]


def test_kappa_falls_by_a_cosine_where_an_end_is_given() -> None:
    falling = DeltaMask(DeltaMaskConfig(head_rounds=10, kappa=0.8, kappa_end=0.2, kappa_rounds=20))
    assert [falling.kappa(round_) for round_ in (10, 20, 30, 99)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert DeltaMask().kappa(10) == DeltaMask().kappa(1000) == 0.8


def test_an_update_never_announces_more_than_the_cap() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, density_cap=0.01, lr=5.0))
    results = round_of(method, method.init(tiny().initial))
    assert [report.metrics["changed"] for _, report in results] == [5.0] * 3
    assert results[0][1].metrics["refused"] == 0


def test_the_update_of_a_giant_mask_fits_in_one_gather() -> None:
    bounds = DeltaMask(DeltaMaskConfig(density_cap=1.0)).bounds(1 << 30)
    worst = bounds.most * (rice_bits(bounds.most, bounds.positions) + 1) + (
        bounds.positions >> rice_bits(bounds.most, bounds.positions)
    )
    assert worst / 8 < SLICE_BYTES - 64
    assert DeltaMask().bounds(100_000).most == 10_000


def test_all_bits_of_a_mask_travel_in_as_many_gathers_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.methods.coding.gathered.SLICE_BYTES", 50)
    method = DeltaMask(msgspec.structs.replace(QUICK, coding="bits", density_cap=1.0))
    results = round_of(method, method.init(tiny().initial))
    assert [report.metrics["refused"] for _, report in results] == [0, 0, 0]
    assert results[0][0].shared[VOTES].tolist() == [3]


def test_both_codings_are_reported_and_the_shorter_is_sent() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, coding="auto"))
    _, report = round_of(method, method.init(tiny().initial))[0]
    both = [report.metrics[f"bits_per_weight_{coding}"] for coding in ("bfuse8", "rice")]
    assert report.metrics["bits_per_weight"] == min(both)


def test_what_a_person_is_told_of_its_bytes_is_a_tenth_of_a_bit_per_weight() -> None:
    assert describe("deltamask", ModelSize.of_one_body(1_000_000)).traffic.bytes_per_round(
        2
    ) == pytest.approx(0.1 * 1_000_000 / 8, rel=0.01)


# --- batch norm -----------------------------------------------------------------------------------


def normed(share: int = 0) -> TorchLearner:
    return TorchLearner(Normed(share), seed=1)


def test_a_body_with_batch_norm_is_masked_after_its_head_was_trained() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, head_rounds=1))
    learners = [normed(i) for i in range(3)]
    state, reports = together(method, learners, rounds=3)
    # Weights and biases of a layer, and scales and shifts of a norm; no running statistics.
    assert np.count_nonzero(where(learners[0], "body")) == 8 * 64 + 64 + 64 + 64
    assert [each[0].metrics.get("refused") for each in reports] == [None, 0.0, 0.0]
    assert state.shared[VOTES].tolist() == [3]


def test_statistics_of_the_body_stay_and_those_of_the_head_travel() -> None:
    learner = normed()
    method = DeltaMask(msgspec.structs.replace(QUICK, head_rounds=1))
    after, _ = together(method, [learner], rounds=1)
    moved = views(after.params != learner.initial, learner.manifest)
    assert not moved["1.running_mean"].any()
    assert moved["3.running_mean"].any()
    assert moved["4.weight"].any()


@pytest.mark.parametrize(
    "objective", [HeadOnly, lambda learner: MaskedBody(learner, np.full(704, 20.0, np.float32))]
)
def test_norms_whose_statistics_stay_use_them_in_training(objective: Any) -> None:
    learner = normed()
    learner.train(learner.initial, steps=1, lr=0.1, batch_size=16, objective=objective(learner))
    assert not learner.model[1].training
    assert learner.model[3].training is (objective is HeadOnly)


# --- bad updates ----------------------------------------------------------------------------------


def everything(positions: int) -> bytes:
    built = build(np.arange(positions, dtype=np.uint64))
    form = Filter(
        10, built.seed, built.segment_length, built.segment_count, False, built.fingerprints.tobytes()
    )
    return msgspec.msgpack.encode(form)


def giant() -> bytes:
    return msgspec.msgpack.encode(Filter(1 << 40, 0, 1 << 18, 1 << 22, True, b""))


def whole_mask(positions: int) -> bytes:
    return write(np.arange(positions), "rice", Bounds(positions, positions))


@pytest.mark.parametrize("bad", [everything(512), giant(), whole_mask(512), b"noise", b""])
def test_a_bad_update_is_left_out_by_all_and_counted(bad: bytes) -> None:
    method = DeltaMask(QUICK)
    state = method.init(tiny().initial)
    honest = round_of(method, state, learners=3)
    peers = names(4)
    steps = {peer: method.round(state, tiny(i), 0) for i, peer in enumerate(peers[:3])}
    bodies = (*((peer, body_of(each)) for peer, each in steps.items()), (peers[3], bad))
    for i, peer in enumerate(peers[:3]):
        with pytest.raises(StopIteration) as end:
            steps[peer].send(Gathered(bodies, peer))
        after, report = end.value.value
        assert report.metrics["refused"] == 1
        assert report.contributors == tuple(peers[:3])
        assert after.shared[KEPT].tobytes() == honest[i][0].shared[KEPT].tobytes()


def test_a_round_of_bad_updates_only_changes_nothing() -> None:
    method = DeltaMask(QUICK)
    state = method.init(tiny().initial)
    state, _ = round_of(method, state)[0]
    steps = method.round(state, tiny(), 1)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(Gathered(((names(1)[0], b"noise"),), names(1)[0]))
    after, _ = end.value.value
    assert after.params.tobytes() == state.params.tobytes()
    assert after.shared[KEPT].tobytes() == state.shared[KEPT].tobytes()


def test_the_order_of_the_messages_is_no_matter_in_ten_rounds() -> None:
    method = DeltaMask(msgspec.structs.replace(QUICK, reset_every=4, coding="auto"))
    one = other = method.init(tiny().initial)
    for round_ in range(10):
        third = method.round(one, tiny(2), round_)
        pair = [method.round(one, tiny(0), round_), method.round(other, tiny(1), round_)]
        bodies = [(name, body_of(each)) for name, each in zip(names(3), [*pair, third], strict=True)]
        ends = []
        for me, each, order in zip(names(2), pair, (bodies, bodies[::-1]), strict=True):
            with pytest.raises(StopIteration) as end:
                each.send(Gathered(tuple(order), me))
            ends.append(end.value.value[0])
        one, other = ends
        assert one.params.tobytes() == other.params.tobytes()
        for name in (BASE, KEPT, VOTES):
            assert one.shared[name].tobytes() == other.shared[name].tobytes()


def test_a_round_that_is_run_again_sends_the_same() -> None:
    method = DeltaMask(QUICK)
    state = method.init(tiny().initial)
    assert body_of(method.round(state, tiny(), 0)) == body_of(method.round(state, tiny(), 0))


# --- on the digits --------------------------------------------------------------------------------


def digits(seed: int) -> list[TorchLearner]:
    return [TorchLearner(DigitsBody(share=f"{i + 1}/{PEERS}", seed=seed), seed=seed) for i in range(PEERS)]


def together(
    method: DeltaMask, learners: list[TorchLearner], rounds: int
) -> tuple[State, list[list[Report]]]:
    peers = names(len(learners))
    states = dict.fromkeys(peers, method.init(learners[0].initial))
    reports = []
    for round_ in range(rounds):
        steps = {p: method.round(states[p], each, round_) for p, each in zip(peers, learners, strict=True)}
        ended = run_round(steps)
        states = {peer: ended.results[peer][0] for peer in peers}
        reports.append([ended.results[peer][1] for peer in peers])
        assert len({state.params.tobytes() for state in states.values()}) == 1
    return states[peers[0]], reports


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_digits_masks_beat_the_probe_and_training_alone_in_a_tenth_of_a_bit() -> None:
    gains, alone, reached = [], [], []
    method = DeltaMask()
    for seed in (0, 1):
        learners = digits(seed)
        state, reports = together(method, learners, rounds=40)
        probe, _ = together(DeltaMask(DeltaMaskConfig(head_rounds=40)), learners, rounds=40)
        reached.append(learners[0].evaluate(state.params)["accuracy"])
        gains.append(reached[-1] - learners[0].evaluate(probe.params)["accuracy"])
        for learner in learners[: PEERS * (seed == 0)]:
            own, _ = together(method, [learner], rounds=40)
            alone.append(learner.evaluate(own.params)["accuracy"])
        bits = [np.mean([r.metrics["bits_per_weight"] for r in each]) for each in reports[10:]]
        filters = [np.mean([r.metrics["bits_per_weight_bfuse8"] for r in each]) for each in reports[10:]]
        print(f"seed {seed}: {reached[-1]:.3f}, gain {gains[-1]:.3f}, bits {np.mean(bits):.3f}", end=" ")
        print(
            f"last {np.mean(bits[-3:]):.3f}; as filters {np.mean(filters):.3f}, {np.mean(filters[-3:]):.3f}"
        )
        assert np.mean(bits) <= 0.15
        assert np.mean(filters) <= 0.15
        assert np.mean(bits[-3:]) <= 0.11
        assert np.mean(filters[-3:]) <= 0.11
    print(f"alone {np.mean(alone):.3f}")
    assert np.mean(gains) >= 0.08
    assert np.mean(reached) > np.mean(alone)
