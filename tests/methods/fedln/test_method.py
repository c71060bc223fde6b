"""FedLN: noise found, weights as whole numbers, heads that stay home; and what it reaches on the digits."""

from statistics import fmean

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round, train

from shoal.gossip.averaging.bounds import Stated, terms, weights_of
from shoal.gossip.errors import RemoteViolation
from shoal.methods.base import AllReduce, Ask, Gather, Method
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedln.knn import neighbour_labels, noise_level
from shoal.methods.fedln.method import (
    AFTER,
    ENERGY,
    HEAD,
    LEVELS,
    NOISE,
    NOISY_FROM,
    Claim,
    FedLN,
    FedLNConfig,
    agreed_weight,
    level,
    read_claim,
    seem_all_wrong,
)
from shoal.methods.fedln.noisy_peers import NOBODY, noisy_from
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.registry import load_method
from shoal.methods.tasks.digits_variants import NoisyDigits
from shoal.methods.tasks.label_noise import noisy_peers

PEERS = 10
SMALL = {"batch_size": 32, "lr": 3e-3}


def digits(noise: float, sparsity: float = 0.0, seed: int = 0, peers: int = PEERS) -> list[NoisyDigits]:
    return [
        NoisyDigits(share=f"{i + 1}/{peers}", noise=noise, sparsity=sparsity, seed=seed) for i in range(peers)
    ]


def learners(tasks: list[NoisyDigits]) -> list[TorchLearner]:
    return [TorchLearner(task, seed=0) for task in tasks]


def true_labels(tasks: list[NoisyDigits], seed: int = 0) -> list[torch.Tensor]:
    return [task.train_data()[1] for task in digits(0.0, seed=seed, peers=len(tasks))]


# --- estimator A -------------------------------------------------------------------------------------


def estimates(tasks: list[NoisyDigits]) -> list[float]:
    found = []
    for task in tasks:
        x, y = task.train_data()
        found.append(noise_level(y, neighbour_labels(task.embed(x), y, 10)))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("noise", "sparsity"), [(0.4, 0.0), (0.7, 0.0), (0.7, 0.7)])
def test_neighbours_tell_noisy_peers_from_clean_ones(noise: float, sparsity: float, seed: int) -> None:
    tasks = digits(noise, sparsity, seed)
    noisy = noisy_peers(PEERS, 0.8, seed=seed)
    found = np.array(estimates(tasks))
    true = np.array(
        [
            float((task.train_data()[1] != labels).double().mean())
            for task, labels in zip(tasks, true_labels(tasks, seed), strict=True)
        ]
    )
    assert found[~noisy].max() < 0.15
    assert found[noisy].min() > 0.3
    if sparsity == 0:
        assert np.abs(found - true).mean() <= 0.10


def test_an_estimate_is_the_share_of_labels_that_neighbours_vote_down() -> None:
    labels = torch.tensor([0] * 20)
    voted = labels.clone()
    voted[:3] = 1
    assert noise_level(labels, voted) == pytest.approx(0.15)
    assert noise_level(labels[:0], voted[:0]) == 0.0


# --- remedies ----------------------------------------------------------------------------------------


def test_corrected_labels_of_noisy_peers_are_less_wrong() -> None:
    tasks = digits(0.4)
    method = FedLN(FedLNConfig(remedy="correct"))
    wrong_before, wrong_after = [], []
    for learner, true in zip(learners(tasks), true_labels(tasks), strict=True):
        private = method.estimate(method.init(learner.initial), learner, 0)
        if private[NOISE][0] < 0.15:
            continue
        _, labels = method.labelled(private, learner)
        given = learner.data[1]
        wrong_before.append(float((given != true).double().mean()))
        wrong_after.append(float((labels != true).double().mean()))
    assert len(wrong_before) == 8
    assert fmean(wrong_after) <= 0.6 * fmean(wrong_before)


