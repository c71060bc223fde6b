"""MPSL in lockstep: whole rounds, lost clients and hosts, averaging hosts, and what crosses the wire."""

from copy import deepcopy
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from few_pairs import Few
from lockstep import names
from torch import nn
from torch.nn import functional

from shoal.gossip.calls.asks import Call
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Me, Report, State, Steps
from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task, load_task
from shoal.methods.mpsl.copies import Copies
from shoal.methods.mpsl.hosting import Hosting
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL, MPSLConfig
from shoal.methods.mpsl.tokens import token_bytes
from shoal.methods.roles.serves import Serves
from shoal.methods.tasks.digits import Digits

A, B, C, D, E = names(5)


def method(**options: Any) -> MPSL:
    return MPSL(MPSLConfig(**{"number": "float32", "steps": 4, **options}))


def nodes(
    count: int = 3, *, hosts: int = 1, lost: Any = None, silent: Any = None, **options: Any
) -> SplitRun:
    tasks = [Few(f"{i + 1}/{count}") for i in range(count)]
    return SplitRun(method(**options), tasks, hosts, lost=lost or {}, silent=silent or {})


def params(run: SplitRun, peer: str, stage: int = 0) -> np.ndarray[Any, Any]:
    return run.hosting(peer, stage).side.vector()  # type: ignore[arg-type]


def numbers(run: SplitRun) -> list[float]:
    """Return the sums of all that a run holds, to compare it with another."""
    return [float(np.abs(run.states[A].params).sum()), float(np.abs(params(run, A)).sum())]


def test_it_is_a_method_with_roles_and_the_body_does_not_travel() -> None:
    assert isinstance(method(), Serves)
    assert method().roles == ("host", "spare")
    assert method(stages=2, spares=False).roles == ("host", "host2")
    found = TorchLearner(Few("1/3"), method=method())
    tensors: tuple[TensorSpec, ...] = found.manifest
    assert {spec.name.partition(".")[0] for spec in tensors} == {"front", "head"}
    assert {
        s.name.partition(".")[0] for s in TorchLearner(Few("1/3"), method=method(head="host")).manifest
    } == {"front"}


@pytest.mark.parametrize("head", ["client", "host"])
def test_stages_on_several_hosts_come_to_what_one_host_does(head: Any) -> None:
    one, two = nodes(head=head), nodes(head=head, stages=2)
    for run in (one, two):
        run.round()
    assert two.roles == {A: ["host"], B: ["host2"], C: ["spare"]}
    whole = np.concatenate([params(two, A), params(two, B, 1)])
    assert float(np.abs(whole - params(one, A)).max()) < 1e-5
    assert float(np.abs(one.states[A].params - two.states[A].params).max()) < 1e-5


@pytest.mark.parametrize("stages", [1, 2])
def test_gradients_on_several_hosts_are_those_of_one_process(stages: int) -> None:
    run = nodes(stages=stages, steps=1, spares=False)
    learners = list(run.learners.values())
    whole = deepcopy(learners[0].model)
    for parameter in whole.parameters():
        parameter.requires_grad_(True)
    x, y = (torch.cat(each) for each in zip(*(learner.data for learner in learners), strict=True))
    functional.cross_entropy(whole(x), y).backward()
    run.round()
    hosts = [run.hosting(run.peers[stage], stage).side.module for stage in range(stages)]
    ours = torch.cat([gradients_of(each) for each in hosts])
    assert float((ours - gradients_of(whole.body)).abs().max()) < 1e-6
    for part in ("front", "head"):
        summed = sum(gradients_of(getattr(learner.model, part)) for learner in learners)
        assert float((summed - gradients_of(getattr(whole, part))).abs().max()) < 1e-6


def gradients_of(module: nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])


def test_rounds_are_the_same_every_time_and_the_loss_falls() -> None:
    runs = [nodes(), nodes()]
    reports: list[list[list[Report]]] = [[run.round() for _ in range(3)] for run in runs]
    assert numbers(runs[0]) == numbers(runs[1])
    loss = [fmean(report.loss for report in round_) for round_ in reports[0]]
    assert loss[2] < loss[0]
    assert {report.steps for report in reports[0][0]} == {4}
    assert set(runs[0].play.acted.values()) == {1}


def test_bytes_are_those_of_the_formula() -> None:
    run = nodes(steps=3)
    run.round()
    sent = run.played[0].sent
    z, out, n = token_bytes((11, 32), "float32") * 24, 4 * 32 * 24, 4 * 3
    assert sent[B, "forward"] == pytest.approx(z, rel=0.05)
    assert sent[B, "grad"] == pytest.approx(out, rel=0.05)
    # A hosts: it answers all three, and is a client as well.
    assert sent[A, "forward"] == pytest.approx(z + 3 * out, rel=0.05)
    assert sent[A, "grad"] == pytest.approx(out + 3 * (z + n), rel=0.05)


