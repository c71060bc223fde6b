"""SFPrompt in lockstep: gradients of one process, lost hosts, pruning, and what a host sees."""

from typing import Any

import numpy as np
import pytest
import torch
from few_pairs import Few
from lockstep import names
from torch import nn
from torch.nn import functional

from shoal.gossip.calls.asks import Call, Refusal, Reply
from shoal.methods.base import Report, Steps
from shoal.methods.errors import BadTask
from shoal.methods.fedpeft.shifted import Shifted
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.parts import tensor_bytes
from shoal.methods.learning.task import Task, load_task
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.roles.serves import Serves
from shoal.methods.sfprompt.cost import estimate, sfprompt_cost
from shoal.methods.sfprompt.leak import decoded_share
from shoal.methods.sfprompt.method import SFPrompt, SFPromptConfig
from shoal.methods.sfprompt.sides import ClientSide, HostSide

A, B, C = names(3)
TASKS: dict[str, Any] = {"tokens": lambda i: Few(f"{i + 1}/3"), "vectors": lambda i: Shifted(f"{i + 1}/3")}


def method(**options: Any) -> SFPrompt:
    return SFPrompt(SFPromptConfig(**{"number": "float32", "rows": 8, "prompt": 3, "epochs": 1, **options}))


def nodes(kind: str = "tokens", lost: Any = None, silent: Any = None, **options: Any) -> SplitRun:
    tasks: list[Task] = [TASKS[kind](i) for i in range(3)]
    return SplitRun(method(**options), tasks, lost=lost or {}, silent=silent or {})


def learner(kind: str, **options: Any) -> TorchLearner:
    return TorchLearner(TASKS[kind](0), method=method(**options))


def test_it_is_a_method_with_roles_and_prompt_and_tail_travel() -> None:
    assert isinstance(method(), Serves)
    found = learner("tokens")
    assert {spec.name for spec in found.manifest} == {"prompt", "head.weight", "head.bias"}
    trained = {name for name, each in found.model.named_parameters() if each.requires_grad}
    assert trained == {"prompt", "head.weight", "head.bias"}


@pytest.mark.parametrize("kind", TASKS)
def test_gradients_are_those_of_one_process(kind: str) -> None:
    found = learner(kind)
    client, host = ClientSide(found, 0, 0.1, 0.0), HostSide(found, 0)
    places = np.arange(7)
    a = client.forward(places)
    judged = client.judge(host.forward(A, b"1", a))
    assert judged is not None
    da = host.backward(A, b"1", judged.gradient.numpy())
    assert da is not None
    x, y = (each[torch.from_numpy(places)] for each in found.data)
    loss, prompt, tail = in_one_process(found.model, x, y)
    assert client.step(da)
    assert judged.loss / 7 == pytest.approx(loss, abs=1e-5)
    trained = dict(found.model.named_parameters())
    assert float((trained["prompt"].grad - prompt).abs().max()) < 1e-5
    grads = [each.grad for name, each in trained.items() if each.requires_grad and name != "prompt"]
    assert max(float((one - other).abs().max()) for one, other in zip(grads, tail, strict=True)) < 1e-5


@pytest.mark.parametrize("size", [3e38, 1e25])
@pytest.mark.parametrize("kind", TASKS)
def test_gradients_beyond_use_move_nothing(kind: str, size: float) -> None:
    found = learner(kind)
    client, host = ClientSide(found, 0, 0.1, 0.0), HostSide(found, 0)
    a = client.forward(np.arange(7))
    assert client.judge(host.forward(A, b"1", a)) is not None
    before = client.params().copy()
    assert not client.step(np.full(client.entry, size, np.float32))
    assert np.array_equal(client.params(), before)


def in_one_process(model: Any, x: Any, y: Any) -> tuple[float, torch.Tensor, list[torch.Tensor]]:
    """Return loss and gradients of the whole model, written out anew."""
    prompt = model.prompt.detach().clone().requires_grad_(True)
    if isinstance(model, nn.Sequential):
        head, inner = model[-1], model[:2](x) + prompt.sum(0)
        features = model[2:-1](inner)
    else:
        head = model.head
        features = model.body(torch.cat([prompt.expand(len(x), -1, -1), model.front(x)], dim=1))
    weights = [each.detach().clone().requires_grad_(True) for each in head.parameters()]
    loss = functional.cross_entropy(functional.linear(features, *weights), y)
    prompt_grad, *tail = torch.autograd.grad(loss, [prompt, *weights])
    return float(loss.detach()), prompt_grad, tail