@pytest.mark.parametrize(
    ("examples", "noise", "expected"),
    [
        (100, 0.0, (100, 1)),
        (100, 0.14, (100, 1)),
        (100, 0.15, (100, 0.1)),
        (109, 0.5, (109, 0.1)),
        (1000, 0.95, (1000, 13 / 255)),
        (9, 0.2, (9, 0.1)),
        (100, 1.0, (0, 1)),
        (0, 0.0, (0, 1)),
    ],
)
def test_a_noisy_peer_gives_itself_a_discount_by_the_formula(
    examples: int, noise: float, expected: tuple[float, float]
) -> None:
    mine, other = Claim(examples, level(noise), True), Claim(10**6, 0, True)
    assert agreed_weight(mine, [mine, other, other], level(0.15), 0.1) == pytest.approx(expected)


def test_a_claim_of_a_hundred_times_the_examples_counts_no_more_than_the_cap() -> None:
    honest = [Claim(examples, 0, True) for examples in (130, 134, 140)]
    liar = Claim(13_400, 0, True)
    assert agreed_weight(liar, [*honest, liar], NOBODY, 0.1) == (3 * 134, 1)
    assert agreed_weight(honest[0], [*honest, liar], NOBODY, 0.1) == (130, 1)


def test_who_missed_the_estimate_counts_no_more_than_the_median() -> None:
    claims = [Claim(100, 0, True), Claim(120, 0, True), Claim(300, 0, False)]
    assert agreed_weight(claims[2], claims, NOBODY, 0.1) == (120, 1)


def test_where_all_weights_are_nothing_all_count_alike() -> None:
    claims = [Claim(100, LEVELS, True)] * 2
    assert agreed_weight(claims[0], claims, LEVELS, 0.1) == (1, 1)


def test_one_clean_peer_of_five_counts_ten_times_as_much_as_each_other_within_the_bounds_of_a_mean() -> None:
    claims = [
        Claim(134, level(0.02), True),
        *(Claim(134, level(noise), True) for noise in (0.5, 0.6, 0.7, 0.5)),
    ]
    from_ = noisy_from([claim.noise for claim in claims], level(0.15))
    given = (agreed_weight(claim, claims, from_, 0.1) for claim in claims)
    counted = weights_of([Stated(weight, 1.0, discount=discount) for weight, discount in given])
    assert counted == pytest.approx([134, *[13.4] * 4])


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_one_liar_of_five_counts_twenty_times_as_much_at_most_and_its_step_is_no_longer(noise: float) -> None:
    honest = [Claim(134, level(0.3), True)] * 4
    lie = Claim(1 << 40, level(noise), True)
    from_ = noisy_from([claim.noise for claim in (*honest, lie)], level(0.15))
    given = [agreed_weight(claim, [*honest, lie], from_, 0.1) for claim in honest]
    # It announces what it likes besides.
    stated = [*(Stated(weight, 2.0, discount=left) for weight, left in given), Stated(1e15, 1e9)]
    counted = weights_of(stated)
    assert counted[4] / min(counted) <= 20 * (1 + 1e-9)
    assert terms(stated).bound <= 2.0 * (1 + 1e-9)
    assert terms(stated).shares[4] * 1e9 <= 2.0 * (1 + 1e-9)


def asked(
    method: Method, peers: list[TorchLearner], rounds: int
) -> tuple[list[dict[str, object]], list[Ask]]:
    """Run rounds; returns the private states and every ask."""
    ids = names(len(peers))
    states = {peer: method.init(peers[0].initial) for peer in ids}
    asks: list[Ask] = []
    for round_ in range(rounds):
        ended = run_round(
            {peer: method.round(states[peer], each, round_) for peer, each in zip(ids, peers, strict=True)}
        )
        states = {peer: ended.results[peer][0] for peer in ids}
        asks += [ask for turn in ended.asked for ask in turn]
    return [dict(states[peer].private) for peer in ids], asks


