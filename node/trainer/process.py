"""The trainer process: torch on one side, the line to the daemon on the other.

    python -P -m shoal.node.trainer.process --socket PATH --state-dir PATH --spec JSON        (spec.py)

It ends when the daemon says so or is gone. What a person must mend is sent as `TrainerFailed`, in one
line, with exit code 3. Ctrl-C, and the end of the terminal, are the daemon's business: both are told.
"""

import argparse
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import torch

import shoal.methods
from shoal.gossip.errors import GossipError
from shoal.gossip.policies.privacy import privacy_of
from shoal.methods.base import Demands, Method, OuterMethod, Report, State, largest_exchange, measures
from shoal.methods.errors import Interrupted, MethodsError
from shoal.methods.learning.learner import Callbacks, TorchLearner, as_number
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.parts import pinned_of
from shoal.methods.learning.private_steps import PrivateSteps
from shoal.methods.learning.task import load_task
from shoal.methods.overlap import check_delay
from shoal.methods.params import shared_specs
from shoal.methods.registry import all_options, load_method
from shoal.node.service.pacing import Pacer
from shoal.node.storage.forget_file import ForgetFile
from shoal.node.text import log_to_stderr
from shoal.node.trainer import ipc
from shoal.node.trainer.base import fill_base, keep_base
from shoal.node.trainer.memory import BASE, advice, free_bytes, machine_bytes, tight, vector_bytes
from shoal.node.trainer.orphan import end_with_parent
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, Session, private_rounds
from shoal.node.trainer.spec import FAILED, TrainerSpec, run_spec
from shoal.node.trainer.unshared_file import UnsharedFile
from shoal.node.trainer.user_folder import search_user_folder

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a trainer; returns its exit code."""
    given = _parse(arguments)
    log_to_stderr(logging.INFO, "%(asctime)s trainer %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(os.getppid())
    spec = msgspec.json.decode(given.spec, type=TrainerSpec)
    torch.set_num_threads(spec.threads)
    # The first optimizer loads hundreds of modules, for seconds. Better now than in the first round, in
    # which peers wait for us, and in which an interrupt is only heard between two steps.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    search_user_folder()
    try:
        line = ipc.Line(given.socket)
    except OSError as error:
        print(f"no daemon listens on {given.socket}: {error.strerror or error}", file=sys.stderr)
        return FAILED
    try:
        return _run(line, spec, given.state_dir)
    finally:
        line.close()


def _run(line: ipc.Line, spec: TrainerSpec, state_dir: Path) -> int:
    trainer: _Trainer | None = None
    try:
        trainer = _Trainer(line, spec, state_dir)
        trainer.run()
    except LineLost:
        return 0
    except MethodsError as error:
        return _fail(line, str(error))
    except Exception as error:  # noqa: BLE001  # the user's model, data and loss may raise anything
        traceback.print_exc()
        return _fail(line, explain(error, spec.task, trainer.remedy() if trainer is not None else ""))
    return 0


def explain(error: Exception, task: str, remedy: str = "") -> str:
    """Say in one line what went wrong inside a task, and where; `remedy`: what to do where memory ran out."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"out of memory: {remedy or 'make the model smaller'} ({text})"
    frames = traceback.extract_tb(error.__traceback__)
    # The last line that is neither ours nor a library's is where to look first.
    others = (
        str(Path(__file__).parent),
        str(Path(shoal.methods.__file__).parent),
        sys.prefix,
        sys.base_prefix,
    )
    own = [frame for frame in frames if not frame.filename.startswith(others)] or list(frames)
    return f"task {task} failed in {own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {text}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m shoal.node.trainer.process", description="A node's trainer process."
    )
    parser.add_argument("--socket", type=Path, required=True, help="the daemon's trainer socket")
    parser.add_argument("--state-dir", type=Path, required=True, help="where private state is kept")
    parser.add_argument("--spec", required=True, help="a TrainerSpec as JSON")
    return parser.parse_args(arguments)


def _fail(line: ipc.Line, text: str) -> int:
    try:
        line.send(ipc.TrainerFailed(text=text[:4000]))
    except OSError:
        # Else the daemon, whose terminal is ours, says it.
        log.error("%s", text)
    return FAILED


