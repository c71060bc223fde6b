"""A trainer without torch that plays the toy of split learning (tests/toy_split.py) over a real line.

shoal start --task split:Split --task-option x=1.0    with SHOAL_TESTING_TRAINER=split
"""

import logging
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from toy_split import ToySplit, ToySplitLearner

from shoal.gossip.errors import GossipError
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.methods.base import About, ModelSize, Traffic
from shoal.methods.errors import Interrupted, MethodsError
from shoal.node.trainer import ipc
from shoal.node.trainer.session import LineLost, Session
from shoal.node.trainer.spec import TrainerSpec, settings_of


class Split(ToySplit):
    """The toy as a node runs it."""

    mergeable, asks = True, True
    about = About("", "", "")

    def traffic(self, model: ModelSize) -> Traffic:
        """See `shoal.methods.base.Method`."""
        return Traffic.one_mean(model.numel)


def run(line: ipc.Line, spec: TrainerSpec) -> None:
    """Run rounds until the daemon wants no more."""
    method = Split(steps=3)
    learner = ToySplitLearner(float(spec.task_options.get("x", 0.0)), 0.5)
    agreed = RunSpec(**settings_of(spec), tensors=(TensorSpec("front", "float32", (1,)),))
    initial = method.init(np.ones(1, np.float32))
    session = Session(line, agreed, method, initial, learner=learner)  # type: ignore[arg-type]
    while (begin := session.wait_begin()) is not None:
        try:
            # A round takes its time, so that a test can look on.
            time.sleep(0.05)
            state, report = session.answer(begin, method.round(session.state(begin), learner, begin.round))
        except (GossipError, Interrupted) as error:
            session.idle(begin, f"{type(error).__name__}: {error}")
        else:
            session.finish(begin, state, report)


def main() -> None:
    """See node/trainer/process.py."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s trainer %(levelname)s %(message)s")
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    line = ipc.Line(Path(given["--socket"]))
    try:
        run(line, msgspec.json.decode(given["--spec"], type=TrainerSpec))
    except LineLost:
        logging.info("the node is gone")
    except MethodsError as error:
        line.send(ipc.TrainerFailed(text=str(error)))
        sys.exit(3)


if __name__ == "__main__":
    main()
