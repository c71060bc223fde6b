"""MaTU: one state for peers of unlike tasks, nothing kept that the messages do not say, liars left out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from lockstep import names, run_round

from shoal.crypto.keys import PeerId
from shoal.methods.base import Gather, Gathered, Report, State, Steps
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.matu.message import Form, write
from shoal.methods.matu.method import MaTU, MaTUConfig, digest
from shoal.methods.matu.part_work import parts_of
from shoal.methods.matu.task_table import TaskTable
from shoal.methods.matu.task_vectors import unify
from shoal.methods.tasks.digits_multitask import DigitTask, DigitTasks

ROUNDS = 15
QUICK = MaTUConfig(steps=1)


def learner(share: str, seed: int = 0, **options: Any) -> TorchLearner:
    return TorchLearner(DigitTasks(share=share, seed=seed, **options), seed=seed)


def ring(peers: int, seed: int = 0, **options: Any) -> list[TorchLearner]:
    return [learner(f"{i + 1}/{peers}", seed, **options) for i in range(peers)]


def vectors(state: State) -> dict[bytes, bytes]:
    """Return every task's vector by its id."""
    table = TaskTable.of(state.shared)
    return {id_: table.vector(id_).tobytes() for id_ in table.known}


def same_everywhere(states: Sequence[State]) -> bool:
    shared = [b"".join(state.shared[name].tobytes() for name in sorted(state.shared)) for state in states]
    return len(set(shared)) == 1


def one_round(
    method: MaTU, states: Sequence[State], learners: Sequence[TorchLearner], round_: int = 0
) -> tuple[list[State], list[Report]]:
    peers = names(len(learners))
    steps = {p: method.round(s, each, round_) for p, s, each in zip(peers, states, learners, strict=True)}
    ended = run_round(steps)
    return [ended.results[p][0] for p in peers], [ended.results[p][1] for p in peers]


def train_all(
    method: MaTU, learners: Sequence[TorchLearner], rounds: int = ROUNDS
) -> tuple[list[State], list[list[Report]]]:
    """Return the last states, and the reports of every round."""
    states = [method.init(learners[0].initial)] * len(learners)
    reports: list[list[Report]] = []
    for round_ in range(rounds):
        states, latest = one_round(method, states, learners, round_)
        reports.append(latest)
        assert same_everywhere(states)
    return states, reports


def train(
    method: MaTU, learners: Sequence[TorchLearner], rounds: int = ROUNDS
) -> tuple[list[State], list[Report]]:
    """Return the last states, and the reports of the last round."""
    states, reports = train_all(method, learners, rounds)
    return states, reports[-1]


def mean_accuracy(reports: Sequence[Report]) -> float:
    return float(np.mean([report.metrics["accuracy"] for report in reports]))


# --- rounds ---------------------------------------------------------------------------------------


def test_peers_of_unlike_tasks_end_with_one_state_of_all_tasks() -> None:
    learners = ring(6)
    states, reports = train(MaTU(QUICK), learners, rounds=2)
    ids = {part.identity.id for each in learners for part in parts_of(each)}
    assert set(vectors(states[0])) == ids
    assert all(state.params.tobytes() == learners[0].initial.tobytes() for state in states)
    assert all(report.metrics["holders"] == 2 for report in reports)
    assert reports[0].metrics.keys() >= {"accuracy", "accuracy upright", "accuracy rotated", "refused"}


def test_one_peer_with_one_task_is_plain_training() -> None:
    alone = learner("1/1", tasks="mirrored", per_node=1)
    method = MaTU(MaTUConfig(steps=5, coding="float32"))
    states, _ = train(method, [alone], rounds=3)
    (part,) = parts_of(alone)
    params = alone.initial
    for round_ in range(3):
        params = part.train(params, steps=5, lr=0.1, batch_size=32, optimizer="task", round_=round_).params
    reached = states[0].params + TaskTable.of(states[0].shared).vector(part.identity.id)
    np.testing.assert_allclose(reached, params, atol=1e-5)


