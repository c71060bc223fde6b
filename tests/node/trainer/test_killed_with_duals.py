"""A node that is killed anywhere in a round goes on with the duals and own parts of the state that it has.

Here are a node's real rounds, session and files, in one thread: the line between daemon and trainer is a
queue, and two peers stand for the swarm. An effect is a message on that line, what leaves for the swarm, and
every file that is made, renamed or removed. A life ends before one of them, and nothing of it is done after.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lockstep import mean, names
from torch import nn
from toy_learner import ToyLearner

from shoal.crypto.keys import PeerId
from shoal.gossip.group import Exchanged
from shoal.gossip.member import commands
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.base import AllReduce, Array, Here, Me, Method, State
from shoal.methods.feddyn import FedDyn, FedDynConfig
from shoal.methods.fedspeed import FedSpeed, FedSpeedConfig
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.params import shared_specs, write_state
from shoal.methods.scaffold import Scaffold, ScaffoldConfig
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.failpoints import Failpoint
from shoal.node.framing import Message
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.trainer import ipc
from shoal.node.trainer.session import Session, private_rounds
from shoal.node.trainer.unshared_file import UnsharedFile

START = np.array([0.5, -1.0], np.float32)
US, *OTHERS = names(3)
ROUNDS = 6
METHODS: dict[str, Method] = {
    "fedspeed": FedSpeed(FedSpeedConfig(steps=3, lr=0.1, lam=0.5)),
    "feddyn": FedDyn(FedDynConfig(steps=3, lr=0.1, alpha=0.5)),
    "scaffold": Scaffold(ScaffoldConfig(steps=3, lr=0.1)),
}
LEARNERS = {US: ([4.0, 1.0], 3), OTHERS[0]: ([0.3, -2.0], 2), OTHERS[1]: ([-1.0, 0.7], 5)}
Key = tuple[int, bytes]


def learner_of(peer: PeerId) -> ToyLearner:
    target, examples = LEARNERS[peer]
    return ToyLearner(target, examples)


def spec_of(name: str) -> RunSpec:
    initial = METHODS[name].init(START)
    tensors = (TensorSpec("w", "float32", START.shape),)
    return RunSpec(method=name, task="toy", tensors=tensors, shared=shared_specs(initial))


class Killed(BaseException):
    """The node is no more."""


class Life:
    """Counts a node's effects, and ends before one of them."""

    def __init__(self, folder: Path, dies_before: int | None = None) -> None:
        self._folder, self._dies_before = str(folder), dies_before
        self.effects: list[str] = []
        self.is_over = False

    def effect(self, name: str) -> None:
        if self.is_over or len(self.effects) == self._dies_before:
            self.is_over = True
            raise Killed(name)
        self.effects.append(name)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove") or not str(args[0]).startswith(self._folder):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        # Renamed to: what is in place from now on.
        self.effect(f"{event} {Path(str(args[1] if event == 'os.rename' else args[0])).name}")


_LIVES: list[Life] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _LIVES:
        _LIVES[-1].audit(event, args)


sys.addaudithook(_audit)  # It cannot be taken away, but looks only while a life is watched.


@contextmanager
def watched(life: Life) -> Iterator[None]:
    _LIVES.append(life)
    try:
        yield
    finally:
        _LIVES.pop()


