"""Which host a client asks first: none that was silent while another answers, and never again who lied."""

from collections.abc import Sequence

import numpy as np
from few_pairs import Few
from lockstep import names

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import Holder, Holders, Look
from shoal.methods.learning.task import Task
from shoal.methods.mpsl.asked import FORGIVEN, Asked, Known
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL, MPSLConfig
from shoal.methods.mpsl.wire import Names

A, B, C, D = names(4)
NAMES = Names(0, 1)


def looked(asked: Asked, hosts: Sequence[PeerId], spares: Sequence[PeerId] = ()) -> list[PeerId]:
    """Let a client look, and return whom it would ask, the first first."""
    looking, given = asked.look(), None
    while True:
        try:
            ask = looking.send(given)
        except StopIteration:
            return asked.hosts
        assert isinstance(ask, Look)
        holders = hosts if ask.role == NAMES.role else spares
        given = Holders(tuple(Holder(peer, 1.0, 0.0) for peer in holders))


def test_the_order_is_the_same_however_quick_hosts_are() -> None:
    orders = [looked(Asked(NAMES, D, Known()), hosts) for hosts in ((A, B, C), (C, A, B), (B, C, A))]
    assert orders[0] == orders[1] == orders[2]


def test_a_silent_host_comes_after_all_others_in_later_looks_and_rounds() -> None:
    known = Known()
    asked = Asked(NAMES, D, known)
    first, second, third = looked(asked, [A, B, C])
    asked.answered(second)
    assert asked.hosts == [second, third, first]
    assert looked(asked, [A, B, C]) == [second, third, first]
    assert looked(Asked(NAMES, D, known), [A, B, C]) == [second, third, first]
    asked.unanswered(second)
    assert asked.hosts[0] == third
    assert looked(Asked(NAMES, D, known), [A, B, C])[0] == third


def test_a_spare_that_answers_is_asked_before_hosts_that_did_not() -> None:
    known = Known()
    asked = Asked(NAMES, D, known)
    looked(asked, [A], [B])
    asked.answered(B)
    assert looked(Asked(NAMES, D, known), [A], [B]) == [B, A]


def test_a_liar_comes_after_the_silent() -> None:
    asked = Asked(NAMES, D, Known())
    first, second, third = looked(asked, [A, B, C])
    asked.unanswered(second)
    asked.answered_wrongly(first)
    assert asked.hosts == [third, second, first]
    assert asked.n_wrong == 1


def test_silence_is_forgotten_after_many_answers_or_when_the_host_has_left() -> None:
    known = Known()
    asked = Asked(NAMES, D, known)
    first, second, *_ = before = list(looked(asked, [A, B, C]))
    asked.answered(second)
    for _ in range(FORGIVEN):
        assert asked.hosts[-1] == first
        asked.answered(second)
    asked.answered(second)
    assert looked(asked, [A, B, C]) == before
    asked.unanswered(first)
    looked(asked, [each for each in (A, B, C) if each != first])
    assert looked(asked, [A, B, C]) == before


def few(steps: int, average_every: int, silent: dict[PeerId, int] | None = None) -> SplitRun:
    tasks: list[Task] = [Few(f"{i + 1}/3") for i in range(3)]
    config = MPSLConfig(number="float32", steps=steps, average_every=average_every)
    return SplitRun(MPSL(config), tasks, silent=silent or {})


def test_a_host_that_fell_silent_costs_no_deadline_in_the_rounds_after() -> None:
    run = few(6, 1000, {A: 3})
    run.round()
    assert run.played[0].deadlines > 0
    for report in run.round():
        assert report.steps == 6
        assert "unanswered" not in report.metrics
    assert run.played[1].deadlines == 0


def test_a_host_that_was_away_for_rounds_goes_on_from_what_the_spare_learned() -> None:
    run = few(4, 1000)
    run.round()
    stale = run.hosting(A).side.vector()
    for _ in range(2):
        for learner in run.learners.values():
            learner.split_client.known.silent = {A: 0}  # type: ignore[attr-defined]
        run.round()
    assert np.array_equal(run.hosting(A).side.vector(), stale)
    spare = run.hosting(B).side.vector()
    for learner in run.learners.values():
        learner.split_client.known.silent = {}  # type: ignore[attr-defined]
    run.round()
    back = run.hosting(A).side.vector()
    assert run.hosting(A).steps == 8
    assert np.linalg.norm(back - spare) < np.linalg.norm(back - stale)


def test_a_frozen_spare_costs_a_deadline_and_not_one_per_averaging() -> None:
    run = few(8, 1, {B: 0})
    for report in run.round():
        assert report.steps == 8
    # The host's, when it gave its params, and one of each client, which compares.
    assert run.played[0].deadlines <= 4
    run.round()
    assert run.played[1].deadlines <= 1
