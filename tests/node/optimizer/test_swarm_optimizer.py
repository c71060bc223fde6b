"""SwarmOptimizer as one of torch's: schedulers, scalers, accelerate, closures, hooks, and its state."""

import copy
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from fake_daemon import Beside, FakeDaemon, in_thread
from rosters import NOW, World, key, peer, public
from torch import nn
from torch.optim import lr_scheduler

import shoal
from shoal.gossip.admission.tokens import token_of
from shoal.gossip.run_spec import RunSpec, run_id
from shoal.methods.errors import BadOption, BadTask
from shoal.node.config.settings import load
from shoal.node.daemon.roster_keeper import invite_of
from shoal.node.optimizer.wrapped import NotCopied
from shoal.node.storage.model_file import NoModel
from shoal.node.trainer import ipc

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "h" / "run").mkdir(parents=True)
    return tmp_path / "h"


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(home / "run" / "trainer.sock")
    yield made
    made.close()


class Loop:
    """A small model, and a swarm around its optimizer."""

    def __init__(
        self,
        home: Path,
        make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        model: nn.Module | None = None,
        lr: float = 0.1,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2) if model is None else model
        self.inner = make(self.model.parameters(), lr=lr)
        self.x = torch.randn(4, 3)
        keywords: dict[str, Any] = {"every": 2, "method": "fedavg", "home": home} | options
        self.swarm = shoal.SwarmOptimizer(self.inner, self.model, **keywords)

    def loss(self) -> Any:
        return (self.model(self.x) ** 2).mean()

    def step(self, optimizer: Any = None) -> None:
        optimizer = optimizer or self.swarm
        optimizer.zero_grad()
        self.loss().backward()
        optimizer.step()


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.5),
    "step": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.5, total_iters=2),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 4),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 1, 0.5), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.StepLR(o, 1, 0.5), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=2),
}


