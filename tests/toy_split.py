"""A toy of split learning: data peers hold `front`, hosts hold `body`, and y = body · (front · x).

Its local work can be done on paper: one example (x, target) each, the loss is half the squared error, and
both sides take steps of plain gradient descent.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.gossip.calls.asks import Everyone
from shoal.gossip.calls.forms import Form, Number, TensorForm
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Report, State, Steps, all_reduce, here
from shoal.methods.roles.serves import attend, call, next_calls, reply

LR = 0.1


class ToySplitLearner:
    """A number of data and, where the node hosts, the body."""

    def __init__(self, x: float, target: float) -> None:
        """`body` begins at 1; `steps` are the steps that the body took."""
        self.x, self.target, self.examples = x, target, 1
        self.body, self.steps = 1.0, [set[tuple[str, bytes]]()]


class ToySplit:
    """See the module's docstring."""

    roles = ("host",)

    def __init__(self, steps: int = 2, number: Number = "float32") -> None:
        self._steps, self._number = steps, number

    def init(self, params: Any) -> State:
        return State(params)

    def verbs(self, learner: Any) -> Mapping[str, Form]:
        one = {"v": TensorForm((1,), self._number)}
        return {"forward": Form(one, one), "grad": Form(one, one)}

    def round(self, state: State, learner: ToySplitLearner, round_: int) -> Steps[tuple[State, Report]]:
        if (yield from here()).only_hosts:
            yield from attend()
            mean = yield from all_reduce(state.params.copy(), weight=0)
            return State(mean.vector), Report(0.0, 0, 0, mean.contributors)
        front, loss, failed = float(state.params[0]), 0.0, 0
        for step in range(self._steps):
            key, is_last = b"%d/%d" % (round_, step), step == self._steps - 1
            try:
                out = yield from call("host", "forward", _one(front * learner.x), step=key, is_last=is_last)
                error = float(out.tensors["v"][0]) - learner.target
                back = yield from call(out.peer, "grad", _one(error), step=key)
            except Unanswered:
                failed += 1
                continue
            loss, front = error * error / 2, front - LR * float(back.tensors["v"][0]) * learner.x
        mean = yield from all_reduce(np.array([front], np.float32), weight=learner.examples)
        done = self._steps - failed
        return State(mean.vector), Report(loss, done, done, mean.contributors, {"unanswered": failed})

    def serve(self, learner: ToySplitLearner, role: str) -> Steps[None]:
        while True:
            asked = yield from next_calls("forward", until=Everyone())
            seen = {each.peer: float(each.tensors["v"][0]) for each in asked.calls}
            yield from reply((each, _one(learner.body * seen[each.peer])) for each in asked.calls)
            grads = yield from next_calls("grad", until=Everyone(tuple(seen)))
            body = learner.body
            yield from reply((each, _one(body * float(each.tensors["v"][0]))) for each in grads.calls)
            step = [float(each.tensors["v"][0]) * seen.get(each.peer, 0.0) for each in grads.calls]
            learner.body = body - LR * sum(step) / max(1, len(step))
            learner.steps.append({(each.peer, each.step) for each in grads.calls})


def _one(value: float) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {"v": np.array([value], np.float32)}
