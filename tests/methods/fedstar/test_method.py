"""FedSTAR: its threshold, its gate, its limits; and what it reaches on digits and tones."""

from collections.abc import Callable
from hashlib import blake2b
from statistics import fmean

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round, train
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.methods.base import AllReduce, Averaged, Gather, Gathered, Method, State
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedstar.method import (
    GATE,
    OPEN,
    SHUT,
    UNDECIDED,
    Claim,
    FedSTAR,
    FedSTARConfig,
    Judged,
    agreed_gate,
    agreed_weight,
    pooled,
    read_claim,
    read_judged,
    skill,
    threshold,
)
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.registry import load_method
from shoal.methods.tasks.digits_variants import PartlyLabelledDigits
from shoal.methods.tasks.tones import Tones

PEERS = 5


class Sides(Task):
    """Is the first number positive? 4-8-2, with as many labelled and unlabelled examples as asked."""

    def __init__(self, peer: int, labelled: int = 16, unlabelled: int = 240) -> None:
        """`peer`: decides the examples."""
        dice = torch.Generator().manual_seed(peer)
        x = torch.randn(labelled + unlabelled, 4, generator=dice)
        self._labelled = x[:labelled], (x[:labelled, 0] > 0).long()
        self._unlabelled = x[labelled:]

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._labelled

    def unlabelled_data(self) -> torch.Tensor | None:
        """See `Task`."""
        return self._unlabelled if len(self._unlabelled) else None

    def optimizer(self, params: object, lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return torch.optim.Adam(params, lr=lr)


def sides(count: int, **sizes: int) -> list[TorchLearner]:
    return [TorchLearner(Sides(peer, **sizes), seed=1) for peer in range(count)]


def state_digest(state: State) -> bytes:
    return blake2b(state.params.tobytes() + state.shared[GATE].tobytes()).digest()


def test_the_threshold_rises_from_its_least_to_its_most() -> None:
    thresholds = [threshold(round_, 60, 0.5, 0.9) for round_ in range(70)]
    assert thresholds[0] == 0.5
    assert thresholds[60:] == [0.9] * 10
    assert thresholds == sorted(thresholds)
    assert thresholds[30] == pytest.approx(0.7)


def test_a_threshold_that_falls_is_refused() -> None:
    with pytest.raises(BadOption, match="fedstar: tau_min is above tau_max; choose it at most as large"):
        load_method("fedstar", {"tau_min": 0.95})


def test_without_pseudo_labels_it_is_supervised_training_in_as_many_steps() -> None:
    # 240 unlabelled in half batches of 16 are 15 steps; sizes are powers of two, so that weights of 16 and
    # of 256 make the same mean to the last bit.
    star = FedSTAR(FedSTARConfig(beta=0, temperature=1, gate=False, batch_size=32, l2=0))
    plain = FedAvg(FedAvgConfig(steps=15, lr=1e-3, batch_size=16))
    initial = sides(1)[0].initial
    ours, _ = train(star, sides(4), initial, rounds=3)
    theirs, _ = train(plain, sides(4), initial, rounds=3)
    assert ours[0].params.tobytes() == theirs[0].params.tobytes()


def test_a_shut_gate_is_supervised_training_too() -> None:
    shut = FedSTAR(FedSTARConfig(rounds=3, gate_at=0, gate_skill=1, batch_size=32))
    off = FedSTAR(FedSTARConfig(rounds=3, gate=False, beta=0, batch_size=32))
    initial = sides(1)[0].initial
    ours, reports = train(shut, sides(2), initial, rounds=3)
    theirs, _ = train(off, sides(2), initial, rounds=3)
    assert reports[0][0].metrics["gate"] == SHUT
    assert ours[0].params.tobytes() == theirs[0].params.tobytes()


def test_with_one_peer_and_no_unlabelled_examples_it_is_plain_training() -> None:
    star = FedSTAR(FedSTARConfig(batch_size=8, l2=0, gate=False))
    plain = LocalSGD(LocalSGDConfig(steps=2, lr=1e-3, batch_size=8))
    ours, _ = train(star, sides(1, unlabelled=0), sides(1)[0].initial, rounds=2)
    theirs, _ = train(plain, sides(1), sides(1)[0].initial, rounds=2)
    assert ours[0].params.tobytes() == theirs[0].params.tobytes()


def test_the_gate_opens_for_a_model_that_has_proved_itself() -> None:
    star = FedSTAR(FedSTARConfig(rounds=12, lr=0.05, batch_size=32))
    states, reports = train(star, sides(3, labelled=64), sides(1)[0].initial, rounds=7)
    gates = [report[0].metrics["gate"] for report in reports]
    assert gates == [UNDECIDED] * 4 + [OPEN] * 3
    used = [report[0].metrics["pseudo_labels"] for report in reports]
    assert used[:4] == [0] * 4
    assert min(used[4:]) > 0.5
    assert [state.shared[GATE][0] for state in states] == [OPEN] * 3


def test_the_gate_opens_by_pseudo_labels_that_count_and_not_by_those_that_do_not() -> None:
    star = FedSTAR(FedSTARConfig(rounds=12, lr=0.05, batch_size=32, tau_min=0.9, tau_max=0.95))
    learners = [TorchLearner(Unsure(peer), seed=1) for peer in range(3)]
    states, reports = train(star, learners, learners[0].initial, rounds=5)
    _, held_out = star.split(learners[0], decided=False)
    right, total = learners[0].score(states[0].params, held_out)
    judged, classes = star.judge(states[0].params, learners[0], 4)
    assert right / total < 0.9
    assert judged.right / judged.sure > right / total
    assert classes == 2
    assert reports[-1][0].metrics["gate"] == OPEN


def test_the_gate_waits_until_half_of_the_held_out_examples_pass_and_no_longer_than_two_thirds() -> None:
    slow = FedSTAR(FedSTARConfig(rounds=9, lr=1e-6, batch_size=32, tau_min=0.99, tau_max=0.99))
    _, reports = train(slow, sides(3), sides(1)[0].initial, rounds=8)
    assert [report[0].metrics["gate"] for report in reports] == [UNDECIDED] * 6 + [SHUT] * 2


def test_a_peer_without_held_out_labels_knows_the_number_of_classes() -> None:
    learner = TorchLearner(Sides(9, labelled=0), seed=1)
    assert FedSTAR().judge(learner.initial, learner, 0) == (Judged(0, 0, 0), 2)
    single = sides(1, labelled=1, unlabelled=0)[0]
    assert FedSTAR().judge(single.initial, single, 0) == (Judged(0, 0, 0), 2)


def test_held_out_labels_are_not_trained_on_until_the_gate_decides() -> None:
    star, learner = FedSTAR(), sides(1)[0]
    before, held_out = star.split(learner, decided=False)
    after, none = star.split(learner, decided=True)
    assert [len(part[0]) for part in (before, held_out, after, none)] == [13, 3, 16, 0]
    single = sides(1, labelled=1)[0]
    assert [len(part[0]) for part in star.split(single, decided=False)] == [1, 0]


def test_peers_without_labels_wait_for_pseudo_labels_and_count_nothing_until_then() -> None:
    learners = [*sides(1), TorchLearner(Sides(9, labelled=0), seed=1)]
    star = FedSTAR(FedSTARConfig(rounds=6, lr=0.05, batch_size=32, gate_skill=-1, tau_min=0))
    alone, _ = train(star, sides(1), learners[0].initial, rounds=1)
    both, reports = train(star, learners, learners[0].initial, rounds=1)
    assert reports[0][1].steps == 0
    assert both[0].params.tobytes() == alone[0].params.tobytes()
    _, reports = train(star, learners, learners[0].initial, rounds=4)
    assert reports[3][1].steps == 15


def test_where_nobody_has_anything_to_train_on_the_state_stays() -> None:
    learners = sides(2, labelled=0)
    states, reports = train(FedSTAR(), learners, learners[0].initial, rounds=1)
    assert np.array_equal(states[0].params, learners[0].initial)
    assert reports[0][0].steps == 0


def test_a_fall_on_own_labels_stops_pseudo_labels_on_that_peer_alone() -> None:
    star = FedSTAR(FedSTARConfig(rounds=3, gate_at=0, gate_skill=-1, tau_min=0, lr=0.05, batch_size=32))
    states, reports = train(star, sides(2), sides(1)[0].initial, rounds=5)
    assert reports[-1][0].metrics["pseudo_labels"] > 0
    peers, learners = names(2), sides(2)
    # The second peer remembers a model that was far better on its labels than this poisoned one.
    poisoned = [
        State(-state.params, state.shared, {"best": np.array([best], np.float32)})
        for state, best in zip(states, (0.0, 1.0), strict=True)
    ]
    ended = run_round(
        {
            peer: star.round(state, learner, 5)
            for peer, state, learner in zip(peers, poisoned, learners, strict=True)
        }
    )
    metrics = [ended.results[peer][1].metrics for peer in peers]
    assert metrics[0]["pseudo_labels"] > 0
    assert metrics[1]["pseudo_labels"] == 0
    assert [each["alarm"] for each in metrics] == [0, 1]


@pytest.mark.parametrize("rounds", [3])
def test_all_peers_hold_the_same_state_in_any_order_of_arrival(rounds: int) -> None:
    star, peers = FedSTAR(FedSTARConfig(rounds=6, batch_size=32)), names(3)
    digests = []
    for order in (peers, peers[::-1]):
        learners = dict(zip(peers, sides(3), strict=True))
        states = {peer: star.init(learners[peer].initial) for peer in peers}
        for round_ in range(rounds):
            ended = run_round(
                {peer: star.round(states[peer], learners[peer], round_) for peer in peers}, order=order
            )
            states = {peer: ended.results[peer][0] for peer in peers}
            digests.append({state_digest(state) for state in states.values()})
    assert [len(found) for found in digests] == [1] * 2 * rounds
    assert digests[:rounds] == digests[rounds:]


@pytest.mark.parametrize("ask", [0, 1])
def test_without_a_peer_that_vanishes_the_round_is_that_of_the_rest(ask: int) -> None:
    star, peers = FedSTAR(FedSTARConfig(batch_size=32)), names(4)
    learners = dict(zip(peers, sides(4), strict=True))

    def ended(among: list[PeerId], drops: dict[PeerId, int]) -> set[bytes]:
        generators = {
            peer: star.round(star.init(learners[peer].initial), learners[peer], 0) for peer in among
        }
        results = run_round(generators, drops=drops).results
        return {state_digest(state) for state, _ in results.values()}

    assert ended(peers, {peers[2]: ask}) == ended([*peers[:2], peers[3]], {})


def test_a_liar_about_its_examples_counts_three_medians() -> None:
    assert agreed_weight(100_000, [100, 100_000, 90, 110]) == 300
    assert agreed_weight(90, [100, 100_000, 90, 110]) == 90
    assert agreed_weight(50, [50, 0, 0]) == 50
    assert agreed_weight(0, [0, 0]) == 1


def test_one_liar_does_not_open_the_gate() -> None:
    honest = [Judged(1, 2, 2), Judged(0, 1, 2), Judged(1, 2, 2), Judged(0, 0, 0)]
    assert pooled(honest) == Judged(2, 5, 6)
    assert pooled([*honest, Judged(10**9, 10**9, 10**9)]) == Judged(2 + 2, 5 + 2, 6 + 2)
    assert pooled([]) == pooled([Judged(0, 0, 0)]) == Judged(0, 0, 0)


@pytest.mark.parametrize(
    ("right", "total", "classes", "expected"),
    [
        (1000, 1000, 10, 1.0),
        (100, 1000, 10, 0.0),
        (5000, 10_000, 2, 0.0),
        (750, 1000, 2, 0.5),
        (0, 0, 10, -1.0),
        # A few right ones are no proof: 1/(1 + 1/n) of a share of 1.
        (4, 4, 10, (0.8 - 0.1) / 0.9),
        (1, 1, 10, (0.5 - 0.1) / 0.9),
    ],
)
def test_skill_is_what_lies_surely_above_chance(
    right: int, total: int, classes: int, expected: float
) -> None:
    assert skill(right, total, classes) == pytest.approx(expected, abs=0.03)
    assert skill(right, total, classes) <= expected + 1e-9


class Unsure(Sides):
    """The same, but for a third of the examples nobody can tell: their first number is near zero."""

    def __init__(self, peer: int) -> None:
        """`peer`: decides the examples."""
        super().__init__(peer, labelled=60)
        x, y = self._labelled
        x[:20, 0] *= 0.01
        y[:20] = torch.arange(20) % 2


def test_groups_that_decided_apart_follow_the_majority_when_they_mix() -> None:
    mine = np.array([OPEN], np.float32)
    told = [Claim(9, int(gate)) for gate in (OPEN, SHUT, SHUT)]
    assert agreed_gate(told, mine) == [SHUT]
    assert agreed_gate(told[:2], mine) == [OPEN]
    assert agreed_gate([], mine) == [OPEN]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, 2, 3, 4]),
        msgspec.msgpack.encode([-1, 2]),
        msgspec.msgpack.encode([2**41, 0]),
        msgspec.msgpack.encode([1, 3]),
        msgspec.msgpack.encode([float("nan"), 0]),
        msgspec.msgpack.encode({"examples": 1}),
    ],
)
def test_a_claim_that_no_correct_peer_makes_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteViolation):
        read_claim(body)


