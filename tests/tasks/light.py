"""A trainer without torch, which starts in a moment: for tests of the swarm around it.

    shoal start --task light:Light    with SHOAL_TESTING_TRAINER=light; LIGHT_TAG=x: its asks have this tag

It runs a real method over a real line to the daemon; only the learning is made up: `pause` seconds per step,
after which the params have moved a little, by each node and round in a way of its own.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np

from shoal.gossip.errors import GossipError
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Method, OuterMethod, Trained
from shoal.methods.errors import Interrupted
from shoal.methods.overlap import Carrying, Moved
from shoal.methods.registry import all_options, load_method
from shoal.node.trainer import ipc
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, Session
from shoal.node.trainer.spec import TrainerSpec, run_spec


class Light:
    """The task and its learner in one; the options say how long a step takes and how large the model is."""

    examples = 64

    def __init__(self, pause: float = 0.05, numel: int = 200, seed: int = 0) -> None:
        """`seed`: of this node's own learning."""
        self.pause, self.numel, self.seed = pause, numel, seed
        self.is_interrupted: Callable[[], bool] = lambda: False
        self.is_hurried: Callable[[], bool] = lambda: False
        self.arrived: Callable[[], Moved | None] = lambda: None

    def train(self, params: Vector, *, steps: int, lr: float, round_: int, **_: Any) -> Trained:
        """See `shoal.methods.base.Learner`."""
        taken = 0
        start = params
        while taken < steps and not self.is_hurried():
            if self.is_interrupted():
                raise Interrupted("the node asked to stop")
            time.sleep(self.pause)
            taken += 1
            moved = self.arrived()
            start = start if moved is None else moved.apply(start)
        trained = start.copy()
        trained[::1000] += lr * np.random.default_rng((self.seed, round_)).standard_normal(
            len(trained[::1000]), dtype=np.float32
        )
        return Trained(trained, 1.0 / (1 + round_), taken, taken)

    def carry(self, params: Vector, moved: Moved) -> Vector:
        """See `shoal.node.trainer.overlapped_rounds.Carrying`."""
        return moved.apply(params)


def run(line: ipc.Line, spec: TrainerSpec) -> None:
    """Run rounds until the daemon wants no more."""
    method: Method = load_method(spec.method, spec.options)
    light = Light(**spec.task_options)  # type: ignore[arg-type]  # a wrong option is the test's fault
    initial = method.init(np.zeros(light.numel, dtype=np.float32))
    tensors = (TensorSpec("all", "float32", (light.numel,)),)
    session = Session(
        line,
        run_spec(spec, all_options(method), tensors, ()),
        method,
        initial,
    )
    if tag := os.environ.get("LIGHT_TAG"):
        post = session.post
        session.post = lambda begin, ask: post(begin, replace(ask, tag=tag))  # type: ignore[method-assign,arg-type]
    light.is_interrupted, light.is_hurried = session.is_interrupted, session.is_hurried
    if spec.delay:
        overlap = Overlap(session, cast(OuterMethod, method), lambda state, report: report)
        light.is_hurried = overlap.is_hurried
        overlap.run(cast(Carrying, light))
    while (begin := session.wait_begin()) is not None:
        try:
            state, report = session.answer(begin, method.round(session.state(begin), light, begin.round))
        except (GossipError, Interrupted) as error:
            session.idle(begin, f"{type(error).__name__}: {error}")
        else:
            session.finish(begin, state, report)


def main() -> None:
    """See node/trainer/process.py."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s trainer %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    line = ipc.Line(given["--socket"])  # type: ignore[arg-type]
    try:
        run(line, msgspec.json.decode(given["--spec"], type=TrainerSpec))
    except LineLost:
        logging.info("trainer %d: the node is gone", os.getpid())


if __name__ == "__main__":
    main()
