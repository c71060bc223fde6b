"""SwarmOptimizer: a user's own PyTorch loop takes part in a swarm, by three changed lines.

    import shoal
    with shoal.SwarmOptimizer(optimizer, model, every=50) as optimizer:
        for x, y in batches:
            ...
            optimizer.step()            # every 50th of these averages the model with the swarm's

The user's process is the trainer; the daemon runs beside it and holds the network. The local work is the
loop's own, so only the exchange of the method runs here (`OuterMethod.outer`). Where the swarm is ahead,
or a newcomer joins, the model takes over the swarm's state. Where a round fails, the model keeps what it
has learned and asks again after the next steps. Where the node is gone, training goes on alone.

With ``delay=1`` a step that is due to average only sends the model on its way, and later ones take the mean
in when it has come: the loop waits for peers only where a mean takes longer than the next `every` steps.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from os import PathLike, environ
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import msgspec
import torch
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.errors import GossipError
from shoal.gossip.events import Vector
from shoal.gossip.membership.company import Policy
from shoal.gossip.messages import MAX_WEIGHT
from shoal.gossip.run_spec import RunSettings, Scalar, usual_combine
from shoal.methods.base import OuterMethod, Report, State
from shoal.methods.errors import BadOption, BadTask, Interrupted
from shoal.methods.learning.learner import as_number
from shoal.methods.learning.model_tensors import ModelVector
from shoal.methods.learning.parts import Travels, check_frozen, part_of_own, pinned_of, staying
from shoal.methods.options import build_config
from shoal.methods.overlap import Moved
from shoal.methods.params import shared_specs, views
from shoal.methods.registry import all_options, config_class, load_method, method_class, method_names
from shoal.node.config.preflight import check_run
from shoal.node.errors import UserError
from shoal.node.optimizer.background_node import Node
from shoal.node.optimizer.ranks import Ranks
from shoal.node.optimizer.wrapped import WrappedOptimizer
from shoal.node.storage.home import default_home
from shoal.node.trainer import ipc
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, RunOver, Session
from shoal.node.trainer.spec import run_spec, settings_of, token_settings
from shoal.node.trainer.unshared_file import UnsharedFile

log = logging.getLogger(__name__)

SAY_EVERY: Final = 60.0
"""Seconds between two words about a step that waits for company."""
_STATE: Final = "shoal"
"""Our place in the state of the optimizer."""
_OWN: Final[dict[str, Any]] = {"method": "diloco", "task": "own"}
"""What a run of one's own loop has unless told otherwise."""


