"""Split learning over real nodes: who holds the body is killed, and the others go on with another host."""

from pathlib import Path

import pytest
from swarm import Swarm, averaged

from shoal.node.status import Status
from shoal.node.testnet.watch import Observed, host_cost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = ("--task", "digits_captions", "--method", "mpsl", "--option", "steps=4")


def hosts(status: Status, role: str) -> set[str]:
    """Return who holds the body, or its last stage, and answers calls, as a node sees it."""
    return set() if status.calls is None else set(status.calls.hosts.get(role, ()))


@pytest.mark.parametrize(("role", "stages", "count"), [("host", 1, 3), ("host2", 2, 4)])
def test_when_a_host_is_killed_another_takes_its_place_and_all_learn_on(
    role: str, stages: int, count: int, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--option", f"stages={stages}", "--wait-for", str(count))
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *flags)
        others = (("--task-option", f"seed={number}") for number in range(1, count))
        nodes = [one, *(swarm.start(f"with {each[1]}", *flags, *each, join=one) for each in others)]
        seen = [node.wait("a host", lambda each: averaged(each) and hosts(each, role)) for node in nodes]
        host = min(hosts(seen[0], role))
        told = [Observed(f"node-{number}") for number in range(1, count + 1)]
        for each, status in zip(told, seen, strict=True):
            each.take(status, 1.0)
        killed = [each.peer for each in told].index(host) + 1
        by_id = {status.peer_id: node for status, node in zip(seen, nodes, strict=True)}
        by_id.pop(host).kill()
        later = max(node.status.round for node in by_id.values()) + 2
        for node in by_id.values():
            node.wait("another host", lambda status: hosts(status, role) and host not in hosts(status, role))
            after = node.wait("more rounds", lambda status: max(averaged(status), default=0) >= later)
            assert after.calls is not None
            assert any(each.verb == "grad" and each.part == "answer" for each in after.calls.parts)
            told[[each.peer for each in told].index(after.peer_id)].take(after, 3.0)
        cost = host_cost(told, killed, at=2.0, until=4.0)
        assert cost is not None
        assert role in cost.roles
        assert cost.taken_by[role] not in (killed, None)
