"""FedCompress: few values, few bytes, kappa and students agreed; and what it reaches on the digits."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round, train

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import TooFew
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Gather, Gathered, Method, Report, State, Steps
from shoal.methods.coding import codebook
from shoal.methods.errors import BadOption, Diverged
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedcompress import method as fedcompress
from shoal.methods.fedcompress.cluster_count import Progress
from shoal.methods.fedcompress.method import PROGRESS, FedCompress, FedCompressConfig, Update, recluster
from shoal.methods.fedcompress.student import elect
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.params import views
from shoal.methods.registry import load_method
from shoal.methods.tasks.digits_variants import CompressibleDigits

PEERS = 5
DELTA_WORK = {"epochs": 3, "cluster_epochs": 0, "batch_size": 32, "lr": 3e-3}
WORK = {"epochs": 2, "cluster_epochs": 1, "batch_size": 32, "lr": 3e-3, "cluster_lr": 1.5e-3}
QUICK = {**WORK, "kappa_max": 30, "epochs": 1, "batch_size": 128, "ood_examples": 64, "distil_epochs": 1}


def learners(peers: int = PEERS, seed: int = 0, network: str = "small") -> list[TorchLearner]:
    return [
        TorchLearner(CompressibleDigits(share=f"{i + 1}/{peers}", seed=seed, network=network), seed=seed)
        for i in range(peers)
    ]


def compress(**options: Any) -> FedCompress:
    return FedCompress(FedCompressConfig(**{**QUICK, **options}))


def fixed(kappa: int, **options: Any) -> FedCompress:
    return compress(**{**options, "kappa_min": kappa, "kappa_max": kappa})


def digest(state: State) -> bytes:
    return blake2b(state.params.tobytes() + state.shared[PROGRESS].tobytes()).digest()


def distinct(state: State, learner: TorchLearner) -> int:
    """Return the largest number of distinct values in a tensor."""
    return max(np.unique(view).size for view in views(state.params, learner.manifest).values())


# --- a round -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["recluster", "distil"])
def test_no_tensor_has_more_than_kappa_values_and_all_hold_the_same(after: str) -> None:
    peers = learners(3)
    states, reports = train(compress(target="weights", after=after), peers, peers[0].initial, 2)
    assert len({digest(state) for state in states}) == 1
    assert distinct(states[0], peers[0]) <= 8
    assert reports[-1][0].metrics["kappa"] == 8


def test_one_round_by_hand() -> None:
    peers = learners(2)
    method = fixed(4, clip=1e6)
    states, _ = train(method, peers, peers[0].initial, 1)
    told, counts = [], []
    for peer in learners(2):
        training, _ = method.split(peer)
        trained = method.local(peer.initial, peer, training, 4, 0).params
        told.append(recluster(trained - peer.initial, peer.manifest, 4).astype(np.float64))
        counts.append(peer.examples)
    expected = peers[0].initial + np.average(told, axis=0, weights=counts)
    assert states[0].params == pytest.approx(expected, abs=1e-6)


def test_one_peer_with_a_value_for_every_weight_is_plain_training() -> None:
    class Few(CompressibleDigits):
        def model(self) -> torch.nn.Module:
            return torch.nn.Linear(64, 3)

        def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = super().train_data()
            return x, y % 3

    plain = LocalSGD(LocalSGDConfig(steps=1, lr=3e-3, batch_size=64))
    exact = fixed(256, epochs=1, cluster_epochs=0, batch_size=10_000)
    (ours,), _ = train(exact, [TorchLearner(Few(), seed=0)], TorchLearner(Few(), seed=0).initial, 3)
    plain = LocalSGD(LocalSGDConfig(steps=1, lr=3e-3, batch_size=10_000))
    (theirs,), _ = train(plain, [TorchLearner(Few(), seed=0)], TorchLearner(Few(), seed=0).initial, 3)
    assert ours.params == pytest.approx(theirs.params, abs=1e-6)


def test_the_order_of_arrival_changes_no_bit() -> None:
    method, ids = compress(), names(3)
    found = []
    for order in (ids, ids[::-1]):
        peers = dict(zip(ids, learners(3), strict=True))
        states = {peer: method.init(peers[peer].initial) for peer in ids}
        for round_ in range(2):
            generators = {peer: method.round(states[peer], peers[peer], round_) for peer in ids}
            states = {peer: state for peer, (state, _) in run_round(generators, order=order).results.items()}
        found.append({digest(state) for state in states.values()})
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_a_failed_round_leaves_the_state() -> None:
    (peer,), (learner,), method = names(1), learners(1), compress()
    state = method.init(learner.initial.copy())
    ended = run_round({peer: method.round(state, learner, 0)}, failures={(peer, 0): TooFew("alone")})
    assert peer in ended.failed
    assert np.array_equal(state.params, learner.initial)


def test_without_a_peer_that_vanishes_the_round_is_that_of_the_rest() -> None:
    method, ids = compress(), names(3)

    def after(among: list[PeerId], drops: dict[PeerId, int]) -> set[bytes]:
        peers = dict(zip(ids, learners(3), strict=True))
        generators = {peer: method.round(method.init(peers[peer].initial), peers[peer], 0) for peer in among}
        return {digest(state) for state, _ in run_round(generators, drops=drops).results.values()}

    assert after(ids, {ids[1]: 0}) == after([ids[0], ids[2]], {})


def test_kappa_grows_when_nothing_is_learned_any_more() -> None:
    peers = learners(2)
    method = compress(lr=1e-9, cluster_lr=1e-9, patience=1, warmup=2)
    states, reports = train(method, peers, peers[0].initial, 4)
    assert [report[0].metrics["kappa"] for report in reports] == [8, 9, 10, 11]
    assert {Progress.read(state.shared[PROGRESS], 3).kappa for state in states} == {11}


# --- bad input ---------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A round of one honest peer, whose answers a test makes up."""

    learner: TorchLearner
    method: FedCompress
    steps: Steps[tuple[State, Report]]
    body: bytes

    def end(self, other: bytes) -> tuple[State, Report]:
        us, them = names(2)
        with pytest.raises(StopIteration) as stop:
            self.steps.send(Gathered(((us, self.body), (them, other)), us))
        result: tuple[State, Report] = stop.value.value
        return result