class SwarmOptimizer(WrappedOptimizer):
    """A torch optimizer whose every H-th step averages the model in the swarm. Also a context manager."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        every: int = 50,
        travels: Travels = "trained",
        own: Collection[str] = (),
        home: str | PathLike[str] | None = None,
        join: Sequence[str] = (),
        weight: float = 1.0,
        alone: Policy = "wait-for-lost",
        node_options: Sequence[str] = (),
        invite: str = "",
        settings: RunSettings | None = None,
        **changes: Any,
    ) -> None:
        """Attach to the node in `home`, or start one that joins `join`; the model may change right here.

        `every`: local steps per round (H). `weight`: how much this peer counts, such as its examples.
        `travels`: what of the model travels: what is ``trained``, ``all``, a set of names of tensors, or a
        function of a name and a tensor. The rest must be frozen, and the same on all peers.
        `own`: names of tensors that are trained here and never travel, such as a head of one's own labels.
        `settings`: what the peers of the run agree on (gossip/run_spec.py); each of its fields is an argument
        too, such as ``method="diloco"``, ``options={"outer_lr": 0.7}``, ``rounds=100``, ``delay=1`` or
        ``codec="int8"``.
        `alone`: when none of those that trained with this process is there any more: ``wait`` for them and
        keep what they agreed on, ``wait-for-lost`` unless all of them have closed, or ``go-on``.
        `invite`: a word that ``shoal invite`` printed: it says the run, whom to dial, and by what this node
        may take part. Arguments given beside it come before what it says.
        `node_options`: further arguments of ``shoal start``, used only if no node runs in `home`.

        Under torchrun all ranks make one; rank 0 speaks with the node, and the others take over what it has.

        Raises:
            BadOption: the method's exchange makes no sense after a loop of one's own, or an option is bad.
            BadTask: something is trained that cannot travel or is not to; the message names it.
            BadConfig: codec, exchange, quorum and method do not fit each other.
            MethodNotFound: no such method.
            NoRanks: there are other ranks that cannot be reached, or rank 0 has failed.
            UserError: the node does not start, or has a trainer already; or the invite is none.
        """
        super().__init__(optimizer)
        self.model = model
        self.every = every
        self.rounds = 0
        """How many rounds the swarm has behind it."""
        self.is_finished = False
        """Whether the run is over; steps go on without the swarm."""
        said = token_settings(invite) if invite else _OWN
        chosen: dict[str, Any] = (settings_of(settings) if settings is not None else said) | changes
        run = build_config(RunSettings, chosen, "SwarmOptimizer")
        if "combine" not in chosen and not invite:
            run = msgspec.structs.replace(run, combine=usual_combine(run))
        self._method = _load(run.method, dict(run.options), every)
        self._weight = checked_weight(weight)
        check_run(run, self._method)
        stays = staying(model, travels, part_of_own(model, own))
        check_frozen(model, stays)
        self._vector = ModelVector(model, stays)
        check_groups(optimizer.param_groups, model)
        self._base = self._initial()
        self._spec = run_spec(
            run,
            all_options(self._method),
            self._vector.manifest,
            shared_specs(self._base),
            self._vector.buffers,
            *pinned_of(model, stays),
        )
        self._ranks = Ranks(self._vector)
        self._steps = self._seen_steps = 0
        self._metrics: dict[str, float] = {}
        self._unmeasured: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._session: Session | None = None
        self._begin: ipc.Begin | None = None
        self._overlap: Overlap | None = None
        """The rounds, if one may be on its way while the loop goes on."""
        self._worked_from = 0.0
        self._moved = False
        """Whether this step has put other numbers into the model."""
        self._say_alone_at = 0.0
        self._node = Node(
            Path(home) if home is not None else default_home(environ),
            join,
            ("--alone", alone, *(("--invite", invite) if invite else ()), *node_options),
        )
        self._unshared = UnsharedFile(self._node.home.state_dir, self._spec, model, stays)
        self._in_step(self._first_attach)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the wrapped optimizer; when it is time, average with the swarm.

        Raises:
            BadTask: the model has other tensors than at the start.
            NoRanks: rank 0 has failed.
        """
        loss = super().step(closure)
        if loss is not None:
            self.report(loss=loss)
        taken, self._seen_steps = self.steps_taken - self._seen_steps, self.steps_taken
        # Where nothing was stepped, gradients are still gathered, or were not finite.
        if taken:
            self._steps += taken
            self._in_step(self._after_step)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimizer, and how many steps were taken since the last round."""
        return {**super().state_dict(), _STATE: {"steps": self._steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned here, or that of the wrapped optimizer."""
        rest = dict(state_dict)
        ours = rest.pop(_STATE, {})
        super().load_state_dict(rest)
        self._steps = min(int(ours.get("steps", self._steps)), self.every)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`.

        Raises:
            BadTask: a tensor in it is no parameter of the model, so it would never travel.
        """
        given = param_group["params"]
        listed = [given] if isinstance(given, torch.Tensor) else list(given)
        check_groups([{"params": listed}], self.model)
        super().add_param_group({**param_group, "params": listed})

    def report(self, **metrics: float) -> None:
        """Say what the status page shows of the next round, such as ``loss`` and ``accuracy``.

        What is no finite number is left out, and said once.
        """
        for name, value in metrics.items():
            number = as_number(value)
            if number is None:
                self._unmeasured[name] = f"{name} = {str(value)[:80]} was reported, which is no finite number"
                self._metrics.pop(name, None)
            else:
                self._metrics[name] = number

    def close(self) -> None:
        """Leave the swarm; stop the node if it was started here."""
        self._let_go()
        self._detach()
        self._node.stop()

    def __enter__(self) -> "SwarmOptimizer":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _in_step(self, work: Callable[[], None]) -> None:
        """Do what a step leads to, and let all ranks know; those that do not speak take it over."""
        if not self._ranks.is_speaker:
            self.rounds, self.is_finished = self._ranks.hear()
            return
        self._moved = False
        try:
            work()
        except BaseException:
            self._ranks.tell(moved=False, rounds=self.rounds, is_finished=self.is_finished, failed=True)
            raise
        self._ranks.tell(moved=self._moved, rounds=self.rounds, is_finished=self.is_finished)

    def _first_attach(self) -> None:
        try:
            self._attach()
        except LineLost as error:
            self.close()
            raise UserError(f"{error}; give this process a home of its own, or see node.log in it") from None
        except BaseException:
            self.close()
            raise

    def _initial(self) -> State:
        return replace(self._method.init(self._vector.read()), buffers=self._vector.buffers)

    def _after_step(self) -> None:
        try:
            self._take_turn()
        except LineLost as error:
            log.warning("%s: training on alone until it is back", error)
            self._detach()
            self._steps = 0

    def _take_turn(self) -> None:
        session = self._session
        is_time = self._steps >= self.every
        if session is not None:
            session.work_seconds += time.monotonic() - self._worked_from
        if session is None:
            if is_time and not self.is_finished:
                self._try_again()
        elif self._overlap is not None:
            self._go_on(session, self._overlap, is_time=is_time)
        elif session.is_interrupted():
            assert self._begin is not None
            session.idle(self._begin, "interrupted")
            self._next_round(session, self._base, in_vain=True)
        elif is_time or session.is_hurried():
            self._agree(session)
        self._worked_from = time.monotonic()

    def _go_on(self, session: Session, overlap: Overlap, *, is_time: bool) -> None:
        """Take in what has come; when it is time, send on its way what was learned since."""
        try:
            if session.is_interrupted():
                raise Interrupted
            self._move(overlap.poll())
            if is_time or overlap.is_hurried():
                self._move(overlap.settle())
                trained = self._vector.read()
                if self._is_sane(trained):
                    report = self._report(())
                    overlap.contribute(trained, self._weight, report, self._base.private)
                self._steps = 0
        except Interrupted:
            # What was learned since the last state is in vain, in what stays as in what travels.
            self._unshared.put_back()
            self._take_over(overlap.restart())
        except RunOver:
            self._end(overlap.agreed)
        self.rounds = overlap.round

    def _move(self, moved: Moved | None) -> None:
        if moved is not None:
            self._vector.move(moved)
            self._moved = True

    def _take_over(self, state: State) -> None:
        self._write(state)
        self._base, self._steps = state, 0

    def _end(self, state: State) -> None:
        self._write(state)
        self.is_finished = True
        self._detach()

    def _write(self, state: State) -> None:
        self._vector.write(state.params)
        self._moved = True

    def _is_sane(self, trained: Vector) -> bool:
        """Tell whether peers would take these numbers; if not, say so."""
        if is_sane(trained):
            self._problem("model", "")
            return True
        parts = views(trained, self._spec.tensors).items()
        bad = next((name for name, part in parts if not is_sane(part.reshape(-1))), "it")
        self._problem(
            "model",
            f"the model is not averaged: {bad} is no longer finite, or absurdly large;"
            " lower the learning rate, or load an earlier checkpoint",
        )
        return False

    def _problem(self, source: str, text: str) -> None:
        """Say once what a person should see to, here and on the node's page; an empty text ends it."""
        if self._problems.get(source, "") == text:
            return
        self._problems[source] = text
        if text:
            log.warning("%s", text)
        if self._session is not None:
            self._session.problem(source, text)

    def _report(self, contributors: tuple[PeerId, ...]) -> Report:
        self._problem("metrics", "; ".join(self._unmeasured.values())[:2000])
        self._unmeasured = {}
        metrics = dict(self._metrics)
        loss = metrics.pop("loss", float("nan"))
        return Report(loss, int(self._weight), self._steps, contributors, metrics)

    def _agree(self, session: Session) -> None:
        assert self._begin is not None
        trained = self._vector.read(session.lent)
        if not self._is_sane(trained):
            session.idle(self._begin, self._problems["model"])
            self._next_round(session, self._base, in_vain=True)
            return
        in_vain = False
        try:
            steps = self._method.outer(self._base, trained, self._weight)
            state, contributors = session.answer(self._begin, steps)
        except GossipError as error:
            state, in_vain = self._base, True
            session.idle(self._begin, f"{type(error).__name__}: {error}")
        else:
            session.finish(self._begin, state, self._report(contributors))
        self._next_round(session, state, in_vain=in_vain)

    def _next_round(self, session: Session, last: State, *, in_vain: bool = False) -> None:
        """Wait for the next round; take over its state unless it is the one that we went on from.

        `in_vain`: the round before came to nothing.
        """
        begin = session.wait_begin()
        self._steps = 0
        if begin is None:
            self._end(last)
            return
        state = session.state(begin)
        if begin != self._begin:
            if in_vain:
                self._unshared.put_back()
            self._write(state)
        self._begin, self._base, self.rounds = begin, state, begin.round

    def _attach(self) -> None:
        initial = self._initial()
        line = self._node.connect()
        try:
            session = Session(line, self._spec, self._method, initial, own=self._unshared)
        except LineLost:
            line.close()
            raise
        session.on_alone = self._say_alone
        self._session, self._begin = session, None
        for source, text in self._problems.items():
            session.problem(source, text)
        if self._spec.delay:
            self._attach_overlap(session, initial)
        else:
            self._next_round(session, initial)
        self._worked_from = time.monotonic()

    def _attach_overlap(self, session: Session, initial: State) -> None:
        try:
            overlap = self._overlap = Overlap(session, self._method, lambda state, report: report)
        except RunOver:
            self._end(initial)
            return
        self._take_over(overlap.agreed)
        self.rounds = overlap.round

    def _say_alone(self) -> None:
        if time.monotonic() >= self._say_alone_at:
            self._say_alone_at = time.monotonic() + SAY_EVERY
            log.warning(
                "round %d waits for company: none of those that trained with this process is linked; to train"
                ' on without them give SwarmOptimizer alone="go-on"',
                self.rounds,
            )

    def _try_again(self) -> None:
        try:
            self._attach()
        except UserError as error:
            log.warning("%s: training on alone", error)
            self._steps = 0

    def _detach(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._begin = self._overlap = None


def _load(name: str, options: dict[str, Scalar], every: int) -> OuterMethod:
    """Load a method whose exchange can follow any loop, and tell it the number of local steps."""
    if not getattr(method_class(name), "follows_any_loop", False):
        fit = [n for n in method_names() if getattr(method_class(n), "follows_any_loop", False)]
        raise BadOption(f"{name} needs local work of its own; for your own loop choose {' or '.join(fit)}")
    if every < 1:
        raise BadOption(f"every = {every}: average after 1 step or more")
    if "steps" in config_class(name).__struct_fields__:
        options["steps"] = every
    return cast(OuterMethod, load_method(name, options))


def checked_weight(weight: float) -> float:
    """Return a weight that peers will take.

    Raises:
        BadOption: they would not.
    """
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    # Not a number is in no range.
    if not 0 <= number <= MAX_WEIGHT:
        raise BadOption(
            f"weight = {weight}: give a number from 0 to {MAX_WEIGHT:g}, such as how many examples this"
            " process has"
        )
    return number


def check_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> None:
    """Refuse an optimizer that trains what is no part of the model, and so would never travel.

    Raises:
        BadTask: names the tensor by its place.
    """
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for number, group in enumerate(groups):
        for place, tensor in enumerate(group["params"]):
            if id(tensor) not in known and tensor.requires_grad:
                raise BadTask(
                    f"the optimizer trains a tensor that is none of the model's and would not travel: place"
                    f" {place} of group {number}, of shape {list(tensor.shape)}; give SwarmOptimizer a model"
                    " that holds all of them, such as nn.ModuleList([model, criterion])"
                )
