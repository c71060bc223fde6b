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
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, environ
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import GossipError
from shoal.gossip.membership.company import Policy
from shoal.gossip.run_spec import Scalar
from shoal.methods.base import OuterMethod, Report, State
from shoal.methods.errors import BadOption, Interrupted
from shoal.methods.learning.learner import float_tensors, manifest, move_model, read_model, write_model
from shoal.methods.overlap import Moved
from shoal.methods.params import shared_specs
from shoal.methods.registry import all_options, config_class, load_method, method_class, method_names
from shoal.node.config.preflight import check_run
from shoal.node.errors import UserError
from shoal.node.optimizer.background_node import Node
from shoal.node.storage.home import default_home
from shoal.node.trainer import ipc
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, RunOver, Session
from shoal.node.trainer.spec import TrainerSpec, run_spec

log = logging.getLogger(__name__)

SAY_EVERY: Final = 60.0
"""Seconds between two words about a step that waits for company."""


class SwarmOptimizer:
    """A torch optimizer whose every H-th step averages the model in the swarm. Also a context manager."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        every: int = 50,
        method: str = "diloco",
        options: Mapping[str, Scalar] | None = None,
        home: str | PathLike[str] | None = None,
        join: Sequence[str] = (),
        name: str = "run",
        task: str = "own",
        weight: float = 1.0,
        delay: int = 0,
        codec: str = "float32",
        exchange: Literal["group", "pairwise"] = "group",
        quorum: int = 1,
        alone: Policy = "wait-for-lost",
        node_options: Sequence[str] = (),
    ) -> None:
        """Attach to the node in `home`, or start one that joins `join`; the model may change right here.

        `every`: local steps per round (H). `options`: of the method. `name`, `task`: peers that differ in
        them never average. `weight`: how much this peer counts, such as its number of examples.
        `delay`: 1 to train on while a mean travels. `codec`: how numbers travel. `exchange`: in groups, or
        pairwise over any graph. `quorum`: a round with fewer contributors keeps the old model. Peers must
        agree on these.
        `alone`: when none of those that trained with this process is there any more: ``wait`` for them and
        keep what they agreed on, ``wait-for-lost`` unless all of them have closed, or ``go-on``.
        `node_options`: further arguments of ``shoal start``, used only if no node runs in `home`.

        Raises:
            BadOption: the method's exchange makes no sense after a loop of one's own, or an option is bad.
            BadConfig: codec, exchange, quorum and method do not fit each other.
            MethodNotFound: no such method.
            UserError: the node does not start, or has a trainer already.
        """
        self.optimizer = optimizer
        self.model = model
        self.every = every
        self.rounds = 0
        """How many rounds the swarm has behind it."""
        self.is_finished = False
        """Whether the run is over; steps go on without the swarm."""
        self._method = _load(method, dict(options or {}), every)
        self._weight = weight
        spec = TrainerSpec(
            name=name, task=task, method=method, delay=delay, codec=codec, exchange=exchange, quorum=quorum
        )
        check_run(spec, self._method)
        initial = self._method.init(read_model(model))
        self._spec = run_spec(spec, all_options(self._method), manifest(model), shared_specs(initial))
        self._steps = 0
        self._metrics: dict[str, float] = {}
        self._session: Session | None = None
        self._begin: ipc.Begin | None = None
        self._overlap: Overlap | None = None
        """The rounds, if one may be on its way while the loop goes on."""
        self._worked_from = 0.0
        self._say_alone_at = 0.0
        self._base = initial
        self._node = Node(
            Path(home) if home is not None else default_home(environ), join, ("--alone", alone, *node_options)
        )
        try:
            self._attach()
        except LineLost as error:
            self.close()
            raise UserError(f"{error}; give this process a home of its own, or see node.log in it") from None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the wrapped optimizer; when it is time, average with the swarm."""
        loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
        if loss is not None:
            self._metrics["loss"] = float(loss)
        self._steps += 1
        try:
            self._after_step()
        except LineLost as error:
            log.warning("%s: training on alone until it is back", error)
            self._detach()
            self._steps = 0
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; see `torch.optim.Optimizer`."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def report(self, **metrics: float) -> None:
        """Say what the status page shows of the next round, such as ``loss`` and ``accuracy``."""
        self._metrics.update({name: float(value) for name, value in metrics.items()})

    def close(self) -> None:
        """Leave the swarm; stop the node if it was started here."""
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

    def __getattr__(self, name: str) -> Any:
        """Hand on what is not here, such as ``param_groups``, to the wrapped optimizer."""
        if name == "optimizer":  # before __init__ has run there is nothing to hand on to
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def _after_step(self) -> None:
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
            self._next_round(session, self._base)
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
                report = self._report(())
                overlap.contribute(read_model(self.model), self._weight, report, self._base.private)
                self._steps = 0
        except Interrupted:
            self._take_over(overlap.restart())
        except RunOver:
            self._end(overlap.agreed)
        self.rounds = overlap.round

    def _move(self, moved: Moved | None) -> None:
        if moved is not None:
            move_model(self.model, moved)

    def _take_over(self, state: State) -> None:
        write_model(self.model, state.params)
        self._base, self._steps = state, 0

    def _end(self, state: State) -> None:
        write_model(self.model, state.params)
        self.is_finished = True
        self._detach()

    def _report(self, contributors: tuple[PeerId, ...]) -> Report:
        metrics = dict(self._metrics)
        loss = metrics.pop("loss", float("nan"))
        return Report(loss, int(self._weight), self._steps, contributors, metrics)

    def _agree(self, session: Session) -> None:
        assert self._begin is not None
        trained = read_model(self.model)
        try:
            steps = self._method.outer(self._base, trained, self._weight)
            state, contributors = session.answer(self._begin, steps)
        except GossipError as error:
            state = self._base
            session.idle(self._begin, f"{type(error).__name__}: {error}")
        else:
            session.finish(self._begin, state, self._report(contributors))
        self._next_round(session, state)

    def _next_round(self, session: Session, last: State) -> None:
        """Wait for the next round; take over its state unless it is the one that we went on from."""
        begin = session.wait_begin()
        self._steps = 0
        if begin is None:
            self._end(last)
            return
        state = session.state(begin)
        is_again = self._begin is not None and begin.round == self._begin.round
        if not (is_again and np.array_equal(state.params, self._base.params)):
            write_model(self.model, state.params)
        self._begin, self._base, self.rounds = begin, state, begin.round

    def _attach(self) -> None:
        initial = self._method.init(read_model(self.model))
        device = str(next(iter(float_tensors(self.model).values())).device)
        line = self._node.connect()
        try:
            session = Session(
                line, self._spec, self._method, initial, device=device, examples=int(self._weight)
            )
        except LineLost:
            line.close()
            raise
        session.on_alone = self._say_alone
        self._session, self._begin = session, None
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