def stage(**options: Any) -> Stage:
    learner, method = learners(2)[0], compress(**options)
    steps = method.round(method.init(learner.initial), learner, 0)
    ask = next(steps)
    assert isinstance(ask, Gather)
    return Stage(learner, method, steps, ask.body)


def changed(body: bytes, **changes: Any) -> bytes:
    update = msgspec.msgpack.decode(body, type=Update)
    return msgspec.msgpack.encode(msgspec.structs.replace(update, **changes))


BAD_UPDATES: dict[str, Any] = {
    "nonsense": lambda body: b"nonsense",
    "empty": lambda body: b"",
    "cut": lambda body: body[:-1],
    "more right than there is": lambda body: changed(body, right=9, total=8),
    "negative": lambda body: msgspec.msgpack.encode([-1, 0, 0, b"", b""]),
    "2^40 examples": lambda body: changed(body, examples=2**40),
    "Gram of another size": lambda body: changed(body, gram=bytes(4)),
    "Gram of no rows": lambda body: changed(body, gram=b"\xff\x7f" * (64 * 65 // 2)),
    "no model": lambda body: changed(body, model=b""),
    "NaN": lambda body: changed(
        body, model=msgspec.msgpack.decode(body, type=Update).model.replace(
            msgspec.msgpack.decode(body, type=Update).model[16:20], b"\x00\x00\xc0\x7f", 1
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_bad_update_is_refused_counted_and_the_round_goes_on(name: str) -> None:
    scene = stage()
    state, report = scene.end(BAD_UPDATES[name](scene.body))
    alone, _ = stage().end(b"refused too")
    assert report.metrics["refused"] == 1
    assert digest(state) == digest(alone)


def test_a_codebook_beyond_kappa_is_refused() -> None:
    scene = stage()
    dice = np.random.default_rng(0)
    many = codebook.encode_vector(
        dice.standard_normal(scene.learner.initial.size).astype(np.float32), scene.learner.manifest, 9
    )
    _, report = scene.end(changed(scene.body, model=many))
    assert report.metrics["refused"] == 1


def test_a_scale_of_a_million_is_clipped_to_the_median() -> None:
    # Among three, the liar's norm is not the median.
    learner, method = learners(2)[0], compress()
    steps = method.round(method.init(learner.initial), learner, 0)
    ask = next(steps)
    assert isinstance(ask, Gather)
    huge = codebook.encode_vector(np.full(learner.initial.size, 1e6, np.float32), learner.manifest, 8)
    bodies = (ask.body, ask.body, changed(ask.body, model=huge))
    with pytest.raises(StopIteration) as stop:
        steps.send(Gathered(tuple(zip(names(3), bodies, strict=True)), names(3)[0]))
    state, report = stop.value.value
    update = codebook.decode(msgspec.msgpack.decode(ask.body, type=Update).model, learner.manifest)
    honest = np.linalg.norm(update)
    assert report.metrics["refused"] == 0
    assert np.linalg.norm(state.params - learner.initial) < (2 * honest + 3 * honest) / 3 + 1e-3


def test_an_own_update_that_cannot_be_read_is_divergence() -> None:
    with pytest.raises(Diverged, match="lower lr"):
        compress().reduce(np.zeros(3, np.float32), [])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kappa_min": 9, "kappa_max": 8}, "kappa_min is above kappa_max"),
        ({"kappa_max": 1}, "choose 0 for the default"),
        ({"epochs": 0, "cluster_epochs": 0}, "epochs and cluster_epochs are both 0"),
        ({"after": "distil"}, "choose target = weights"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, int | str], text: str) -> None:
    with pytest.raises(BadOption, match=text):
        load_method("fedcompress", options)


# --- the elected student -----------------------------------------------------------------------------


def distilled_round(
    tamper: dict[str, Any] | None = None,
    drops: dict[PeerId, int] | None = None,
    among: Sequence[TorchLearner] | None = None,
) -> dict[PeerId, tuple[State, Report]]:
    """Run a round of three peers, of whom the elected one has its asks changed by `tamper`."""
    ids = names(3)
    elected = elect(0, ids)
    method = fixed(16, target="weights", after="distil", **{**QUICK, "ood_examples": 256})
    peers = dict(zip(ids, among or learners(3), strict=True))
    generators: dict[PeerId, Steps[Any]] = {
        peer: method.round(method.init(peers[peer].initial), peers[peer], 0) for peer in ids
    }
    generators[elected] = _tampered(generators[elected], tamper or {})
    return run_round(generators, drops=drops).results


def _tampered(steps: Steps[Any], tamper: dict[str, Any]) -> Steps[Any]:
    answer = None
    while True:
        try:
            ask = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(ask, Gather) and ask.tag in tamper:
            ask = Gather(tamper[ask.tag](ask.body), ask.tag)
        answer = yield ask


def reclustered() -> set[bytes]:
    """Return the state of a round in which the elected peer says nothing."""
    silent = distilled_round({"student": lambda body: b""})
    assert {report.metrics["distilled"] for _, report in silent.values()} == {0}
    return {digest(state) for state, _ in silent.values()}


def test_nodes_with_equal_data_elect_one_of_them_and_adopt_its_student() -> None:
    """Their updates are equal to the last bit: only a peer id tells who is elected."""
    results = distilled_round(among=[learners(3)[0] for _ in range(3)])
    assert {report.metrics["distilled"] for _, report in results.values()} == {1}


def zero_first_layer(body: bytes) -> bytes:
    specs = learners(1)[0].manifest
    student = codebook.decode(body[32:], specs)
    student[:4096] = 0
    return body[:32] + codebook.encode_vector(student, specs, 16)


def test_a_good_student_is_adopted_by_all() -> None:
    results = distilled_round()
    assert {report.metrics["distilled"] for _, report in results.values()} == {1}
    found = {digest(state) for state, _ in results.values()}
    assert len(found) == 1
    assert found != reclustered()


@pytest.mark.parametrize(
    "student",
    [zero_first_layer, lambda body: body[:-1], lambda body: bytes(32) + body[32:]],
    ids=["a layer zeroed", "cut", "of another teacher"],
)
def test_a_bad_student_is_rejected_and_the_round_ends_with_the_clustered_mean(student: Any) -> None:
    results = distilled_round({"student": student})
    assert {report.metrics["distilled"] for _, report in results.values()} == {0}
    assert {digest(state) for state, _ in results.values()} == reclustered()


def test_where_the_elected_peer_dies_the_round_ends_with_the_clustered_mean() -> None:
    elected = elect(0, names(3))
    results = distilled_round(drops={elected: 1})
    assert len(results) == 2
    assert {digest(state) for state, _ in results.values()} == reclustered()


def test_the_elected_peer_does_not_vote_for_itself() -> None:
    results = distilled_round({"student": zero_first_layer, "votes": lambda body: b"\x01"})
    assert {report.metrics["distilled"] for _, report in results.values()} == {0}


def test_everyone_is_elected_now_and_then() -> None:
    assert {elect(round_, names(5)) for round_ in range(60)} == set(names(5))


# --- what it reaches ---------------------------------------------------------------------------------

ROUNDS = 30
SEEDS = range(2)
# Three epochs of a fifth of the digits are 27 batches of 32.
STEPS = {"steps": 27, "lr": 3e-3, "batch_size": 32}


@dataclass
class Reached:
    accuracy: float
    uplink: float
    """Bytes of a body, in those of a float32 model."""
    state: State
    """Of the last seed."""


def reached(
    name: str, method: Method, seeds: range = SEEDS, network: str = "small", rounds: int = ROUNDS
) -> Reached:
    accuracies, uplinks = [], []
    for seed in seeds:
        peers = learners(seed=seed, network=network)
        states, bodies = train_counted(method, peers, rounds)
        ways = zip(peers, states, strict=True) if name == "alone" else [(peers[0], states[0])]
        accuracies.append(fmean(peer.evaluate(state.params)["accuracy"] for peer, state in ways))
        uplinks.append(fmean(bodies) / (4 * peers[0].initial.size) if bodies else 1.0)
    found = Reached(fmean(accuracies), fmean(uplinks), states[0])
    print(f"{network:6} {name:12} {found.accuracy:.3f} {np.round(accuracies, 3)} uplink {found.uplink:.4f}")
    return found


def train_counted(method: Method, peers: list[TorchLearner], rounds: int) -> tuple[list[State], list[int]]:
    """Run rounds; returns the last states, and the size of every body that was gathered."""
    ids = names(len(peers))
    states, bodies = {peer: method.init(peers[0].initial) for peer in ids}, []
    for round_ in range(rounds):
        ended = run_round(
            {peer: method.round(states[peer], each, round_) for peer, each in zip(ids, peers, strict=True)}
        )
        states = {peer: ended.results[peer][0] for peer in ids}
        bodies += [len(ask.body) for turn in ended.asked for ask in turn if isinstance(ask, Gather)]
    return [states[peer] for peer in ids], bodies


@pytest.fixture
def _clustered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let five peers in one process cluster the mean that they share once, not five times."""
    known: dict[tuple[bytes, int], Vector] = {}

    def once(vector: Vector, specs: Sequence[TensorSpec], kappa: int) -> Vector:
        key = (vector.tobytes(), kappa)
        if key not in known:
            known.clear()
            known[key] = recluster(vector, specs, kappa)
        return known[key].copy()

    monkeypatch.setattr(fedcompress, "recluster", once)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_clustered_once")
def test_on_digits_it_keeps_the_accuracy_at_a_seventh_of_the_bytes() -> None:
    averaged = reached("fedavg", FedAvg(FedAvgConfig(**STEPS)))  # type: ignore[arg-type]
    alone = reached("alone", LocalSGD(LocalSGDConfig(**STEPS)))  # type: ignore[arg-type]
    weights = reached("weights, 32", fixed(32, target="weights", **WORK))
    delta = reached("delta, 16", fixed(16, **DELTA_WORK))
    assert weights.accuracy >= averaged.accuracy - 0.03
    assert weights.uplink <= 0.18
    assert delta.accuracy >= averaged.accuracy - 0.015
    assert delta.uplink <= 0.14
    assert min(weights.accuracy, delta.accuracy) >= alone.accuracy + 0.10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_convolutional_network_is_kept_at_a_tenth_of_the_bytes_and_a_quarter_of_the_file() -> None:
    averaged = reached("fedavg", FedAvg(FedAvgConfig(**STEPS)), range(1), "cnn", 20)  # type: ignore[arg-type]
    found = reached("adaptive", compress(**DELTA_WORK), range(1), "cnn", 20)
    assert found.accuracy >= averaged.accuracy - 0.02
    assert found.uplink <= 0.10
    learner = learners(network="cnn")[0]
    file = codebook.encode_vector(found.state.params, learner.manifest, 32)
    assert 4 * found.state.params.size >= 4 * len(file)
    saved = codebook.decode(file, learner.manifest)
    assert learner.evaluate(saved)["accuracy"] >= found.accuracy - 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_by_default_five_peers_send_a_quarter_and_less_at_the_accuracy_of_averaging() -> None:
    work = {"epochs": 3, "cluster_epochs": 0, "lr": 3e-3, "batch_size": 32}
    averaged = reached("fedavg", FedAvg(FedAvgConfig(**STEPS)))  # type: ignore[arg-type]
    found = reached("default", FedCompress(FedCompressConfig(**work)))  # type: ignore[arg-type]
    assert found.accuracy >= averaged.accuracy - 0.01
    # A body goes to four others; of a vector all-reduced among five, a peer sends 8 fifths.
    assert 8 / 5 / (4 * found.uplink) >= 4.5