def until_grad(steps: Steps[Any]) -> Steps[Any]:
    """Run a round up to its first gradient, which is never sent."""
    answer = None
    while True:
        ask = steps.send(answer)
        if isinstance(ask, Call) and ask.verb == "grad":
            return None
        answer = yield ask


def test_a_client_that_is_lost_between_forward_and_grad_costs_nobody_else_anything() -> None:
    # C's outputs never reach it: it is dead by then. The others step as if it had not been there.
    with_it, without = nodes(steps=1), nodes(steps=1)
    for run, peers in ((with_it, (A, B, C)), (without, (A, B))):
        steps = {peer: run.method.round(run.states[peer], run.learners[peer], 0) for peer in peers}
        if run is with_it:
            steps[C] = until_grad(steps[C])
        played = run.play.rounds(steps)
        assert played.deadlines == (run is with_it)
        assert run.hosting(A).missed == (run is with_it)
        assert [played.results[peer][1].steps for peer in (A, B)] == [1, 1]
    assert float(np.abs(params(with_it, A) - params(without, A)).max()) < 1e-6


def test_a_host_that_dies_costs_the_steps_since_the_last_averaging() -> None:
    # A has handed its params to the spare after every second step, and dies in its seventh.
    run = nodes(average_every=2, steps=10, lost={A: 13})
    run.round()
    assert run.play.gone == {A}
    spare = run.hosting(B)
    assert set(run.play.acted.values()) == {1}
    assert spare.copies.averaged >= 3
    reports = [report for _, report in run.played[0].results.values()]
    assert spare.steps >= 3
    assert all(report.metrics.get("unanswered", 0) <= 1 for report in reports)
    assert all(report.steps >= 9 for report in reports)
    assert all("accuracy" in report.metrics for report in reports)


def test_a_silent_host_is_left_after_a_deadline() -> None:
    run = nodes(silent={A: 3}, steps=6)
    run.round()
    reports = [report for _, report in run.played[0].results.values()]
    assert all(report.metrics.get("unanswered", 0) <= 1 for report in reports)
    assert run.hosting(B).steps >= 4


def test_a_lost_stage_is_followed_by_its_spare() -> None:
    tasks = [Few(f"{i + 1}/4") for i in range(4)]
    run = SplitRun(method(stages=2, average_every=2, steps=8), tasks, lost={B: 9})
    run.round()
    assert run.roles == {A: ["host"], B: ["host2"], C: ["spare"], D: ["spare2"]}
    assert run.play.gone == {B}
    reports = [report for _, report in run.played[0].results.values()]
    assert all(report.steps >= 7 for report in reports)
    assert run.hosting(D, 1).steps >= 2
    assert set(run.play.acted.values()) == {1}


def test_two_hosts_hold_the_same_after_each_averaging() -> None:
    run = nodes(4, hosts=2, steps=8, average_every=8)
    run.round()
    assert [run.hosting(peer).steps for peer in (A, B)] == [8, 8]
    assert np.array_equal(params(run, A), params(run, B))
    assert np.array_equal(params(run, A), params(run, C))
    assert run.hosting(C).steps == 0


class Held:
    """Params, in place of a stage."""

    def __init__(self, numel: int) -> None:
        self.numel, self.held = numel, np.zeros(numel, np.float32)

    def vector(self) -> Vector:
        return self.held.copy()

    def load(self, params: Vector) -> None:
        self.held = params


def copies(numel: int) -> tuple[Copies, Any]:
    held: Any = Held(numel)
    return Copies(held, 8), held


def test_a_merge_weighs_by_rows_and_each_pair_counts_its_own() -> None:
    ours, held = copies(2)
    held.load(np.array([0.1, 0.0], np.float32))
    ours.rows = 30.0
    assert ours.arrive(B, 0, 10.0, np.array([0.0, 0.1], np.float32))
    assert np.allclose(held.held, [0.075, 0.025])
    assert (ours.since(B), ours.since(C), ours.is_due) == (0.0, 40.0, True)
    # C counts 40 on our side: what we have of B is news to it.
    assert ours.arrive(C, 0, 40.0, np.array([0.075, 0.125], np.float32))
    assert np.allclose(held.held, [0.075, 0.075])


def test_a_host_of_noise_moves_the_mean_by_a_bounded_part_of_our_own_steps() -> None:
    ours, held = copies(1000)
    own = np.full(1000, 0.01, np.float32)
    held.load(own.copy())
    ours.rows = 30.0
    noise = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert ours.arrive(B, 0, 1e9, 1e6 * noise)
    assert ours.shortened == 1
    assert np.linalg.norm(held.held - own) <= 2 / 3 * 2 * np.linalg.norm(own) * (1 + 1e-5)