def test_the_next_state_is_a_function_of_the_last_messages() -> None:
    method, learners = MaTU(QUICK), ring(6)
    states, _ = train(method, learners, rounds=3)
    asked = [method.round(state, each, 3) for state, each in zip(states, learners, strict=True)]
    bodies = tuple(zip(names(6), map(body_of, asked), strict=True))
    # A peer that has lost all but the model and its data, and is told the same.
    forgetful = method.round(method.init(learners[2].initial), learners[2], 3)
    body_of(forgetful)
    for steps in (asked[2], forgetful):
        with pytest.raises(StopIteration) as end:
            steps.send(Gathered(bodies, names(6)[2]))
        states.append(end.value.value[0])
    assert vectors(states[-1]) == vectors(states[-2])


def test_the_order_of_the_messages_is_no_matter() -> None:
    method, learners = MaTU(QUICK), ring(4, tasks="upright,mirrored,turned,parity")
    states, _ = train(method, learners, rounds=1)
    asked = [method.round(state, each, 1) for state, each in zip(states, learners, strict=True)]
    bodies = list(zip(names(4), map(body_of, asked), strict=True))
    ends = []
    for me, steps, order in zip(names(2), asked[:2], (bodies, bodies[::-1]), strict=True):
        with pytest.raises(StopIteration) as end:
            steps.send(Gathered(tuple(order), me))
        ends.append(end.value.value[0])
    common = parts_of(learners[0])[1].identity.id
    assert common == parts_of(learners[1])[0].identity.id
    assert vectors(ends[0])[common] == vectors(ends[1])[common]
    assert same_everywhere(ends)


def test_a_newcomer_brings_a_task_nobody_knew() -> None:
    method, learners = MaTU(QUICK), ring(3, tasks="upright,mirrored,turned")
    states, _ = train(method, learners, rounds=2)
    new = learner("3/3", own="parity,upright")
    before = vectors(states[0])
    states, reports = one_round(method, [*states, states[0]], [*learners, new], 2)
    assert same_everywhere(states)
    after = vectors(states[0])
    parity, upright = (part.identity.id for part in parts_of(new))
    assert set(after) == {*before, parity}
    assert any(after[parity])
    assert reports[3].metrics["holders"] == 1
    assert reports[0].metrics["holders"] == 2
    assert after[upright] != before[upright]


def test_a_task_whose_holders_are_gone_stays_for_a_while() -> None:
    method, learners = MaTU(MaTUConfig(steps=1, keep=1)), ring(3, tasks="upright,mirrored,turned", per_node=1)
    states, _ = train(method, learners, rounds=1)
    gone = parts_of(learners[2])[0].identity.id
    kept = vectors(states[0])[gone]
    states, _ = one_round(method, states[:2], learners[:2], 1)
    assert vectors(states[0])[gone] == kept
    states, _ = one_round(method, states, learners[:2], 2)
    assert gone not in vectors(states[0])


def test_tasks_beyond_the_slots_are_not_carried_and_nobody_fails() -> None:
    states, reports = train(
        MaTU(MaTUConfig(steps=1, slots=2)), ring(3, tasks="upright,mirrored,turned"), rounds=2
    )
    assert len(vectors(states[0])) == 2
    assert sum(report.metrics["uncarried"] for report in reports) == 2
    assert all(np.isfinite(report.loss) for report in reports)


def test_a_node_with_more_tasks_than_a_message_may_have_is_told_the_fix() -> None:
    method, alone = MaTU(MaTUConfig(tasks_per_peer=1)), learner("1/1", tasks="upright,mirrored")
    with pytest.raises(BadOption, match="has 2 tasks: raise tasks_per_peer = 1"):
        method.check(alone)


def test_a_peer_that_dies_before_its_message_is_left_out() -> None:
    method, learners = MaTU(QUICK), ring(3, tasks="upright,mirrored,turned")
    peers = names(3)
    start = method.init(learners[0].initial)
    steps = {peer: method.round(start, each, 0) for peer, each in zip(peers, learners, strict=True)}
    ended = run_round(steps, drops={peers[2]: 0})
    assert ended.results.keys() == {peers[0], peers[1]}
    assert same_everywhere([ended.results[peer][0] for peer in peers[:2]])
    assert ended.results[peers[0]][1].contributors == tuple(peers[:2])