@pytest.mark.parametrize("told", [[3, 2, 4], [1, 3, 2], [-1, 2, 2], [1, 2], [0, 0, 2**41], [0.5, 1, 1]])
def test_a_judgement_that_no_correct_peer_makes_is_refused(told: list[float]) -> None:
    with pytest.raises(RemoteViolation):
        read_judged(msgspec.msgpack.encode(told))


def test_a_refused_claim_is_counted_and_the_round_goes_on() -> None:
    star, learner = FedSTAR(FedSTARConfig(batch_size=32)), sides(1)[0]
    steps = star.round(star.init(learner.initial), learner, 0)
    ask = next(steps)
    assert isinstance(ask, Gather)
    us, them = names(2)
    ask = steps.send(Gathered(((us, ask.body), (them, b"nonsense")), us))
    assert isinstance(ask, AllReduce)
    assert ask.weight == 256
    with pytest.raises(StopIteration) as end:
        steps.send(Averaged(ask.vector, (us, them)))
    assert end.value.value[1].metrics["refused"] == 1


# --- what it reaches ---------------------------------------------------------------------------------

ROUNDS = 60
SEEDS = range(3)
SYSTEMS: dict[str, Method] = {
    # 67 labels on five peers fit in one batch each: one step is an epoch.
    "one epoch": FedAvg(FedAvgConfig(steps=1, lr=1e-3, batch_size=64)),
    "equal steps": FedSTAR(FedSTARConfig(rounds=ROUNDS, beta=0, gate=False)),
    "ungated": FedSTAR(FedSTARConfig(rounds=ROUNDS, gate=False)),
    "gated": FedSTAR(FedSTARConfig(rounds=ROUNDS)),
    "alone": LocalSGD(LocalSGDConfig(steps=9, lr=1e-3, batch_size=32)),
}