def test_a_spare_takes_what_it_is_given_and_pieces_must_fit() -> None:
    ours, held = copies((1 << 19) + 2)
    whole = np.ones(1 << 19, np.float32)
    for index, rows, piece in ((2, 1.0, whole), (0, -1.0, whole), (0, np.nan, whole), (1, 1.0, whole)):
        assert not ours.arrive(B, index, rows, piece)
    assert ours.arrive(B, 0, 8.0, whole)
    assert not held.held.any()
    assert ours.arrive(B, 1, 8.0, whole[:2])
    assert held.held.all()
    assert [len(ours.leave(C, index)) for index in (0, 1)] == [1 << 19, 2]  # type: ignore[arg-type]
    assert ours.leave(C, 2) is None


def test_params_beyond_use_are_not_taken_by_a_spare_and_do_not_stop_a_host() -> None:
    beyond = np.full(2, 3e38, np.float32)
    for own_rows in (0.0, 30.0):
        ours, held = copies(2)
        ours.rows = own_rows
        assert not ours.arrive(B, 0, 8.0, beyond)
        assert not held.held.any()


def test_a_client_that_the_peers_wait_for_ends_its_round_at_this_step() -> None:
    run = nodes()
    here = {peer: replace(me, is_hurried=peer == C) for peer, me in run._here(0).items()}
    steps = {peer: run.method.round(run.states[peer], run.learners[peer], 0) for peer in run.peers}
    played = run.play.rounds(steps, here)
    assert [played.results[peer][1].steps for peer in run.peers] == [4, 4, 1]


def test_the_paper_goes_on_from_its_own_fronts_and_measures_at_their_mean() -> None:
    run = nodes(sync_tokenizers=False)
    run.round()
    fronts = [run.states[peer].private["front"] for peer in run.peers]
    assert not np.array_equal(fronts[0], fronts[1])
    assert np.allclose(run.states[A].params, np.mean(fronts, axis=0), atol=1e-6)


def test_a_host_goes_on_from_what_it_saved() -> None:
    run = nodes()
    run.round()
    saved = run.states[A].private
    again = TorchLearner(Few("1/3"), method=run.method)
    serving = run.method.serve(again, "host")
    next(serving)
    steps = run.method.round(State(again.initial, private=saved), again, 1)
    next(steps)
    steps.send(Me(A, 1, hosts=("host",), only_hosts=True))
    hosting: Hosting = again.split_hosted[0]  # type: ignore[attr-defined]
    assert np.array_equal(hosting.side.vector(), saved["hosted0/body"])
    assert any(name.startswith("hosted0/moments/") for name in saved)
    serving.close()
    assert again.split_hosted == {}  # type: ignore[attr-defined]


def test_a_peer_that_is_host_and_spare_holds_the_stage_once() -> None:
    learner = TorchLearner(Few("1/3"), method=method())
    host, spare = (method().serve(learner, role) for role in ("host", "spare"))
    next(host)
    assert next(spare, None) is None
    assert list(learner.split_hosted) == [0]  # type: ignore[attr-defined]


def test_splitnn_is_the_same_with_one_modality() -> None:
    tasks: list[Task] = [Digits(f"{i + 1}/3", alpha=100.0) for i in range(3)]
    run = SplitRun(MPSL(MPSLConfig(steps=20)), tasks)
    assert run.rounds(3) > 0.8


def test_a_task_that_cannot_be_cut_or_has_a_loss_of_its_own_is_refused() -> None:
    class Whole(Digits):
        def model(self) -> nn.Module:
            return nn.Linear(64, 10)

    class Own(Digits):
        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            return super().loss(model, batch)

    with pytest.raises(BadTask, match="front, body"):
        TorchLearner(Whole(), method=method())
    with pytest.raises(BadTask, match="cross entropy"):
        method().check(TorchLearner(Own(), method=method()))


@pytest.mark.slow
def test_five_peers_come_close_to_one_and_far_above_each_alone() -> None:
    together, apart = list[float](), list[float]()
    pooled, alone = list[float](), list[float]()
    # Of three seeds the means are in docs/methods/mpsl.md: within 1 point, and 22 above.
    for seed in range(1):
        tasks = [load_task("digits_captions", {"share": f"{i + 1}/5", "seed": seed}) for i in range(5)]
        together.append(SplitRun(MPSL(MPSLConfig()), tasks, seed=seed).rounds(8))
        apart.append(SplitRun(MPSL(MPSLConfig(sync_tokenizers=False)), tasks, seed=seed).rounds(8))
        for group, found in (([load_task("digits_captions", {})], pooled), (tasks, alone)):
            for task in group:
                learner = TorchLearner(task, seed=seed)
                size = max(1, learner.examples // 40)
                trained = learner.train(learner.initial, steps=8 * 40, lr=0.003, batch_size=size)
                found.append(learner.evaluate(trained.params)["accuracy"])
    assert fmean(together) > fmean(pooled) - 0.05
    assert fmean(together) > fmean(alone) + 0.15
    assert fmean(together) > fmean(apart)
