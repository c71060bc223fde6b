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
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, environ
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from gossip.errors import GossipError
from gossip.runspec import Scalar
from methods.base import OuterMethod, Report, State
from methods.errors import BadOption
from methods.learner import float_tensors, manifest, read_model, write_model
from methods.params import shared_specs
from methods.registry import all_options, config_class, known_methods, load_method, method_class
from node import ipc
from node.background import Node
from node.errors import UserError
from node.home import default_home
from node.session import LineLost, Session
from node.trainer_spec import TrainerSpec, run_spec

log = logging.getLogger(__name__)


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
        node_options: Sequence[str] = (),
    ) -> None:
        """Attach to the node in `home`, or start one that joins `join`; the model may change right here.

        `every`: local steps per round (H). `options`: of the method. `name`, `task`: peers that differ in
        them never average. `weight`: how much this peer counts, such as its number of examples.
        `node_options`: further arguments of ``shoal start``, used only if no node runs in `home`.

        Raises:
            BadOption: the method's exchange makes no sense after a loop of one's own, or an option is bad.
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
        spec = TrainerSpec(name=name, task=task, method=method)
        initial = self._method.init(read_model(model))
        self._spec = run_spec(spec, all_options(self._method), manifest(model), shared_specs(initial))
        self._steps = 0
        self._metrics: dict[str, float] = {}
        self._session: Session | None = None
        self._begin: ipc.Begin | None = None
        self._base = initial
        self._node = Node(Path(home) if home is not None else default_home(environ), join, node_options)
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
        if session is None:
            if is_time and not self.is_finished:
                self._try_again()
        elif session.is_interrupted():
            assert self._begin is not None
            session.idle(self._begin, "interrupted")
            self._next_round(session, self._base)
        elif is_time or session.is_hurried():
            self._agree(session)

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
            metrics = dict(self._metrics)
            loss = metrics.pop("loss", float("nan"))
            session.finish(
                self._begin, state, Report(loss, int(self._weight), self._steps, contributors, metrics)
            )
        self._next_round(session, state)

    def _next_round(self, session: Session, last: State) -> None:
        """Wait for the next round; take over its state unless it is the one that we went on from."""
        begin = session.wait_begin()
        self._steps = 0
        if begin is None:
            write_model(self.model, last.params)
            self.is_finished = True
            self._detach()
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
        self._session, self._begin = session, None
        self._next_round(session, initial)

    def _try_again(self) -> None:
        try:
            self._attach()
        except UserError as error:
            log.warning("%s: training on alone", error)
            self._steps = 0

    def _detach(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._begin = None


def _load(name: str, options: dict[str, Scalar], every: int) -> OuterMethod:
    """Load a method whose exchange can follow any loop, and tell it the number of local steps."""
    if not getattr(method_class(name), "follows_any_loop", False):
        fit = [n for n in known_methods() if getattr(method_class(n), "follows_any_loop", False)]
        raise BadOption(f"{name} needs local work of its own; for your own loop choose {' or '.join(fit)}")
    if every < 1:
        raise BadOption(f"every = {every}: average after 1 step or more")
    if "steps" in config_class(name).__struct_fields__:
        options["steps"] = every
    return cast(OuterMethod, load_method(name, options))