def test_the_distillation_head_is_in_no_message() -> None:
    peers = learners(digits(0.7, peers=3))
    private, asks = asked(FedLN(FedLNConfig(remedy="distil", **SMALL)), peers, 2)  # type: ignore[arg-type]
    heads = [state[HEAD] for state in private if HEAD in state]
    assert len(heads) == 2
    for ask in asks:
        match ask:
            case AllReduce():
                assert ask.vector.size == peers[0].initial.size
            case Gather():
                assert len(ask.body) < 16
    sent = b"".join(ask.vector.tobytes() for ask in asks if isinstance(ask, AllReduce))
    assert all(np.asarray(head)[:16].tobytes() not in sent for head in heads)


@pytest.mark.parametrize("remedy", ["distil", "correct", "average"])
def test_among_clean_peers_every_remedy_is_federated_averaging(remedy: str) -> None:
    tasks = digits(0.0, peers=4)
    method = load_method("fedln", {"remedy": remedy, **SMALL})
    plain = FedAvg(FedAvgConfig(steps=11, **SMALL))  # type: ignore[arg-type]
    ours, reports = train(method, learners(tasks), learners(tasks)[0].initial, 2)
    theirs, _ = train(plain, learners(tasks), learners(tasks)[0].initial, 2)
    assert [report.metrics["noisy_peers"] for report in reports[-1]] == [0] * 4
    assert ours[0].params.tobytes() == theirs[0].params.tobytes()


def test_distillation_trains_its_head_from_round_to_round() -> None:
    tasks = digits(0.7, peers=3)
    method = FedLN(FedLNConfig(remedy="distil", **SMALL))  # type: ignore[arg-type]
    states = [asked(method, learners(tasks), rounds)[0] for rounds in (1, 2, 3)]
    noisy = int(np.argmax(noisy_peers(3, 0.8, seed=0)))
    # Who is noisy is told in the first round.
    assert HEAD not in states[0][noisy]
    first, second = (np.asarray(each[noisy][HEAD]) for each in states[1:])
    assert first.shape == (64 * 64 + 64,)
    assert not np.array_equal(first, second)


# --- who is noisy ------------------------------------------------------------------------------------


