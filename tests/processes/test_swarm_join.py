"""Nodes come, go and find each other: bootstraps that die or never were, late joiners, odd shapes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swarm import LOOPBACK, TRAIN, Node, Swarm, averaged, wait_agreement, wait_until

from shoal.crypto.keys import new_key, peer_id_of
from shoal.node.status import Status
from shoal.node.web import client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def silent_port() -> Iterator[int]:
    """A port at which somebody takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def reasons(status: Status) -> dict[str, str]:
    return {each.address: each.reason for each in status.bootstrap}


def linked(status: Status) -> int:
    return sum(peer.link != "none" for peer in status.peers)


def assert_no_round_lost(nodes: list[Node]) -> None:
    for node in nodes:
        history = node.status.history
        assert {each.outcome for each in history} == {"averaged"}, f"{node.name}: {history}"
        assert [each.round for each in history] == list(range(len(history))), f"{node.name}: {history}"


def test_a_sixth_node_joins_through_any_peer_after_the_bootstrap_was_killed(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        flags = (*TRAIN, "--wait-for", "5")
        bootstrap = swarm.start("bootstrap", *flags)
        rest = [swarm.start(f"node{i}", *flags, join=bootstrap) for i in range(2, 6)]
        wait_agreement([bootstrap, *rest], least=2)
        bootstrap.kill()
        sixth = swarm.start("sixth", *flags, join=rest[-1])
        sixth.wait("has a trainer", lambda status: status.run is not None)
        running = rest[0].status.round
        first = min(averaged(sixth.wait("averages", averaged)))
        assert first <= running + 2, f"up in round {running}, in with round {first}"
        wait_agreement([*rest, sixth], least=first)
        assert_no_round_lost(rest)
        assert averaged(sixth.status)[first].contributors == 5


def test_a_node_whose_bootstraps_are_all_dead_says_why_and_joins_when_one_comes_up(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm, silent_port() as silent:
        stranger = swarm.start("stranger", "--swarm", "another")
        other = swarm.start("other")
        someone = peer_id_of(bytes(new_key().verify_key))
        port = closed_port()
        refused, timeout = LOOPBACK.format(port), LOOPBACK.format(silent)
        wrong_key = f"{other.address.rpartition('/p2p/')[0]}/p2p/{someone}"
        wrong_swarm = stranger.address
        node = swarm.start("node", *TRAIN, join=[refused, timeout, wrong_key, wrong_swarm])
        expected = {
            refused: "refused",
            timeout: "timeout",
            wrong_key: "wrong key",
            wrong_swarm: "wrong swarm",
        }
        node.wait("says why each failed", lambda status: reasons(status) == expected)
        node.wait("trains alone meanwhile", lambda status: status.round >= 1)
        late = swarm.start("late", *TRAIN, "--listen", refused)
        node.wait("is linked with the late one", lambda status: linked(status) == 1)
        wait_until("averages with it", lambda: averaged(node.status))
        found = {each.address: each for each in node.status.bootstrap}
        assert (found[refused].state, found[refused].reason) == ("connected", "")
        assert found[wrong_swarm].reason == "wrong swarm"
        wait_agreement([node, late], least=max(averaged(node.status)))


def test_two_swarms_of_three_become_one_by_a_single_link(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        halves = []
        for half in ("a", "b"):
            first = swarm.start(f"{half}1", *TRAIN, "--wait-for", "3")
            halves.append(
                [first, *(swarm.start(f"{half}{i}", *TRAIN, "--wait-for", "3", join=first) for i in (2, 3))]
            )
        for nodes in halves:
            wait_agreement(nodes, least=1)
        left, right = halves
        client.add_bootstrap(left[1].home, right[2].address)
        for node in left + right:
            node.wait("knows five peers", lambda status: linked(status) == 5)
        wait_until(
            "six average together",
            lambda: any(each.contributors == 6 for each in averaged(left[0].status).values()),
        )
        wait_agreement(left + right, least=left[0].status.round)


@pytest.mark.parametrize("shape", ["line", "ring", "star"])
def test_six_nodes_finish_however_they_were_connected(tmp_path: Path, shape: str) -> None:
    with Swarm(tmp_path) as swarm:
        flags = (*TRAIN, "--wait-for", "6", "--rounds", "6")
        nodes = [swarm.start("node0", *flags)]
        for i in range(1, 6):
            nodes.append(swarm.start(f"node{i}", *flags, join=nodes[0 if shape == "star" else i - 1]))
        if shape == "ring":
            client.add_bootstrap(nodes[0].home, nodes[-1].address)
        for node in nodes:
            node.wait("finishes", lambda status: status.phase == "finished")
        assert len({node.status.state_hash for node in nodes}) == 1
        for node in nodes:
            assert node.status.round == 6
            print(node.name, [each.contributors for each in node.status.history])