def test_starting_from_unified_vectors_is_another_start() -> None:
    learners = ring(3, tasks="upright,relabelled,turned")
    exact, _ = train(MaTU(QUICK), learners, rounds=2)
    unified, _ = train(MaTU(msgspec.structs.replace(QUICK, start="unified")), learners, rounds=2)
    assert vectors(exact[0]).keys() == vectors(unified[0]).keys()
    assert vectors(exact[0]) != vectors(unified[0])


def test_holders_are_asked_about_each_other_where_there_are_three() -> None:
    start = MaTU(QUICK)
    for peers, asks in ((2, 1), (3, 2)):
        learners = ring(peers, tasks="upright", per_node=1)
        state = start.init(learners[0].initial)
        ended = run_round(
            {p: start.round(state, each, 0) for p, each in zip(names(peers), learners, strict=True)}
        )
        assert len(ended.asked) == asks


# --- bad messages ---------------------------------------------------------------------------------


def body_of(steps: Steps[tuple[State, Report]]) -> bytes:
    ask = next(steps)
    assert isinstance(ask, Gather)
    return ask.body


def bad_messages(start: State, part: Any) -> list[bytes]:
    form = Form(digest(start.params), start.params.size, "float16", 8)
    vector = np.full(start.params.size, 0.1, np.float32)
    honest = write(unify([vector]), [part.identity], [10], form)
    message = msgspec.msgpack.decode(honest)
    changed: list[bytes] = []
    for scale in (1e6, float("nan")):
        message[2][0][3] = scale
        changed.append(msgspec.msgpack.encode(message))
    other = write(unify([vector]), [part.identity], [10], Form(bytes(16), start.params.size, "float16", 8))
    return [*changed, other, honest[:-1], b"", b"noise"]


@pytest.mark.parametrize("which", range(6))
def test_a_bad_message_is_left_out_by_all_and_counted(which: int) -> None:
    method, learners = MaTU(QUICK), ring(2, tasks="upright,mirrored")
    start = method.init(learners[0].initial)
    honest, _ = one_round(method, [start, start], learners)
    bad = bad_messages(start, parts_of(learners[0])[0])[which]
    for i, each in enumerate(learners):
        bodies = tuple(zip(names(2), [body_of(method.round(start, one, 0)) for one in learners], strict=True))
        steps = method.round(start, each, 0)
        body_of(steps)
        with pytest.raises(StopIteration) as end:
            steps.send(Gathered((*bodies, (PeerId("peer999"), bad)), names(2)[i]))
        after, report = end.value.value
        assert report.metrics["refused"] == 1
        assert vectors(after) == vectors(honest[i])


class Liar(DigitTasks):
    """Says upright, and trains on other labels."""

    def parts(self) -> dict[str, DigitTask]:
        """See `Task`."""
        (part,) = super().parts().values()
        x, y = part.train_data()
        part._train = (x, (y + 3) % 10)
        return {part.name: part}


class Flipper:
    """A learner whose trained params lie on the other side of where it started."""

    def __init__(self, honest: TorchLearner) -> None:
        """`honest`: whose work is turned around."""
        self._honest = honest

    def __getattr__(self, name: str) -> Any:
        """Be like the honest one otherwise."""
        return getattr(self._honest, name)

    def train(self, params: Any, **options: Any) -> Any:
        """Turn the change around, with respect to the model that all started from."""
        trained = self._honest.train(params, **options)
        return replace(trained, params=2 * self._honest.initial - trained.params)


