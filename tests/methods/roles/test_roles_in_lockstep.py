"""Methods with roles in lockstep: what they compute, and what lost hosts and clients cost."""

from typing import Any

import numpy as np
import pytest
from lockstep import names
from toy_split import LR, ToySplit, ToySplitLearner

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.forms import BadTensors, Form, TensorForm
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Me, State
from shoal.methods.roles.lockstep import Play, Played
from shoal.methods.roles.serves import Serves, call, look

A, B, H, J = names(4)
DATA = {A: (1.0, 0.0), B: (2.0, 1.0)}


class Swarm:
    """Data peers A and B; those of `hosts` host, and do nothing else where they have no data."""

    def __init__(self, hosts: tuple[PeerId, ...] = (H,), **lost: Any) -> None:
        self.method = ToySplit()
        self.learners = {peer: ToySplitLearner(*DATA.get(peer, (0.0, 0.0))) for peer in (A, B, H, J)}
        self.states = {peer: State(np.ones(1, np.float32)) for peer in {A, B, *hosts}}
        self.here = {
            peer: Me(peer, 0, hosts=("host",) * (peer in hosts), only_hosts=peer not in DATA)
            for peer in self.states
        }
        serving = {peer: {"host": self.method.serve(self.learners[peer], "host")} for peer in hosts}
        self.play: Play[Any] = Play({}, serving, self.method.verbs(None), here=self.here, **lost)

    def round(self, round_: int = 0) -> Played[Any]:
        played = self.play.rounds(
            {p: self.method.round(self.states[p], self.learners[p], round_) for p in self.states}
        )
        self.states |= {peer: state for peer, (state, _) in played.results.items()}
        return played


def by_hand(steps: int) -> tuple[float, float]:
    """Return the mean front and the body, from one process."""
    fronts, body = {A: 1.0, B: 1.0}, 1.0
    for _ in range(steps):
        error = {p: body * fronts[p] * x - y for p, (x, y) in DATA.items()}
        back = {p: body * error[p] for p in DATA}
        body -= LR * sum(error[p] * fronts[p] * DATA[p][0] for p in DATA) / 2
        fronts = {p: fronts[p] - LR * back[p] * DATA[p][0] for p in DATA}
    return sum(fronts.values()) / 2, body


def test_the_toy_is_a_method_with_roles() -> None:
    assert isinstance(ToySplit(), Serves)


@pytest.mark.parametrize("hosts", [(H,), (A,)], ids=["a peer of its own hosts", "a data peer hosts"])
def test_a_split_round_is_that_of_one_process(hosts: tuple[PeerId, ...]) -> None:
    swarm = Swarm(hosts)
    played = swarm.round()
    front, body = by_hand(2)
    assert swarm.states[A].params[0] == pytest.approx(front, rel=1e-6)
    assert swarm.learners[hosts[0]].body == pytest.approx(body, rel=1e-6)
    assert played.results[B][1].contributors == tuple(sorted({A, B, *hosts}))
    assert played.calls == {"forward": 4, "grad": 4}
    assert played.sent[A, "forward"] == (2 + 4 * (hosts == (A,))) * 4


def test_those_that_serve_go_on_in_the_next_round() -> None:
    swarm = Swarm()
    swarm.round(0)
    swarm.round(1)
    assert len(swarm.learners[H].steps) == 1 + 4


def test_a_host_that_dies_is_followed_by_the_second_and_no_step_acts_twice() -> None:
    swarm = Swarm((H, J), lost={H: 1})
    played = swarm.round()
    assert played.results.keys() == {A, B, J}
    assert swarm.play.gone == {H}
    assert set(swarm.play.acted.values()) <= {1}
    assert swarm.learners[H].steps == [set()]
    # Each lost its first gradient with the host, and made the second step with the other.
    assert [played.results[p][1].metrics["unanswered"] for p in (A, B)] == [1, 1]
    assert [len(step) for step in swarm.learners[J].steps[1:]] == [2]


def test_a_silent_host_costs_a_deadline() -> None:
    swarm = Swarm((H, J), silent={H: 0})
    played = swarm.round()
    assert [played.results[p][1].metrics["unanswered"] for p in (A, B)] == [0, 0]
    assert played.deadlines > 0
    assert set(swarm.play.acted.values()) <= {1}


def test_without_a_host_the_round_goes_on() -> None:
    swarm = Swarm((H,), lost={H: 0})
    played = swarm.round()
    assert [played.results[p][1].metrics["unanswered"] for p in (A, B)] == [2, 2]
    assert played.results[A][1].contributors == (A, B)


def test_what_does_not_fit_the_form_is_thrown_in() -> None:
    form = {"f": Form({"v": TensorForm((2,))}, None)}
    for values in ([1, 2, 3], [1, np.nan]):
        tensors = {"v": np.array(values, np.float32)}
        played = Play({A: call("host", "f", tensors, step=b"")}, {}, form).run()
        assert isinstance(played.failed[A], BadTensors)


def test_a_push_needs_no_answer_and_a_call_without_holders_fails() -> None:
    one = {"v": TensorForm((1,))}
    forms = {"push": Form(one, None), "ask": Form(one, one)}
    tensors = {"v": np.ones(1, np.float32)}
    played = Play(
        {A: call("host", "push", tensors, step=b""), B: call("host", "ask", tensors, step=b"")},
        {},
        forms,
        roles=("host",),
    ).run()
    assert played.results == {A: None}
    assert isinstance(played.failed[B], Unanswered)


def test_peers_see_who_holds_a_role() -> None:
    serving = {peer: {"host": ToySplit().serve(ToySplitLearner(1, 1), "host")} for peer in (J, H)}
    played = Play({A: look("host")}, serving, ToySplit().verbs(None)).run()
    assert [each.peer for each in played.results[A]] == [H, J]