@pytest.mark.parametrize("kind", TASKS)
def test_rounds_learn_agree_and_are_the_same_every_time(kind: str) -> None:
    runs = [nodes(kind), nodes(kind)]
    reports: list[list[list[Report]]] = [[run.round() for _ in range(3)] for run in runs]
    assert np.array_equal(runs[0].states[A].params, runs[1].states[A].params)
    assert np.array_equal(runs[0].states[A].params, runs[0].states[B].params)
    first, last = reports[0][0], reports[0][2]
    assert sum(each.loss for each in last) < sum(each.loss for each in first)
    assert all("accuracy" in each.metrics for each in last)
    assert set(runs[0].play.acted.values()) == {1}


def bodies(run: SplitRun) -> list[bytes]:
    """Return the frozen tensors of hosts and clients."""
    return [
        b"".join(tensor_bytes(each).tobytes() for each in module.state_dict().values())
        for peer in run.peers
        for found in [getattr(run.learners[peer], "prompt_host", None)]
        for module in [*([found.module] if found else []), run.learners[peer].model.front,
                       run.learners[peer].model.body]
    ]  # fmt: skip


def test_front_and_body_stay_as_they_are_to_the_last_bit() -> None:
    run = nodes()
    run.round()
    before = bodies(run)
    run.round()
    assert len(before) == 8
    assert bodies(run) == before
    assert before == bodies_of_new()


def bodies_of_new() -> list[bytes]:
    run = nodes()
    for peer in (A, B):
        run.learners[peer].prompt_host = HostSide(run.learners[peer], 0)  # type: ignore[attr-defined]
    return bodies(run)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_lost_host_changes_nothing_but_who_answers(at: int) -> None:
    # The host dies between calls or between a pass and its gradient, in the first three clients' steps.
    run, undisturbed = nodes(lost={A: at}), nodes()
    run.round()
    # A is a client as well, and its data is gone with it: the other two are compared.
    steps = {peer: undisturbed.method.round(undisturbed.states[peer], undisturbed.learners[peer], 0)
             for peer in (B, C)}  # fmt: skip
    whole = undisturbed.play.rounds(steps, undisturbed._here(0))
    assert run.play.gone == {A}
    for peer in (B, C):
        (state, report), (other, one) = run.played[0].results[peer], whole.results[peer]
        assert report.steps == one.steps
        assert "unanswered" not in report.metrics
        assert float(np.abs(state.params - other.params).max()) < 1e-5
    assert set(run.play.acted.values()) == {1}


def test_a_silent_host_costs_each_client_a_deadline_and_no_step() -> None:
    run = nodes(silent={A: 4})
    reports = run.round()
    assert all(each.steps == 2 and "unanswered" not in each.metrics for each in reports)
    assert run.played[0].deadlines <= 2 * len(reports)


def sent_up(run: SplitRun) -> int:
    return sum(n for (_, verb), n in run.played[0].sent.items() if verb == "forward")