def five(seed: int, fifth: str) -> list[Any]:
    learners: list[Any] = ring(5, seed, tasks="upright", per_node=1)
    if fifth == "liar":
        learners[4] = TorchLearner(Liar(share="5/5", seed=seed, tasks="upright", per_node=1), seed=seed)
    if fifth == "flipper":
        learners[4] = Flipper(learners[4])
    return learners


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fifth", ["liar", "flipper"])
def test_one_bad_holder_of_five_is_left_out_and_costs_at_most_three_points(fifth: str) -> None:
    costs = []
    for seed in (0, 1):
        _, clean = train(MaTU(), five(seed, "honest"))
        _, dirty = train_all(MaTU(), five(seed, fifth))
        costs.append(mean_accuracy(clean[:4]) - mean_accuracy(dirty[-1][:4]))
        without = sum(reports[0].metrics["left_out"] == 1 for reports in dirty)
        print(f"{fifth}, seed {seed}: costs {costs[-1]:.3f}, left out of {without} of {ROUNDS} rounds")
        assert without > ROUNDS / 2
        assert clean[0].metrics["left_out"] == 0
    assert np.mean(costs) <= 0.03


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_holders_of_very_unlike_labels_do_not_take_each_other_for_liars() -> None:
    learners = [learner(f"{i + 1}/5", tasks="upright", per_node=1, alpha=0.1) for i in range(5)]
    _, voting = train(MaTU(), learners)
    _, trusting = train(MaTU(MaTUConfig(tolerance=1.0, doubt=1.0)), learners)
    print(f"very unlike labels: voting {mean_accuracy(voting):.3f}, trusting {mean_accuracy(trusting):.3f}")
    assert mean_accuracy(voting) >= mean_accuracy(trusting) - 0.02


# --- on the digits --------------------------------------------------------------------------------


def naive(learners: Sequence[TorchLearner]) -> float:
    """Return what FedAvg reaches with one body for all tasks, in as many steps."""
    method, peers = FedAvg(FedAvgConfig(steps=40, lr=0.1)), names(len(learners))
    states = dict.fromkeys(peers, method.init(learners[0].initial))
    for round_ in range(ROUNDS):
        steps = {p: method.round(states[p], each, round_) for p, each in zip(peers, learners, strict=True)}
        ended = run_round(steps)
        states = {peer: ended.results[peer][0] for peer in peers}
    reached = [each.evaluate(states[p].params) for p, each in zip(peers, learners, strict=True)]
    return float(np.mean([metrics["accuracy"] for metrics in reached]))


def per_task(learners: Sequence[TorchLearner]) -> float:
    """Return what FedAvg reaches in a run for each task."""
    held: dict[bytes, list[Any]] = {}
    for each in learners:
        for part in parts_of(each):
            held.setdefault(part.identity.id, []).append(part)
    reached = []
    for parts in held.values():
        params = learners[0].initial
        weights = np.array([part.examples for part in parts], np.float64)
        for round_ in range(ROUNDS):
            trained = [
                part.train(params, steps=20, lr=0.1, batch_size=32, optimizer="task", round_=round_).params
                for part in parts
            ]
            params = np.average(np.array(trained), axis=0, weights=weights).astype(np.float32)
        reached += [part.test_accuracy(params) for part in parts]
    return float(np.mean(reached))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_under_strong_conflict_it_is_far_above_naive_averaging() -> None:
    rows = []
    for seed in (0, 1, 2):
        learners = ring(6, seed)
        _, reports = train(MaTU(), learners)
        rows.append((mean_accuracy(reports), naive(learners), per_task(learners)))
        print("strong: MaTU {:.3f}, naive {:.3f}, per task {:.3f}".format(*rows[-1]))
    reached, averaged, apart = np.mean(rows, axis=0)
    assert reached >= averaged + 0.10
    assert reached >= apart - 0.15


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_under_mild_conflict_it_is_not_below_naive_averaging() -> None:
    rows = []
    for seed in (0, 1):
        learners = ring(6, seed, conflict="mild")
        _, reports = train(MaTU(), learners)
        rows.append((mean_accuracy(reports), naive(learners)))
        print("mild: MaTU {:.3f}, naive {:.3f}".format(*rows[-1]))
    reached, averaged = np.mean(rows, axis=0)
    assert reached >= averaged - 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_harmful_mixing_is_found_out_and_left_out() -> None:
    learners = ring(6)
    _, plain = train(MaTU(), learners)
    _, mixing = train(MaTU(MaTUConfig(neighbours=2, least_similarity=0.4)), learners)
    print(f"plain {mean_accuracy(plain):.3f}, mixing where it does no harm {mean_accuracy(mixing):.3f}")
    assert mean_accuracy(mixing) >= mean_accuracy(plain) - 0.03