def reached(system: str, task: Callable[..., Task], labelled: float) -> float:
    """Return the mean accuracy of the peers over the seeds."""
    found = []
    for seed in SEEDS:
        learners = [
            TorchLearner(task(share=f"{i + 1}/{PEERS}", labelled=labelled, seed=seed), seed=seed)
            for i in range(PEERS)
        ]
        states, _ = train(SYSTEMS[system], learners, learners[0].initial, ROUNDS)
        # Those who agree need not be measured one by one.
        ways = zip(learners, states, strict=True) if system == "alone" else [(learners[0], states[0])]
        found.append(fmean(learner.evaluate(state.params)["accuracy"] for learner, state in ways))
    print(f"{task.__name__:22} {labelled:4.0%} {system:12} {fmean(found):.3f} {np.round(found, 3)}")
    return fmean(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_digits_it_beats_supervised_training_and_costs_nothing_beside_equal_steps() -> None:
    accuracy = {system: reached(system, PartlyLabelledDigits, 0.05) for system in SYSTEMS}
    assert accuracy["gated"] >= accuracy["one epoch"] + 0.10
    assert accuracy["gated"] >= accuracy["alone"] + 0.15
    assert accuracy["gated"] >= accuracy["equal steps"] - 0.01
    assert accuracy["gated"] >= accuracy["ungated"] - 0.01
    assert accuracy["ungated"] >= accuracy["equal steps"] - 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_tones_the_gate_keeps_a_weak_model_from_confirming_its_errors() -> None:
    accuracy = {system: reached(system, Tones, 0.03) for system in ("equal steps", "ungated", "gated")}
    assert accuracy["gated"] >= accuracy["ungated"] + 0.10
    assert accuracy["gated"] >= accuracy["equal steps"] - 0.07
