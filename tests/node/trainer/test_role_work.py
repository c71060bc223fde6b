"""The trainer's side of calls, without a daemon: what is sent, and what generators that serve are given."""

from typing import Any

import numpy as np
import pytest
from toy_split import ToySplit, ToySplitLearner

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.forms import pack
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Steps
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.roles.serves import next_calls
from shoal.node.framing import Message
from shoal.node.trainer import ipc
from shoal.node.trainer.role_work import RoleWork

ME, PEER = PeerId("me"), PeerId("peer")


class Line:
    """Keeps what is said to the daemon."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.problems: dict[str, str] = {}

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def problem(self, source: str, text: str) -> None:
        self.problems[source] = text


def work(method: Any) -> tuple[RoleWork, Line]:
    line = Line()
    made = RoleWork(method, ToySplitLearner(1.0, 1.0), line)
    made.attached(ME, "auto", "toy")
    return made, line


def called(value: float) -> ipc.HandedOut:
    shapes, data = pack({"v": np.ones(1, np.float32)}, ToySplit().verbs(None)["forward"].takes)
    data = np.array([value], np.float32).tobytes()
    return ipc.HandedOut(role="host", calls=((PEER, "forward", b"1", shapes, data),), is_complete=True)


@pytest.mark.parametrize(
    ("method", "role", "choices"),
    [(FedAvg(FedAvgConfig()), "host", "auto, client"), (ToySplit(), "hots", "auto, client, host")],
)
def test_a_role_that_the_method_lacks_is_said_in_one_line(method: Any, role: str, choices: str) -> None:
    made, _ = work(method)
    with pytest.raises(BadOption, match=f"no role {role}: give --role one of {choices}$"):
        made.attached(ME, role, "toy")


def test_a_role_is_served_from_when_it_is_taken() -> None:
    made, line = work(ToySplit())
    assert made.take(ipc.RoleTaken(role="host"))
    assert made.hosts == ("host",)
    assert made.take(called(3.0))
    want, answers, grads = line.sent
    assert (want.role, want.verbs, want.count) == ("host", ("forward",), 0)
    ((peer, verb, step, _, data, refusal),) = answers.answers
    assert (peer, verb, step, refusal) == (PEER, "forward", b"1", "")
    assert np.frombuffer(data, np.float32) == [3.0]
    assert (grads.verbs, grads.among) == (("grad",), (PEER,))


def test_a_call_with_numbers_that_are_not_finite_is_refused_and_reaches_no_method() -> None:
    made, line = work(ToySplit())
    made.take(ipc.RoleTaken(role="host"))
    made.take(called(float("nan")))
    refusals = [each[5] for sent in line.sent if isinstance(sent, ipc.AnswerCalls) for each in sent.answers]
    assert refusals == ["call with numbers that are not finite"]


class Failing(ToySplit):
    """A host that needs another."""

    def serve(self, learner: Any, role: str) -> Steps[None]:
        yield from next_calls("forward")
        raise Unanswered("the second stage is gone")


def test_a_generator_that_fails_leaves_its_role_and_says_so() -> None:
    made, line = work(Failing())
    made.take(ipc.RoleTaken(role="host"))
    made.take(called(1.0))
    assert line.sent[-1] == ipc.LeaveRole(role="host")
    assert made.hosts == ()
    assert "no longer serves as host: Unanswered: the second stage is gone" in line.problems["role host"]