def momentum(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_sets_the_rates_that_it_sets_without_a_swarm(
    name: str, daemon: FakeDaemon, home: Path
) -> None:
    def rates(optimizer: Any, step: Callable[[], None]) -> list[float]:
        scheduler, found = SCHEDULERS[name](optimizer), []
        for _ in range(5):
            step()
            given = (1.0,) if name == "plateau" else ()
            scheduler.step(*given)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    beside = Beside(daemon)
    loop = Loop(home, momentum)
    with loop.swarm as swarm:
        assert isinstance(swarm, torch.optim.Optimizer)
        found = rates(swarm, loop.step)
    plain = momentum(nn.Linear(3, 2).parameters(), lr=0.1)
    assert found == rates(plain, lambda: plain.step())
    assert len(set(found)) > 1
    assert [message.steps for message in beside.finished()] == [2, 2]


def test_steps_that_grad_scaler_leaves_out_are_not_counted(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    loop = Loop(home)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with loop.swarm as swarm:
        for is_finite in (True, False, False, True):
            swarm.zero_grad()
            loss = loop.loss() if is_finite else loop.loss() * float("inf")
            scaler.scale(loss).backward()
            scaler.step(swarm)
            scaler.update()
            assert swarm.rounds == 0 or is_finite
    assert [message.steps for message in beside.finished()] == [2]


def test_a_fused_optimizer_is_unscaled_before_it_steps(daemon: FakeDaemon, home: Path) -> None:
    """It would be told its scale, but by an attribute of the wrapper that it never reads."""
    beside = Beside(daemon)
    loop = Loop(home, lambda params, lr: torch.optim.Adam(params, lr=lr, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = loop.model.weight.detach().clone()
    with loop.swarm as swarm:
        scaler.scale(loop.loss() * float("inf")).backward()
        scaler.step(swarm)
        assert torch.equal(loop.model.weight, before)
        assert swarm.steps_taken == 0
    assert beside.finished() == []


def test_a_closure_is_run_as_often_as_the_optimizer_wants_and_is_one_step(
    daemon: FakeDaemon, home: Path
) -> None:
    beside = Beside(daemon)
    loop = Loop(home, lambda params, lr: torch.optim.LBFGS(params, lr=lr, max_iter=4))
    calls = []

    def closure() -> Any:
        loop.swarm.zero_grad()
        loss = loop.loss()
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    with loop.swarm as swarm:
        losses = [float(swarm.step(closure).detach()) for _ in range(4)]
        assert swarm.steps_taken == 4
    assert len(calls) > 4
    assert losses[-1] < losses[0]
    assert [(message.steps, message.loss) for message in beside.finished()] == [
        (2, losses[1]),
        (2, losses[3]),
    ]


def test_hooks_are_called_once_a_step_and_given_the_swarm(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    loop = Loop(home)
    called: list[tuple[str, Any]] = []
    with loop.swarm as swarm:
        removable = [
            swarm.register_step_pre_hook(lambda o, *_: called.append(("pre", o))),
            swarm.register_step_post_hook(lambda o, *_: called.append(("post", o))),
            swarm.register_state_dict_pre_hook(lambda o: called.append(("state", o))),
            swarm.register_state_dict_post_hook(lambda o, state: called.append(("stated", o))),
            swarm.register_load_state_dict_pre_hook(lambda o, state: called.append(("load", o))),
            swarm.register_load_state_dict_post_hook(lambda o: called.append(("loaded", o))),
        ]
        loop.step()
        swarm.load_state_dict(swarm.state_dict())
        assert [name for name, _ in called] == ["pre", "post", "state", "stated", "load", "loaded"]
        assert all(optimizer is swarm for _, optimizer in called)
        for each in removable:
            each.remove()
        loop.step()
        assert len(called) == 6
    beside.end()


def test_its_state_is_that_of_the_optimizer_and_goes_either_way(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    loop = Loop(home, torch.optim.Adam, every=5)
    with loop.swarm as swarm:
        for _ in range(3):
            loop.step()
        kept = copy.deepcopy(swarm.state_dict())
        plain = torch.optim.Adam(nn.Linear(3, 2).parameters())
        plain.load_state_dict(copy.deepcopy(kept))
        assert plain.state_dict()["state"][0]["step"] == 3
        loop.step()
        swarm.load_state_dict(copy.deepcopy(kept))
        # Three of five steps were taken when it was saved.
        loop.step()
        assert swarm.rounds == 0
        loop.step()
        assert swarm.rounds == 1
        swarm.load_state_dict(plain.state_dict())
        assert swarm.state[loop.model.weight]["step"] == 3
    beside.end()


@pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, pickle.dumps])
def test_it_cannot_be_copied_and_says_what_can(
    make: Callable[[Any], Any], daemon: FakeDaemon, home: Path
) -> None:
    beside = Beside(daemon)
    loop = Loop(home)
    with loop.swarm as swarm:
        with pytest.raises(NotCopied, match="copy its .optimizer, or save its state_dict"):
            make(swarm)
        make(swarm.optimizer)
    beside.end()
    make(loop.inner)


def test_with_accelerate_an_accumulated_step_is_one(daemon: FakeDaemon, home: Path) -> None:
    """In either order: the swarm around what accelerate prepared, and within it."""
    accelerate = pytest.importorskip("accelerate")
    for is_outside in (True, False):
        beside = Beside(daemon)
        accelerator = accelerate.Accelerator(gradient_accumulation_steps=4, cpu=True)
        model = nn.Linear(3, 2)
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        if is_outside:
            model, optimizer = accelerator.prepare(model, optimizer)
        swarm = shoal.SwarmOptimizer(optimizer, model, every=2, method="fedavg", home=home)
        stepped = swarm if is_outside else accelerator.prepare(swarm)
        for _ in range(16):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.randn(4, 3)).mean())
                stepped.step()
                stepped.zero_grad()
        assert swarm.steps_taken == 4
        swarm.close()
        assert [message.steps for message in beside.finished()] == [2, 2]


def test_groups_that_are_added_are_trained_and_must_be_the_models(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    loop = Loop(home, lambda _, lr: torch.optim.SGD(model[0].parameters(), lr=lr), model=model)
    with loop.swarm as swarm:
        swarm.add_param_group({"params": model[1].parameters(), "lr": 0.01})
        assert len(loop.inner.param_groups) == 2
        with pytest.raises(BadTask, match=r"place 0 of group 0, of shape \[7\]"):
            swarm.add_param_group({"params": nn.Parameter(torch.zeros(7))})
        assert swarm.defaults is loop.inner.defaults
        assert swarm.state is loop.inner.state
        assert "SGD" in repr(swarm)
    beside.end()


def test_an_optimizer_that_trains_what_is_not_in_the_model_is_refused(home: Path) -> None:
    criterion = nn.Linear(2, 1)
    with pytest.raises(BadTask, match=r"place 2 of group 0, of shape \[1, 2\].*nn.ModuleList"):
        Loop(home, lambda params, lr: torch.optim.SGD([*params, *criterion.parameters()], lr=lr))


@pytest.mark.parametrize("weight", [float("nan"), -1, 1e38, float("inf"), "many", None])
def test_a_weight_that_peers_would_not_take_is_refused_in_a_sentence(weight: Any, home: Path) -> None:
    with pytest.raises(BadOption, match=r"weight = .*: give a number from 0 to 1e\+15"):
        Loop(home, weight=weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "x" * 201}, "name"),
        ({"task": "x" * 201}, "task"),
        ({"quorum": 65}, "quorum"),
        ({"rounds": -1}, "rounds = -1: expected"),
        ({"options": {"lr": 10**30}}, "lr"),
    ],
)
def test_what_no_node_would_take_is_refused_before_the_start(
    options: dict[str, Any], words: str, home: Path
) -> None:
    with pytest.raises(BadOption, match=words):
        Loop(home, **options)


