"""Company: whether a node that trained with others waits for them, and what ends its waiting."""

import msgspec
import pytest
from sim.world import Scenario, Sim

from shoal.crypto.keys import PeerId
from shoal.gossip.lifecycle import Lifecycle, Phase
from shoal.gossip.membership.company import MAX_GONE, Company, Policy
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Presence, Record
from shoal.gossip.run_spec import RunSpec, TensorSpec

ME, OTHER, THIRD = (PeerId(name) for name in ("me", "other", "third"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),), quorum=3)


@pytest.mark.parametrize(("policy", "waits"), [("wait", True), ("wait-for-lost", False), ("go-on", False)])
def test_a_goodbye_may_come_before_the_state_that_its_sender_took_part_in(
    policy: Policy, waits: bool
) -> None:
    company = Company(policy)
    company.left(OTHER)
    company.note_state((ME, OTHER), ME, is_fetched=False)
    assert company.is_awaited is waits


def test_who_is_linked_again_after_its_goodbye_is_waited_for_again() -> None:
    company = Company("wait-for-lost")
    company.left(OTHER)
    company.found(OTHER)
    company.note_state((ME, OTHER), ME, is_fetched=False)
    assert company.is_awaited


def test_a_trainer_that_is_back_waits_for_those_that_did_not_say_goodbye_meanwhile() -> None:
    company = Company("wait-for-lost")
    company.attach(had_company=True)
    assert not company.is_awaited  # the disk does not tell who left
    company.note_state((ME, OTHER), ME, is_fetched=False)
    company.attach(had_company=True)
    assert company.is_awaited
    company.left(OTHER)
    company.attach(had_company=True)
    assert not company.is_awaited


def test_of_several_the_last_goodbye_ends_the_waiting() -> None:
    company = Company("wait-for-lost")
    company.note_state((ME, OTHER, THIRD), ME, is_fetched=False)
    company.left(OTHER)
    assert company.is_awaited
    company.left(THIRD)
    assert not company.is_awaited


def test_a_newcomer_that_fetched_its_state_goes_on_once_those_that_were_there_have_left() -> None:
    company = Company("wait-for-lost")
    company.note_state((OTHER,), ME, is_fetched=True)
    company.left(OTHER)
    assert not company.is_awaited


def test_a_peer_that_trains_no_more_is_not_waited_for_where_only_the_lost_are() -> None:
    for policy, waits in (("wait", True), ("wait-for-lost", False)):
        company = Company(policy)  # type: ignore[arg-type]
        company.note_state((ME, OTHER), ME, is_fetched=False)
        company.stopped([THIRD])
        assert company.is_awaited
        company.stopped([OTHER])
        assert company.is_awaited is waits


def test_only_so_many_goodbyes_are_remembered() -> None:
    company = Company("wait-for-lost")
    for number in range(2 * MAX_GONE):
        company.left(PeerId(f"p{number}"))
    assert len(company._gone) == MAX_GONE


def test_a_linked_node_without_a_trainer_is_no_company() -> None:
    view = SwarmView(ME, 12.0)
    view.run, view.spec, view.lifecycle = b"run", SPEC, Lifecycle(ME, Phase.WORKING)
    told = Presence(b"run", "run", 5, b"n" * 32, b"", "working", 12.0, ())
    view.table.connected.add(OTHER)
    view.table.update(Record(OTHER, 1, told), 0.0, 0.0)
    assert (view.linked_trainers(), view.linked_helpers()) == ([OTHER], [])
    view.table.update(Record(OTHER, 2, msgspec.structs.replace(told, phase="helping")), 1.0, 1.0)
    assert (view.linked_trainers(), view.linked_helpers()) == ([], [OTHER])


def test_a_quorum_is_waited_for_as_long_as_the_patience_and_company_without_end() -> None:
    view = SwarmView(ME, 12.0)
    view.run, view.spec = b"run", SPEC
    assert (view.company, view.least) == (1, 3)
    view.together.note_state((ME, OTHER), ME, is_fetched=False)
    assert (view.company, view.least) == (2, 3)


def test_a_node_that_lacks_its_quorum_says_so_once_a_patience() -> None:
    swarm = Sim(Scenario(3, 2, quorum=2, starts=(0.0, 40.0), patience=5.0, wait_for=1))
    first = next(iter(swarm.nodes.values()))
    failed: list[str] = []
    honest = swarm.oracle.noticed

    def noticed(node: object, notice: object) -> None:
        if node is first and swarm.now < 39.0 and type(notice).__name__ == "Failed":
            failed.append(str(notice))
        honest(node, notice)  # type: ignore[arg-type]

    swarm.oracle.noticed = noticed  # type: ignore[method-assign]
    assert not swarm.run().violations
    assert len(failed) >= 2


def test_a_peer_whose_trainer_is_back_over_the_same_link_is_company_again() -> None:
    company = Company("wait-for-lost")
    company.note_state((ME, OTHER), ME, is_fetched=False)
    company.stopped([OTHER])
    company.note_state((ME, OTHER), ME, is_fetched=False)
    assert company.is_awaited