class Swarm:
    """Two peers who wait for the node, or go on without it."""

    def __init__(self, name: str) -> None:
        self._method, self.spec = METHODS[name], spec_of(name)
        initial = self._method.init(START.copy())
        self._states = dict.fromkeys(OTHERS, initial)
        self._learners = {peer: learner_of(peer) for peer in OTHERS}
        self._running: dict[PeerId, Any] = {}
        self._asks: dict[PeerId, AllReduce] = {}
        self.vectors = [self._vector(initial)]
        """The shared state before each round."""

    @property
    def round(self) -> int:
        return len(self.vectors) - 1

    def key(self, round_: int) -> Key:
        return round_, state_hash(self.vectors[round_].data)

    def answer(self, ours: AllReduce | None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Answer an ask of all who are there; the round may end with it."""
        if not self._running:
            for peer in OTHERS:
                self._running[peer] = self._method.round(self._states[peer], self._learners[peer], self.round)
                self._go_on(peer, None)
        asks = dict(self._asks) | ({US: ours} if ours is not None else {})
        averaged = mean(asks)
        for peer in OTHERS:
            self._go_on(peer, averaged)
        if not self._running:
            assert len({state.params.tobytes() for state in self._states.values()}) == 1
            self.vectors.append(self._vector(self._states[OTHERS[0]]))
        return averaged.vector

    def end_round(self) -> None:
        """Go on without the node, to the end of a round that it is no longer in."""
        while self._running:
            self.answer(None)

    def _go_on(self, peer: PeerId, given: Any) -> None:
        try:
            ask = self._running[peer].send(given)
            while isinstance(ask, Here):
                ask = self._running[peer].send(Me(peer, self.round))
            self._asks[peer] = ask
        except StopIteration as end:
            self._states[peer] = end.value[0]
            del self._running[peer]

    def _vector(self, state: State) -> np.ndarray[Any, np.dtype[np.float32]]:
        vector = np.empty(self.spec.state_numel, np.float32)
        write_state(state, vector)
        return vector


class Around(Surroundings):
    """What the rounds of a line do to their node."""

    def __init__(self, line: "Line") -> None:
        self._line = line

    def command(self, event: Any) -> None:
        self._line.commands.append(event)

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        self._line.save(checkpoint, spec)


class Line:
    """Daemon and trainer in one thread; see the module's docstring."""

    def __init__(self, folder: Path, swarm: Swarm, life: Life, lag: int) -> None:
        self._swarm, self._life = swarm, life
        self._inbox: deque[Message] = deque()
        self.commands: deque[Any] = deque()
        self._unsaved: deque[Checkpoint] = deque()
        self._lag, self._folder = lag, folder
        self._rounds = Rounds(US, folder, Failpoint(""), Around(self))

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        self._life.effect(f"trainer: {type(message).__name__}")
        if isinstance(message, ipc.Attach):
            segment = ipc.Segment.attach(fds[0], message.spec.state_numel, message.exchange_numel)
            self._rounds.attached(message, segment, self._reply)
        else:
            self._rounds.from_trainer(message)
        self._obey()

    def receive(self) -> Message:
        if not self._inbox:
            # The trainer stands still, and the swarm is elsewhere.
            round_, state = self._swarm.key(self._swarm.round)
            previous = self._swarm.key(round_ - 1)[1]
            vector = self._swarm.vectors[round_].copy()
            self._rounds.notice(commands.Synced(round_, state, previous, vector))
            self._obey()
        return self._inbox.popleft()

    def has_word(self, within: float = 0.0) -> bool:
        return bool(self._inbox)

    def close(self) -> None:
        self._inbox.clear()

    def _reply(self, message: Message) -> None:
        self._life.effect(f"node: {type(message).__name__}")
        self._inbox.append(message)

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        """A disk that is `lag` states behind."""
        self._unsaved.append(replace(checkpoint, vector=checkpoint.vector.copy()))
        if len(self._unsaved) > self._lag:
            oldest = self._unsaved.popleft()
            save(self._folder, oldest, shared=[(tensor.name, tensor.numel) for tensor in spec.shared])

    def _obey(self) -> None:
        while self.commands:
            match self.commands.popleft():
                case commands.Contribute() as ask:
                    self._life.effect("to the swarm: contribution")
                    ours = AllReduce(ask.vector.copy(), ask.weight, "")
                    ask.vector[:] = self._swarm.answer(ours)
                    exchanged = Exchanged((), (US, *OTHERS), 0)
                    self._rounds.notice(commands.Averaged(self._rounds.round, ask.index, exchanged, 0.0, 0.0))
                case commands.NewState(round=round_, state=state):
                    self._life.effect("to the swarm: new state")
                    if (round_, state) != self._swarm.key(self._swarm.round):
                        self._rounds.notice(commands.Behind(self._swarm.round))


class Used:
    """What a round began with."""

    def __init__(self, key: Key, private: dict[str, Array], away: int, own: float) -> None:
        self.key, self.private, self.away, self.own = key, private, away, own


class Headed(nn.Module):  # type: ignore[misc]
    """A model of which one number is the node's own."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.trunk = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))


def live(name: str, folder: Path, swarm: Swarm, life: Life, lag: int, made: dict[Key, Any]) -> list[Used]:
    """Run rounds until the node is killed or the run is over; returns with what each began."""
    method, learner, spec = METHODS[name], learner_of(US), swarm.spec
    initial = method.init(START.copy())
    used: list[Used] = []
    with watched(life):
        try:
            line: Any = Line(folder, swarm, life, lag)
            model = Headed()
            own = UnsharedFile(folder, spec, model, Staying(own={"head": "head"}))
            private = private_rounds(method, initial, spec, folder)
            session = Session(line, spec, method, initial, private, own=own)
            while True:
                begin = session.wait_begin()
                assert begin is not None
                if session.is_interrupted():
                    own.put_back()
                    session.idle(begin, "interrupted")
                    continue
                state = session.state(begin)
                key = begin.round, state_hash(np.concatenate([state.params, *state.shared.values()]).data)
                used.append(Used(key, dict(state.private), session.here(begin).away, model.head.item()))
                if begin.round == ROUNDS:
                    return used
                after, report = session.answer(begin, method.round(state, learner, begin.round))
                vector = np.concatenate([after.params, *after.shared.values()])
                with torch.no_grad():
                    model.head.copy_(model.head / 2 + float(after.params[0]) + begin.round)
                key = begin.round + 1, state_hash(vector.data)
                made[key] = dict(after.private), model.head.item()
                session.finish(begin, after, report)
        except Killed:
            return used


def equal(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def check(used: list[Used], swarm: Swarm, made: dict[Key, Any]) -> None:
    """Each round began with what was made with its state, or with an earlier one's and knew since when."""
    for each in used:
        round_, _ = each.key
        assert each.key == swarm.key(round_)
        since = round_ - each.away
        expected, own = made[swarm.key(since)] if since else ({}, 0.0)
        assert equal(each.private, expected), (round_, each.away)
        later = [made[swarm.key(r)][1] for r in range(since + 1, round_ + 1) if swarm.key(r) in made]
        assert each.own in (own, *later), (round_, each.away)


def effects_of_a_round(name: str, folder: Path, lag: int) -> list[tuple[int, str]]:
    """Return the effects of round 2 with their numbers, and see that a life without an end has no fault."""
    folder.mkdir()
    swarm, life, made = Swarm(name), Life(folder), dict[Key, Any]()
    used = live(name, folder, swarm, life, lag, made)
    check(used, swarm, made)
    assert [each.away for each in used] == [0] * (ROUNDS + 1)
    begins = [number for number, effect in enumerate(life.effects) if effect == "node: Begin"]
    # From the ask of round 2 on until round 3 has begun, and what comes with its first ask.
    return list(enumerate(life.effects))[begins[2] + 1 : begins[3] + 4]


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("missed", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_killed_at_every_effect_of_a_round_it_goes_on_with_matching_duals(
    name: str, missed: int, lag: int, tmp_path: Path
) -> None:
    numbered = effects_of_a_round(name, tmp_path / "unbroken", lag)
    assert any("open private-" in effect for _, effect in numbered)
    assert any("os.rename own-" in effect for _, effect in numbered)
    assert any("os.rename private-" in effect and "made" in effect for _, effect in numbered)
    unbroken = Swarm(name)
    live(name, tmp_path / "unbroken", unbroken, Life(tmp_path / "none"), lag, {})
    for number, effect in numbered:
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        swarm, made = Swarm(name), dict[Key, Any]()
        life = Life(folder, number)
        first = live(name, folder, swarm, life, lag, made)
        assert life.is_over, effect
        # The others end the round that it was in; if nothing of it came, they wait for it, or go on.
        swarm.end_round()
        for _ in range(missed):
            swarm.answer(None)
            swarm.end_round()
        second = live(name, folder, swarm, Life(folder), lag, made)
        check([*first, *second], swarm, made)
        assert second[-1].key[0] == ROUNDS
        last = first[-1].key[0]
        is_kept = any(
            each.startswith("os.rename private-") and f"-round{last + 1}-" in each for each in life.effects
        )
        if missed == 0 and (is_kept or second[0].key[0] == last):
            # Nothing is lost: neither what was kept, nor a round of which nothing came.
            assert [each.away for each in second] == [0] * len(second), effect
            assert swarm.vectors[-1].tobytes() == unbroken.vectors[-1].tobytes(), effect