class Blurred(NoisyDigits):
    """Digits whose embedding brings examples of one class together no better than others do."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """See `Task`."""
        dice = torch.Generator().manual_seed(len(x))
        return x + 0.6 * torch.randn(x.shape, generator=dice)


def blurred(noise: float, noisy: float) -> list[TorchLearner]:
    tasks = [Blurred(f"{i + 1}/{PEERS}", noise=noise, sparsity=0.0, noisy=noisy) for i in range(PEERS)]
    return [TorchLearner(task, seed=0) for task in tasks]


def test_clean_peers_count_where_the_embedding_separates_no_classes_well() -> None:
    peers = blurred(0.7, 0.8)
    states, reports = train(AVERAGE, peers, peers[0].initial, 1)
    noisy = noisy_peers(PEERS, 0.8, seed=0)
    found = np.array([report.metrics["noise"] for report in reports[0]])
    assert found.min() > 0.3
    weights = np.array([report.metrics["weight"] for report in reports[0]])
    sizes = np.array([peer.examples for peer in peers])
    assert (weights[~noisy] == sizes[~noisy]).all()
    assert (weights[noisy] <= sizes[noisy] / 10).all()
    assert {report.metrics["noisy_peers"] for report in reports[0]} == {8.0}
    assert {report.metrics["unclear"] for report in reports[0]} == {0.0}
    assert {state.shared[NOISY_FROM].tobytes() for state in states} == {
        states[0].shared[NOISY_FROM].tobytes()
    }


def test_where_all_labels_seem_wrong_all_count_alike_and_each_peer_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers = blurred(0.0, 0.0)
    _, reports = train(AVERAGE, peers, peers[0].initial, 2)
    for report, peer in zip(reports[-1], peers, strict=True):
        assert report.metrics["noise"] > 0.15
        assert report.metrics["unclear"] == 1
        assert report.metrics["noisy_peers"] == 0
        assert report.metrics["weight"] == peer.examples
    assert [record.levelname for record in caplog.records] == ["WARNING"] * PEERS
    assert "embed() bring examples of one class together" in caplog.text


@pytest.mark.parametrize(
    ("noises", "expected"),
    [
        ((40, 45, 50, 60, 70), True),
        ((0, 45, 50, 60, 70), False),
        ((0, 40, 45, 45, 50, 50, 55, 60, 65, 70), True),
        ((20, 30, 40, 50, 60), False),
        ((), False),
    ],
)
def test_all_labels_seem_wrong_where_those_of_all_but_a_fifth_do(
    noises: tuple[int, ...], expected: bool
) -> None:
    unknown = Claim(100, 0, False)
    assert seem_all_wrong([*(Claim(100, noise, True) for noise in noises), unknown], 38) is expected


# --- estimator B -------------------------------------------------------------------------------------


def test_energies_are_told_once_and_merged_alike() -> None:
    peers = learners(digits(0.7, peers=3))
    method = FedLN(FedLNConfig(estimator="energy", estimate_from=1, estimate_until=2, **SMALL))  # type: ignore[arg-type]
    states, reports = train(method, peers, peers[0].initial, 4)
    histograms = {state.shared[ENERGY].tobytes() for state in states}
    assert len(histograms) == 1
    assert states[0].shared[ENERGY].sum() == sum(peer.examples for peer in peers)
    assert all(
        state.private[AFTER].shape == (peer.examples,) for state, peer in zip(states, peers, strict=True)
    )
    assert all(NOISE in state.private for state in states)
    assert [report[0].metrics["noise"] for report in reports[:3]] == [0] * 3


def test_who_comes_after_the_window_counts_as_clean_but_no_more_than_the_median() -> None:
    learner = learners(digits(0.7, peers=3))[0]
    method = FedLN(FedLNConfig(estimator="energy", estimate_from=0, estimate_until=1))
    steps = method.round(method.init(learner.initial), learner, 2)
    ask = next(steps)
    assert isinstance(ask, Gather)
    assert read_claim(ask.body) == Claim(learner.examples, 0, False)
    steps.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"estimate_from": 9, "estimate_until": 3}, "estimate_from is after estimate_until"),
        ({"energy_low": 5.0, "energy_high": 5.0}, "energy_low is not below"),
        ({"estimator": "energy", "remedy": "correct"}, "choose estimator = neighbours"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str | float], text: str) -> None:
    with pytest.raises(BadOption, match=text):
        load_method("fedln", options)


@pytest.mark.parametrize("claim", [[1, 2], [-1, 0, True], [1, 256, True], [1, 0.5, True], [2**41, 0, True]])
def test_a_claim_that_no_correct_peer_makes_is_refused(claim: list[object]) -> None:
    with pytest.raises(RemoteViolation):
        read_claim(msgspec.msgpack.encode(claim))


# --- what it reaches ---------------------------------------------------------------------------------

ROUNDS = 30
SEEDS = range(3)
FEDAVG = FedAvg(FedAvgConfig(steps=5, **SMALL))  # type: ignore[arg-type]
AVERAGE = FedLN(FedLNConfig(**SMALL))  # type: ignore[arg-type]


def reached(method: Method, noise: float, sparsity: float) -> float:
    """Return the mean accuracy over the seeds."""
    found = []
    for seed in SEEDS:
        peers = [TorchLearner(task, seed=seed) for task in digits(noise, sparsity, seed)]
        states, _ = train(method, peers, peers[0].initial, ROUNDS)
        found.append(peers[0].evaluate(states[0].params)["accuracy"])
    print(
        f"noise {noise} sparsity {sparsity} {type(method).__name__:7} {fmean(found):.3f} {np.round(found, 3)}"
    )
    return fmean(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_averaging_that_knows_of_noise_beats_averaging_that_does_not() -> None:
    def gain(noise: float, sparsity: float) -> float:
        return reached(AVERAGE, noise, sparsity) - reached(FEDAVG, noise, sparsity)

    assert gain(0.7, 0.0) >= 0.03
    assert gain(0.7, 0.7) >= 0.05
    assert gain(0.0, 0.0) >= -0.01