def test_pruning_keeps_the_hardest_and_sends_as_much_less() -> None:
    some, all_ = nodes("vectors", prompt=1), nodes("vectors", prompt=1, gamma=1.0)
    for run in (some, all_):
        run.round()
    # Answers are as long as what was sent: both count.
    assert sent_up(some) <= 0.62 * sent_up(all_)
    found = learner("vectors")
    client = ClientSide(found, 0, 0.01, 0.0)
    kept = client.hardest(0.6, 8, 0)
    assert len(kept) == -(-6 * found.examples // 10)
    errors = np.concatenate([client._el2n(np.array([i])) for i in range(found.examples)])
    left = np.setdiff1d(np.arange(found.examples), kept)
    assert errors[kept].min() >= errors[left].max()
    drawn = client.hardest(0.3, 8, 0)
    assert errors[drawn].min() < errors[np.setdiff1d(np.arange(found.examples), drawn)].max()


def test_what_is_kept_is_chosen_once_in_so_many_rounds() -> None:
    run = nodes(prune_every=2)
    kept = []
    for _ in range(3):
        run.round()
        kept.append(run.states[B].private["kept"])
    assert np.array_equal(kept[0], kept[1])
    assert [len(each) for each in kept] == [15, 15, 15]
    assert [("leak_r2" in r.metrics) for r in (p.results[B][1] for p in run.played)] == [True, False, True]


class Tapped(SFPrompt):
    """Keeps all that goes to hosts, and what they say."""

    heard: "list[tuple[str, dict[str, Any]]]" = []  # noqa: RUF012

    def round(self, state: Any, learner: Any, round_: int) -> Steps[Any]:
        steps, given = SFPrompt.round(self, state, learner, round_), None
        while True:
            try:
                ask = steps.send(given)
            except StopIteration as stop:
                return stop.value
            if isinstance(ask, Call):
                self.heard.append((ask.verb, dict(ask.tensors)))
            given = yield ask

    def serve(self, learner: Any, role: str) -> Steps[None]:
        serving, given = SFPrompt.serve(self, learner, role), None
        while True:
            ask = serving.send(given)
            if isinstance(ask, Reply):
                self.heard.extend(
                    (each.verb, dict(told)) for each, told in ask.answers if not isinstance(told, Refusal)
                )
            given = yield ask


def test_no_label_no_tail_and_none_of_its_gradients_are_in_the_traffic_of_hosts() -> None:
    Tapped.heard.clear()
    tapped = Tapped(method().config)
    run = SplitRun(tapped, [TASKS["tokens"](i) for i in range(3)])
    run.round()
    said = {name for _, tensors in tapped.heard for name in tensors}
    assert said == {"a", "b", "g", "da"}
    captured = b"".join(np.float32(each).tobytes() for _, told in tapped.heard for each in told.values())
    assert len(captured) > 100_000
    secrets: list[np.ndarray[Any, Any]] = []
    for found in run.learners.values():
        x, y = (each.numpy() for each in found.data)
        secrets += [x[0], y[:16].astype(np.float32), y[:16], np.eye(10, dtype=np.float32)[y[:2]]]
        for name, each in found.model.named_parameters():
            if name.startswith("head"):
                assert each.grad is not None
                secrets += [each.detach().numpy()[:2], each.grad.numpy()[:2]]
    for secret in secrets:
        for start in range(0, max(1, len(secret.tobytes()) - 15), 4):
            piece = secret.tobytes()[start : start + 16]
            assert not any(piece) or piece not in captured


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.95, 1.0), (3.0, 0.0, 0.6)])
def test_the_leak_of_a_linear_front_is_near_1_and_noise_lowers_it(
    noise: float, low: float, high: float
) -> None:
    dice = np.random.default_rng(0)
    x = dice.standard_normal((200, 8)).astype(np.float32)
    a = x @ dice.standard_normal((8, 16)).astype(np.float32)
    found = decoded_share(a + noise * a.std() * dice.standard_normal(a.shape).astype(np.float32), x)
    assert found is not None
    assert low <= found <= high
    assert decoded_share(a[:19], x[:19]) is None
    assert decoded_share(a, np.ones_like(x)) is None


def test_a_task_whose_widths_differ_is_refused() -> None:
    with pytest.raises(BadTask, match="as wide as what the head takes"):
        method().check(TorchLearner(load_task("digits_body", {}), method=method()))
    with pytest.raises(BadTask, match="nn.Linear"):
        learner_of_no_linear()


def learner_of_no_linear() -> None:
    class Own(Shifted):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10), nn.ReLU())

    TorchLearner(Own(), method=method())


def test_bytes_are_those_of_the_estimate() -> None:
    run = nodes("vectors", local_epochs=1)
    run.round()
    found = run.learners[B]
    side: ClientSide = found.split_client  # type: ignore[attr-defined]
    cost = sfprompt_cost(side.sizes, side.prompt_numel, "float32", 0.6, 1, 1)
    params = 2 * 4 * len(run.states[B].params)
    sent = run.played[0].sent
    up = sent[B, "forward"] + sent[B, "grad"]
    # B is the spare, and answers nothing here: what comes down to it is as long as what it sent as g.
    down = sent[B, "grad"]
    assert up + down + params == pytest.approx(cost.bytes, rel=0.02)
    assert "sfprompt" in estimate(side.sizes, side.prompt_numel, "float32", 0.6, 1, 1)
