"""Swarm: a user's own PyTorch process takes part in a swarm; all that integrations stand on.

    swarm = shoal.Swarm(model, every=50)
    for x, y in batches:
        ...
        optimizer.step()
        swarm.step(samples=len(x))      # every 50th of these averages the model with the swarm's

The user's process is the trainer; the daemon runs beside it and holds the network. The local work is the
loop's own, so only the exchange of the method runs here (`OuterMethod.outer`). Where the swarm is ahead,
or a newcomer joins, the model takes over the swarm's state. Where a round fails, the model keeps what it
has learned and asks again after the next steps. Where the node is gone, training goes on alone.

With ``delay=1`` a step that is due to average only sends the model on its way, and later ones take the mean
in when it has come: the loop waits for peers only where a mean takes longer than the next `every` steps.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from os import PathLike, environ
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.errors import GossipError
from shoal.gossip.events import Vector
from shoal.gossip.membership.company import Policy
from shoal.gossip.messages import MAX_WEIGHT
from shoal.gossip.run_spec import RunSettings, TensorSpec
from shoal.methods.base import Report, State
from shoal.methods.errors import Interrupted
from shoal.methods.learning.learner import as_number
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.parts import Travels, check_frozen, part_of_own, pinned_of, staying
from shoal.methods.overlap import Moved
from shoal.methods.params import shared_specs, views
from shoal.methods.registry import all_options
from shoal.node.config.preflight import check_run
from shoal.node.errors import NotRunning, Refused, UserError
from shoal.node.optimizer.background_node import Node
from shoal.node.optimizer.checks import checked_weight, chosen_run, load_outer
from shoal.node.optimizer.progress import Progress, RoundEnded, hash_of
from shoal.node.optimizer.ranks import NoRanks, RankedVector, Ranks, Word
from shoal.node.optimizer.saving import write_model
from shoal.node.status import Status
from shoal.node.storage.home import default_home
from shoal.node.trainer import ipc
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, RunOver, Session
from shoal.node.trainer.spec import run_spec
from shoal.node.trainer.unshared_file import UnsharedFile
from shoal.node.web.client import fetch_status

log = logging.getLogger(__name__)

SAY_EVERY: Final = 60.0
"""Seconds between two words about a step that waits for company."""


class Swarm:
    """A model that every H-th step of its training averages in the swarm. Also a context manager."""

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 50,
        travels: Travels = "trained",
        own: Collection[str] = (),
        home: str | PathLike[str] | None = None,
        join: Sequence[str] = (),
        weight: float | None = None,
        alone: Policy = "wait-for-lost",
        node_options: Sequence[str] = (),
        invite: str = "",
        settings: RunSettings | None = None,
        resume: Mapping[str, Any] | None = None,
        process_group: Any = None,
        **changes: Any,
    ) -> None:
        """Attach to the node in `home`, or start one that joins `join`; the model may change right here.

        `every`: local steps per round (H). `weight`: how much this peer counts, such as its examples; None:
        the samples that `step` is told of, since the last round.
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
        `resume`: what `state_dict` returned when the model that is given was saved. Where the swarm is still
        in that round the model goes on from where it was; else the swarm's state wins.

        Under torchrun all ranks make one; rank 0 speaks with the node, and the others take over what it has.
        `process_group`: the ranks that train this model, if they are not all of them.

        Raises:
            BadOption: the method's exchange makes no sense after a loop of one's own, or an option is bad.
            BadTask: something is trained that cannot travel or is not to; the message names it.
            BadConfig: codec, exchange, quorum and method do not fit each other.
            MethodNotFound: no such method.
            NoRanks: there are other ranks that cannot be reached, or rank 0 has failed.
            UserError: the node does not start, or has a trainer already; or the invite is none.
        """
        self.model = model
        self.every = every
        self.rounds = 0
        """How many rounds the swarm has behind it."""
        self.is_finished = False
        """Whether the run is over; steps go on without the swarm."""
        self.last: RoundEnded | None = None
        """How the last round ended that this process averaged in."""
        run = chosen_run(settings, invite, changes, type(self).__name__)
        self._method = load_outer(run.method, dict(run.options), every)
        self._weight = None if weight is None else checked_weight(weight)
        self._resumed = None if resume is None else Progress.read(resume)
        check_run(run, self._method)
        stays = staying(model, travels, part_of_own(model, own))
        check_frozen(model, stays)
        self._ranks = Ranks(next((p.device for p in model.parameters()), "cpu"), process_group)
        if own and self._ranks.count > 1:
            raise NoRanks("own= keeps tensors to one process: leave it out, or train on one rank per node")
        self._stays, self._vector = stays, RankedVector(model, self._ranks, stays)
        pinned = pinned_of(model, stays)
        self._steps = self._samples = 0
        self._metrics: dict[str, float] = {}
        self._unmeasured: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._session: Session | None = None
        self._begin: ipc.Begin | None = None
        self._overlap: Overlap | None = None
        """The rounds, if one may be on its way while the loop goes on."""
        self._base_hash = ""
        self._worked_from = 0.0
        self._is_paused = False
        self._say_alone_at = 0.0
        self._node = Node(
            Path(home) if home is not None else default_home(environ),
            join,
            ("--alone", alone, *(("--invite", invite) if invite else ()), *node_options),
        )
        self._in_step(lambda: self._start(run, stays, pinned))

    @property
    def steps(self) -> int:
        """How many steps were taken since the last round."""
        return self._steps

    @property
    def home(self) -> Path:
        """The folder of the node."""
        return self._node.home.path

    @property
    def status(self) -> Status | None:
        """What the node says of itself, such as its peers and bytes; None where it does not answer."""
        try:
            return fetch_status(self._node.home.path)
        except (NotRunning, Refused):
            return None

    def step(self, n: int = 1, *, samples: int = 0) -> RoundEnded | None:
        """Say that the optimizer has taken `n` steps, from `samples` examples; when it is time, average.

        Returns how a round ended, where one did; None on ranks that do not speak with the node.

        Raises:
            BadTask: the model has other tensors than at the start.
            NoRanks: rank 0 has failed.
        """
        self._steps += n
        self._samples += samples
        before, self.last = self.last, None
        self._in_step(self._after_step)
        ended, self.last = self.last, self.last or before
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Return the round, the steps since it began, and the hash of what it began from; no weights."""
        found: dict[str, Any] = msgspec.to_builtins(Progress(self.rounds, self._steps, self._hash()))
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; load the model that was saved with it first.

        Where the swarm is in another round its state wins: the model takes it over.

        Raises:
            BadOption: it is none.
        """
        progress = Progress.read(state_dict)
        if not progress.state:
            self._steps = min(progress.steps, self.every)
        elif self._session is not None or not self._ranks.is_speaker:
            self._in_step(lambda: self._go_on_from(progress))

    def pause(self) -> None:
        """Train on without the swarm; the node stays, and helps the others."""
        self._is_paused = True
        self._detach()

    def resume(self) -> None:
        """Come back: at the next step the model takes over the swarm's state."""
        self._is_paused = False
        self._steps = self.every

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

    def save_model(self, path: str | PathLike[str], *, values: int = 0) -> None:
        """Write the model as it is now, anew; under torchrun called on all ranks.

        A model of Transformers or PEFT writes a folder by its own `save_pretrained`. Any other writes a file,
        as ``shoal model save`` does, and so does one that FSDP2 has sharded: `shoal.load_model` reads it.
        `values`: a file with at most so many values per tensor; 0: exact.

        Raises:
            NoModel: there is something of this name, or it cannot be written.
            NoRanks: rank 0 has failed.
        """
        self._in_step(lambda: write_model(self.model, self._vector, self._stays, Path(path), values))

    def close(self) -> None:
        """Leave the swarm; stop the node if it was started here."""
        if self._session is not None and self._steps and not self.is_finished:
            log.warning(
                "the last %d steps were not averaged and are in this model only: a round takes %d;"
                " end after a multiple of it, or give the run rounds=",
                self._steps,
                self.every,
            )
        self._detach()
        self._node.stop()

    def __enter__(self) -> "Swarm":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        if kind is not None:
            self._steps = 0
        self.close()

    def _in_step(self, work: Callable[[], None]) -> None:
        """Do what a step leads to, and let all ranks know; those that do not speak take it over."""
        if not self._ranks.is_speaker:
            self.rounds, self.is_finished = self._ranks.hear(self._vector)
            return
        try:
            work()
        except BaseException:
            self._ranks.call(Word.FAILED)
            raise
        self._ranks.call(Word.ENDED, rounds=self.rounds, is_finished=self.is_finished)

    def _start(self, run: RunSettings, stays: Staying, pinned: tuple[tuple[TensorSpec, ...], bytes]) -> None:
        """Attach for the first time; called where the node is spoken to. `pinned`: see `pinned_of`."""
        vector, options = self._vector, all_options(self._method)
        self._set_base(self._initial())
        shared = shared_specs(self._base)
        self._spec = run_spec(run, options, vector.manifest, shared, vector.buffers, *pinned)
        self._unshared = UnsharedFile(self._node.home.state_dir, self._spec, self.model, stays)
        self._first_attach()

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
        if self._is_paused:
            return
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
                    overlap.contribute(trained, self._weight_now(), report, self._base.private)
                self._steps = self._samples = 0
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

    def _take_over(self, state: State) -> None:
        self._vector.write(state.params)
        self._set_base(state)
        self._steps = self._samples = 0

    def _set_base(self, state: State) -> None:
        self._base, self._base_hash = state, ""

    def _hash(self) -> str:
        """Return the hash of the params that the round began from; nothing on ranks that do not hold them."""
        if self._ranks.is_speaker and not self._base_hash:
            self._base_hash = hash_of(self._base.params)
        return self._base_hash

    def _end(self, state: State) -> None:
        self._vector.write(state.params)
        self.is_finished = True
        self._detach()

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
        return Report(loss, int(self._weight_now()), self._steps, contributors, metrics)

    def _agree(self, session: Session) -> None:
        assert self._begin is not None
        trained = self._vector.read(session.lent)
        if not self._is_sane(trained):
            session.idle(self._begin, self._problems["model"])
            self._next_round(session, self._base, in_vain=True)
            return
        in_vain = False
        waited_from = time.monotonic()
        try:
            steps = self._method.outer(self._base, trained, self._weight_now())
            state, contributors = session.answer(self._begin, steps)
        except GossipError as error:
            state, in_vain = self._base, True
            session.idle(self._begin, f"{type(error).__name__}: {error}")
        else:
            session.finish(self._begin, state, self._report(contributors))
            seconds = time.monotonic() - waited_from
            self.rounds = self._begin.round + 1
            self.last = RoundEnded(self.rounds, len(contributors), seconds)
            self._samples, self._resumed = 0, None
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
        state, is_new = session.state(begin), begin != self._begin
        self._begin, self.rounds = begin, begin.round
        self._set_base(state)
        if is_new and not self._is_where_it_was():
            if in_vain:
                self._unshared.put_back()
            self._vector.write(state.params)

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
            overlap = self._overlap = Overlap(session, self._method, self._note_ended)
        except RunOver:
            self._end(initial)
            return
        self.rounds = overlap.round
        self._set_base(overlap.agreed)
        if not self._is_where_it_was():
            self._take_over(overlap.agreed)

    def _note_ended(self, state: State, report: Report) -> Report:
        self.last, self._resumed = RoundEnded(self.rounds + 1, len(report.contributors), 0.0), None
        return report

    def _go_on_from(self, progress: Progress) -> None:
        """Stand where a loaded model stood, or let the swarm's state win."""
        self._resumed = progress
        if not self._is_where_it_was():
            self._take_over(self._base)
        self._resumed = None

    def _is_where_it_was(self) -> bool:
        """Tell whether the model that is resumed belongs to the round at hand; if not, say what happens."""
        was = self._resumed
        if was is None:
            return False
        if (was.round, was.state) == (self.rounds, self._hash()):
            self._steps, self._resumed = min(was.steps, self.every), None
            return True
        if self.rounds == 0 and was.round:
            log.warning(
                "no peer and no state on disk is there: the run begins with your checkpoint, of round %d",
                was.round,
            )
            return False
        log.warning(
            "round %d of the swarm is taken over, not your checkpoint of round %d: the swarm's state wins",
            self.rounds,
            was.round,
        )
        self._resumed = None
        return False

    def _weight_now(self) -> float:
        """Return how much this peer counts in the round at hand."""
        if self._weight is not None:
            return self._weight
        return float(min(self._samples, MAX_WEIGHT)) if self._samples else 1.0

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