class _Trainer(Callbacks):
    """A task, a method, and the session that joins them to the daemon."""

    def __init__(self, line: ipc.Line, spec: TrainerSpec, state_dir: Path) -> None:
        self._parent, self._line, self._base = os.getppid(), line, spec.base
        self._method: Method = load_method(spec.method, spec.options)
        check_delay(spec.delay, self._method, spec.method)
        task = load_task(spec.task, spec.task_options)
        self._learner = TorchLearner(
            task,
            device=spec.device,
            seed=spec.seed,
            callbacks=self,
            method=self._method,
        )
        self._pacer = Pacer(spec.cpu_share)
        self._learner.forgetting = ForgetFile(state_dir)
        if spec.privacy == "examples":
            self._learner.private = PrivateSteps(privacy_of(spec))
        if isinstance(self._method, Demands):
            self._method.check(self._learner)
        initial = self._method.init(self._learner.initial)
        self._spec = run_spec(
            spec,
            all_options(self._method),
            self._learner.manifest,
            shared_specs(initial),
            self._learner.buffers,
            *pinned_of(self._learner.model, self._learner.stays),
        )
        unkept = keep_base(state_dir, self._learner.model, self._spec) if spec.share_base else ""
        self._private = private_rounds(self._method, initial, self._spec, state_dir)
        self._overlap: Overlap | None = None
        self._not_finite: list[str] = []
        """Names of what the method measured last as no finite number."""
        self._unshared = UnsharedFile(state_dir, self._spec, self._learner.model, self._learner.stays)
        self._session = Session(
            line, self._spec, self._method, initial, self._private, self._learner, self._unshared
        )
        if unkept:
            self._session.problem("base", unkept)
        self._learner.out, self._learner.keeps_optimizer = self._session.lent, True
        self._learner.forget_initial()

    def fill_base(self, model: torch.nn.Module, stays: Staying) -> None:
        """See `Callbacks`: from peers where the task lacks it."""
        fill_base(model, stays, self._base, self._line)

    def remedy(self) -> str:
        """Say what to do where memory ran out, by what fills it."""
        numel = largest_exchange(self._method, self._spec.params_numel)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
        others = peak - BASE - vector_bytes(self._spec, numel)
        return advice(self._spec, numel, machine_bytes(), others)

    def run(self) -> None:
        """Run rounds until the daemon wants no more."""
        session = self._session
        numel = largest_exchange(self._method, self._spec.params_numel)
        if text := tight(self._spec, numel, free_bytes()):
            session.problem("room", text)
        if self._spec.delay:
            self._overlap = Overlap(session, cast(OuterMethod, self._method), self._measured)
            self._overlap.run(self._learner)
        while (begin := session.wait_begin()) is not None:
            steps = self._method.round(session.state(begin), self._learner, begin.round)
            try:
                state, report = session.answer(begin, steps)
            except (GossipError, Interrupted) as error:
                self._unshared.put_back()
                session.idle(begin, f"{type(error).__name__}: {error}")
                continue
            session.finish(begin, state, self._measured(state, report))
            # Else the state of a round stays for all of the next one.
            del steps, state

    def problem(self, source: str, text: str) -> None:
        """See `Callbacks`: the node shows it."""
        if source == "memory" and text:
            self._private.set_aside(f"is of no use: {text}")
        self._session.problem(source, text)

    def _measured(self, state: State, report: Report) -> Report:
        # What a method measured itself stands: its params need not be the model that people use.
        found = {} if measures(self._method) else self._learner.evaluate(state.params)
        metrics: dict[str, Any] = {**found, **self._finite(report.metrics)}
        return Report(report.loss, report.examples, report.steps, report.contributors, metrics)

    def _finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return what a method measured itself, but what is no finite number, which is said once."""
        bad = sorted(name for name, value in metrics.items() if as_number(value) is None)
        if bad != self._not_finite:
            listed = ", ".join(bad)
            self.problem("method", f"the method measured no finite number: {listed}"[:2000] if bad else "")
        self._not_finite = bad
        return {name: value for name, value in metrics.items() if name not in bad}

    def is_interrupted(self) -> bool:
        """See `Callbacks`."""
        if os.getppid() != self._parent:
            # A daemon that was killed cannot say so, and a step may be long.
            raise LineLost("the daemon is gone")
        self._pacer.step_begins()
        return self._session.is_interrupted()

    def is_hurried(self) -> bool:
        """See `Callbacks`; rests first, where the owner keeps a share of the processor."""
        self._pacer.step_ended(self._session)
        return (self._overlap or self._session).is_hurried()


if __name__ == "__main__":
    sys.exit(main())