def test_rounds_end_the_run(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    with Loop(home, rounds=7).swarm:
        pass
    beside.end()
    assert beside.trainer is not None
    assert beside.trainer.attach.spec.rounds == 7


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["bare", "compiled"])
def test_the_model_is_saved_as_it_is_now(
    wrap: Callable[[Any], Any], daemon: FakeDaemon, home: Path, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(4, 300), nn.BatchNorm1d(300))
    beside = Beside(daemon)
    with shoal.Swarm(wrap(model), every=2, method="fedavg", home=home) as swarm:
        with torch.no_grad():
            model[0].weight.fill_(3)
        model[1].num_batches_tracked.fill_(9)
        swarm.save_model(tmp_path / "mine.safetensors")
        swarm.save_model(str(tmp_path / "small"), values=4)
        with pytest.raises(NoModel, match="exists; choose another name"):
            swarm.save_model(tmp_path / "small")
    beside.end()
    found = shoal.load_model(tmp_path / "mine.safetensors")
    assert {name: each.tolist() for name, each in found.items()} == {
        name: each.tolist() for name, each in model.state_dict().items()
    }
    assert torch.equal(shoal.load_model(tmp_path / "small")["0.weight"], model[0].weight)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "mine.safetensors").stat().st_size / 2


def test_numbers_that_are_none_are_absent_and_said_once(
    daemon: FakeDaemon, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Beside(daemon)
    loop = Loop(home)
    with loop.swarm as swarm, caplog.at_level(logging.WARNING):
        for _ in range(4):
            swarm.report(
                loss=torch.tensor(1.0, requires_grad=True), f1=float("nan"), note=torch.ones(2), good=1
            )
            loop.step()
        swarm.report(f1=0.5, note=1)
        loop.step()
        loop.step()
    heard = beside.end()
    finished = [message for message in heard if isinstance(message, ipc.Finished)]
    assert [message.metrics for message in finished] == [
        {"good": 1},
        {"good": 1},
        {"good": 1, "f1": 0.5, "note": 1},
    ]
    assert finished[0].loss == 1
    problems = [message.text for message in heard if isinstance(message, ipc.Problem)]
    assert problems[1:] == [""]
    assert problems[0].startswith("f1 = nan was reported, which is no finite number; note = tensor")
    assert caplog.text.count("f1 = nan") == 1


def test_a_model_that_is_no_longer_finite_is_not_averaged_and_that_is_said(
    daemon: FakeDaemon, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for delay in (0, 1):
        beside = Beside(daemon)
        loop = Loop(home, delay=delay)
        with loop.swarm, caplog.at_level(logging.WARNING):
            with torch.no_grad():
                loop.model.bias[0] = float("nan")
            for _ in range(4):
                loop.step()
        heard = beside.end()
        assert not [message for message in heard if isinstance(message, ipc.AskAllReduce)]
        (problem,) = [message for message in heard if isinstance(message, ipc.Problem)]
        assert "bias is no longer finite" in problem.text or "weight is no longer finite" in problem.text
    assert caplog.text.count("is no longer finite") == 2


def test_a_model_that_changes_after_the_start_is_no_secret(daemon: FakeDaemon, home: Path) -> None:
    beside = Beside(daemon)
    loop = Loop(home)
    loop.step()
    loop.model.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(BadTask, match="the model has changed since the start: extra is new"):
        loop.step()
    loop.swarm.close()
    beside.end()


def test_integer_buffers_come_back_with_the_state_on_disk(daemon: FakeDaemon, home: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    beside = Beside(daemon)
    loop = Loop(home, model=model())
    for _ in range(4):
        loop.step()
    loop.swarm.close()
    beside.end()
    assert beside.trainer is not None
    state = beside.trainer.vector.copy()

    def again() -> None:
        daemon.attach(restored=state, round_=2).begin()

    serving = in_thread(again)
    loop = Loop(home, model=model())
    serving.join()
    assert loop.model[1].num_batches_tracked.item() == 4
    loop.swarm.close()


def personal() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_a_head_of_ones_own_never_travels_and_comes_back_with_the_state_on_disk(
    daemon: FakeDaemon, home: Path
) -> None:
    beside = Beside(daemon)
    loop = Loop(home, model=personal(), own=("1.weight", "1.bias"))
    before = loop.model[1].weight.detach().clone()
    for _ in range(4):
        loop.step()
    head = loop.model[1].weight.detach().clone()
    loop.step()  # of a round that is not over
    loop.swarm.close()
    asked = [message.numel for message in beside.end() if isinstance(message, ipc.AskAllReduce)]
    assert set(asked) == {16}
    assert not torch.equal(head, before)
    assert beside.trainer is not None
    state = beside.trainer.vector.copy()
    serving = in_thread(lambda: daemon.attach(restored=state, round_=2).begin())
    loop = Loop(home, model=personal(), own=("1.weight", "1.bias"))
    serving.join()
    assert torch.equal(loop.model[1].weight, head)
    loop.swarm.close()
    with pytest.raises(BadTask, match="own names 2.weight, which is no tensor"):
        Loop(home, model=personal(), own={"2.weight"})


def test_what_a_head_learned_is_in_vain_where_the_swarm_takes_the_round_from_it(
    daemon: FakeDaemon, home: Path
) -> None:
    heads: list[torch.Tensor] = []
    is_told = threading.Event()

    def serve() -> None:
        one = daemon.attach()
        one.begin()
        while (message := one.receive()) is not None:
            if isinstance(message, ipc.AskAllReduce):
                one.send(ipc.Averaged(contributors=("me",)))
            elif isinstance(message, ipc.Finished):
                one.slot, one.round = message.slot, one.round + 1
                one.begin()
                one.segment.flags[ipc.INTERRUPT] = 1
                is_told.set()
            elif isinstance(message, ipc.Idle):
                one.segment.flags[ipc.INTERRUPT] = 0
                one.round += 3
                one.begin()

    serving = in_thread(serve)
    loop = Loop(home, model=personal(), own=("1.weight", "1.bias"))
    for _ in range(3):
        loop.step()
        heads.append(loop.model[1].weight.detach().clone())
        assert len(heads) != 2 or is_told.wait(60)
    assert loop.swarm.rounds == 4
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(heads[2], heads[1])
    loop.swarm.close()
    serving.join()


def test_a_half_precision_model_shares_a_run_with_a_full_one(daemon: FakeDaemon, home: Path) -> None:
    specs = []
    for dtype in (torch.float32, torch.bfloat16):
        beside = Beside(daemon)
        loop = Loop(home, model=nn.Linear(3, 2).to(dtype), lr=0.0)
        loop.x = loop.x.to(dtype)
        loop.step()
        loop.step()
        loop.swarm.close()
        beside.end()
        assert beside.trainer is not None
        specs.append(beside.trainer.attach.spec)
        # Nothing was learned, so nothing is new.
        assert np.array_equal(beside.trainer.segment.slots[0], beside.trainer.segment.slots[1])
    assert specs[0] == specs[1]


def test_a_frozen_base_is_in_the_name_of_the_run_and_in_no_vector(home: Path, daemon: FakeDaemon) -> None:
    model = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2))
    beside = Beside(daemon)
    loop = Loop(home, model=model)
    base = model[0].weight.clone()
    for _ in range(4):
        loop.step()
    loop.swarm.close()
    asked = [message.numel for message in beside.end() if isinstance(message, ipc.AskAllReduce)]
    assert set(asked) == {8}
    spec = loop.swarm.swarm._spec
    assert [each.name for each in spec.tensors] == ["1.weight", "1.bias"]
    assert [each.name for each in spec.pinned] == ["0.bias", "0.weight"]
    assert len(spec.pinned_hash) == 32
    assert torch.equal(model[0].weight, base)
    with pytest.raises(BadTask, match="travels= leaves it out"):
        Loop(home, model=nn.Linear(3, 2), travels={"weight"})


def attached_by(home: Path, **said: Any) -> tuple[RunSpec, list[str]]:
    """Return the run that a loop attaches with, and the arguments of the node that it would start."""
    (home / "run").mkdir(parents=True)
    daemon = FakeDaemon(home / "run" / "trainer.sock")
    beside = Beside(daemon)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with shoal.SwarmOptimizer(optimizer, model, every=2, home=home, **said) as swarm:
        options = swarm.swarm._node._arguments
    beside.end()
    daemon.close()
    assert beside.trainer is not None
    return beside.trainer.attach.spec, options


def test_an_invite_is_all_that_a_loop_of_ones_own_is_given_to_join_a_run(tmp_path: Path) -> None:
    world = World(founders=("ann",), threshold=1)
    spec, _ = attached_by(tmp_path / "member", method="diloco", rounds=7, charter=str(world.charter))
    # What `shoal invite` prints, for anybody who has the word.
    token = invite_of(spec, run_id(spec), "den", public("member"), ["/ip4/20.0.0.1/tcp/4710"])
    chain = (world.grant("member", "bearer"),)
    word = msgspec.structs.replace(token, chain=chain, seed=bytes(key("bearer"))).text()
    joined, options = attached_by(tmp_path / "newcomer", invite=word)
    assert joined == spec
    # The node that is started beside the loop joins by the same word: where to, and by what.
    assert options[options.index("--invite") + 1] == word
    config, _ = load(tmp_path / "newcomer", {"invite": word}, {})
    assert config.network.swarm == "den"
    assert config.join[0].startswith("/ip4/20.0.0.1/tcp/4710")
    roster = world.roster()
    roster.add(world.edict("admit", "member", by=("ann",)))
    redeem = token_of(word).redeem(key("newcomer"), NOW)
    assert redeem is not None
    assert roster.add_redeem(redeem)
    assert roster.is_member(peer("newcomer"), NOW)
