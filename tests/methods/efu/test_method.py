"""EFU: a node forgets, the sum stays exact, and nothing that it sends tells."""

from collections.abc import Sequence
from statistics import fmean

import msgspec
import numpy as np
import pytest
import torch
from lockstep import names, run_round
from secure_members import CONFIG, Members
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import nn

from scripts.reproduce_efu import ClassExclusive, Swarm, Switch, run_swarm
from shoal.crypto.keys import PeerId
from shoal.gossip.events import Send
from shoal.methods.base import AllReduce, Exchange, Gather, Me, State
from shoal.methods.efu.method import EFU, EFUConfig, split
from shoal.methods.enccluster.method import EncCluster
from shoal.methods.enccluster.sums import whole_weights
from shoal.methods.learning.forgetting import Request
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.lockstep import Ended

QUICK = {"steps": 6, "lr": 0.1, "clip": 0.1}


class Points(Task):
    """Three classes of points, and a model of 67 numbers."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(30) % 3
        return torch.eye(4)[y] + 0.01 * torch.arange(120).view(30, 4) / 120, y


def learners(seed: int = 0, peers: int = 5) -> list[TorchLearner]:
    return [TorchLearner(ClassExclusive(f"{i + 1}/{peers}", seed=seed), seed=seed) for i in range(peers)]


def one_round(
    method: EFU, peers: Sequence[TorchLearner], round_: int, start: State | None = None
) -> Ended[tuple[State, object]]:
    ids = names(len(peers))
    state = start or method.init(peers[0].initial)
    return run_round(
        {peer: method.round(state, learner, round_) for peer, learner in zip(ids, peers, strict=True)},
        here={peer: Me(peer, round_) for peer in ids},
    )


# --- what it sends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["masked-grid", "fe-dense"])
def test_a_forgetter_sends_as_many_asks_of_the_same_kinds_tags_and_lengths_as_a_learner(mode: str) -> None:
    method = EFU(EFUConfig(mode=mode, steps=2, lr=0.1, levels=1))  # type: ignore[arg-type]
    peers = [TorchLearner(Points(), seed=0) for _ in range(3)]
    sent = []
    for asked in (None, Request(classes=(0, 1)), Request(peer_data=True, rounds=1)):
        peers[1].forgetting = Switch(asked)
        ended = one_round(method, peers, 0)
        assert not ended.failed
        sent.append([(type(turn[1]), turn[1].tag, length_of(turn[1])) for turn in ended.asked])
    assert sent[0] == sent[1] == sent[2]


def length_of(ask: Gather | AllReduce) -> int:
    return len(ask.body) if isinstance(ask, Gather) else ask.vector.nbytes


def test_no_metric_of_a_forgetter_has_another_name_than_a_learners() -> None:
    method, peers = EFU(EFUConfig(**QUICK)), learners(peers=3)  # type: ignore[arg-type]
    peers[2].forgetting = Switch(Request(classes=(8, 9)))
    reports = [report for _, report in one_round(method, peers, 0).results.values()]
    assert len({tuple(sorted(report.metrics)) for report in reports}) == 1  # type: ignore[attr-defined]
    assert "forget" not in str(reports)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_classifier_on_message_bytes_cannot_tell_a_forgetter_from_a_learner() -> None:
    method = EFU(EFUConfig(steps=1, lr=0.1, levels=1, forget_steps=1, attack_steps=1))
    peers = [TorchLearner(Points(), seed=0) for _ in range(3)]
    rows, labels = [], []
    for sample in range(400):
        peers[2].forgetting = Switch(Request(classes=(2,)) if sample % 2 else None)
        ended = one_round(method, peers, 0)
        sent = sent_by(2, ended.asked, sample)
        content = np.frombuffer(b"".join(sent), np.uint8)
        rows.append([len(sent), len(content), content.mean(), content.std()])
        rows[-1] += np.bincount(content >> 4, minlength=16).tolist()
        labels.append(sample % 2)
    table = np.array(rows, float)
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)
    reached = cross_val_score(LogisticRegression(), table, labels, cv=10).mean()
    assert abs(reached - 0.5) <= 0.08


def sent_by(place: int, asked: Sequence[Sequence[Exchange]], seed: int) -> list[bytes]:
    """Return the bytes of what one of three sends in the sum under masks that they ask for."""
    (turn,) = asked
    asks = [ask for ask in turn if isinstance(ask, AllReduce)]
    config = msgspec.structs.replace(CONFIG, masking=asks[0].masking)
    members = Members(3, asks[0].vector.size, seed, [ask.weight for ask in asks], config, is_based=False)
    sent: list[bytes] = []

    def watch(sender: PeerId, each: Send) -> list[Send]:
        if sender == members.names[place]:
            sent.append(msgspec.msgpack.encode(each.message) + bytes(each.data))
        return [each]

    for name, ask in zip(members.names, asks, strict=True):
        members.given[name][:] = members.vectors[name][:] = ask.vector
    members.change = watch
    members.run()
    members.check()
    return sent


# --- what opens ----------------------------------------------------------------------------------------


def test_the_sum_with_a_forgetter_is_the_exact_integer_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    method = EFU(EFUConfig(**QUICK, mode="fe-dense"))  # type: ignore[arg-type]
    peers = [TorchLearner(Points(), seed=0) for _ in range(5)]
    peers[4].forgetting = Switch(Request(classes=(1, 2)))
    state = method.init(peers[0].initial)
    grid, told = method.config.grid("fe-dense"), []
    plain = type(grid).integers

    def kept(self: object, vector: object, dice: object) -> object:
        told.append(plain(self, vector, dice))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(type(grid), "integers", kept)
    ended = one_round(method, peers, 0, state)
    metrics = ended.results[names(5)[0]][1].metrics  # type: ignore[attr-defined]
    assert metrics["attempts"] == 1
    weights = whole_weights([learner.examples for learner in peers], method.config.levels)
    total = np.sum([w * numbers for w, numbers in zip(weights, told, strict=True)], axis=0)
    wanted = state.params + grid.floats(total, sum(weights))
    for after, _ in ended.results.values():
        assert np.array_equal(after.params, wanted)


def test_who_is_left_out_after_sealing_opens_nothing_for_the_others_without_new_keys() -> None:
    method = EFU(EFUConfig(**QUICK, mode="fe-dense"))  # type: ignore[arg-type]
    peers = [TorchLearner(Points(), seed=0) for _ in range(5)]
    peers[4].forgetting = Switch(Request(classes=(1, 2)))
    ids = names(5)
    state = method.init(peers[0].initial)
    ended = run_round(
        {peer: method.round(state, learner, 0) for peer, learner in zip(ids, peers, strict=True)},
        drops={PeerId(ids[4]): 1},
    )
    # The four that stay make a second attempt, with keys of their own.
    assert [turn[0].tag for turn in ended.asked] == ["keys 0", "sealed 0", "keys 1", "sealed 1", "shares 1"]
    assert len(ended.results) == 4


def test_without_a_request_it_is_enccluster() -> None:
    method, peers = EFU(EFUConfig(**QUICK)), learners(peers=3)  # type: ignore[arg-type]
    one = one_round(method, peers, 0).results[names(3)[0]][0]
    plain = EncCluster(method.config.sums)
    config = type(plain.config)(**{**QUICK, "clip": 0.1})  # type: ignore[arg-type]
    other = one_round(EncCluster(config), peers, 0).results[names(3)[0]][0]  # type: ignore[arg-type]
    assert np.array_equal(one.params, other.params)


# --- what is forgotten ---------------------------------------------------------------------------------


def test_what_is_forgotten_is_chosen_by_class_by_trigger_or_is_all() -> None:
    learner = learners()[4]
    x, y = learner.data
    assert set(y.tolist()) == {8, 9}
    for request, wanted in (
        (Request(classes=(8,)), int((y == 8).sum())),
        (Request(peer_data=True), len(y)),
        (Request(places=(0, 63), values=(float(x[0, 0]), float(x[0, 63]))), None),
        (Request(places=(64,), values=(1.0,)), 0),
        (Request(classes=(3,)), 0),
    ):
        forgotten, kept = split(learner, request)
        assert len(forgotten) + len(kept) == len(y)
        if wanted is not None:
            assert len(forgotten) == wanted
        else:
            assert 0 in forgotten


def test_rounds_that_unlearn_are_counted_and_then_the_rest_is_trained_on() -> None:
    method, peers = EFU(EFUConfig(**QUICK)), learners(peers=3)  # type: ignore[arg-type]
    switch = peers[2].forgetting = Switch(Request(classes=(8,), rounds=2))
    state = method.init(peers[0].initial)
    for round_ in range(3):
        state = one_round(method, peers, round_, state).results[names(3)[0]][0]
    notes = [switch.notes[round_] for round_ in range(3)]
    assert [note.unlearned for note in notes] == [True, True, False]
    assert notes[0].state_after == notes[1].state_before
    assert notes[0].peers == tuple(names(3))
    assert notes[0].forgotten == int((peers[2].data[1] == 8).sum())


def test_a_node_that_forgets_all_its_data_sends_no_change_afterwards() -> None:
    method, peers = EFU(EFUConfig(**QUICK)), learners(peers=3)  # type: ignore[arg-type]
    trained = method.local(peers[2].initial, peers[2], 0, Request(peer_data=True), unlearns=False)
    assert np.array_equal(trained.params, peers[2].initial)
    assert trained.steps == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forgotten_classes_fall_to_a_tenth_within_4_rounds_and_the_others_stay() -> None:
    method = EFU(EFUConfig(steps=27, lr=0.1, clip=0.1, levels=1))
    stages = [run_swarm(Swarm(method, "efu"), learners(seed), 30) for seed in range(3)]
    before = fmean(each[0].forgotten for each in stages)
    after = fmean(each[4].forgotten for each in stages)
    assert before >= 0.3
    assert after <= 0.10
    assert fmean(each[4].kept for each in stages) >= fmean(each[0].kept for each in stages) - 0.03
