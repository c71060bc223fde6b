"""Lookup: what the DHT, mDNS and GossipSub say becomes events, and their faults become nothing."""

import itertools
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hosts import config, link

from shoal.crypto.keys import PeerId, new_key, peer_id_of
from shoal.gossip.events import Learned
from shoal.gossip.net import dht
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.peer_discovery import LocalNetwork, keep_running

ME = peer_id_of(bytes(new_key().verify_key))
OTHER = peer_id_of(bytes(new_key().verify_key))


def test_a_part_that_fails_is_tried_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[float] = []

    async def part() -> None:
        runs.append(trio.current_time())
        raise OSError("no network")

    async def main() -> None:
        with trio.move_on_after(1000):
            await keep_running("mDNS", part)

    with caplog.at_level(logging.INFO, "shoal.gossip.net.peer_discovery"):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    pauses = [later - before for before, later in itertools.pairwise(runs)]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert [each.getMessage() for each in caplog.records] == [
        "mDNS does not work and is tried again later: no network"
    ]


PUBLIC = SimpleNamespace(traffic=SimpleNamespace(network_keys=()))
"""What is read of a network that anybody may enter."""


class FakeZeroconf:
    """Knows one service."""

    def __init__(self, properties: dict[bytes, bytes | None]) -> None:
        self.properties = properties

    def get_service_info(self, _type: str, _name: str, timeout: int) -> Any:
        return SimpleNamespace(properties=self.properties) if self.properties else None


def heard(properties: dict[bytes, bytes | None]) -> list[Learned]:
    """Return what is learned from a service in the local network."""
    learned: list[Any] = []

    async def main() -> None:
        network: Any = PUBLIC
        local = LocalNetwork(network, config(), ME, learned.append)
        local._token = trio.lowlevel.current_trio_token()
        await trio.to_thread.run_sync(
            local.add_service, FakeZeroconf(properties), "_shoal._udp.local.", "x._shoal._udp.local."
        )
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    return learned


def service(*addresses: bytes, swarm: str = "shoal") -> dict[bytes, bytes | None]:
    network: Any = PUBLIC
    own = LocalNetwork(network, config(swarm=swarm), ME, lambda _: None)
    return {b"swarm": own._swarms()[0], **{b"dnsaddr%d" % i: each for i, each in enumerate(addresses)}}


def test_a_node_in_the_local_network_is_learned() -> None:
    address = f"/ip4/192.0.2.7/tcp/4710/p2p/{OTHER}"
    assert heard(service(address.encode())) == [Learned(address, "mdns")]


@pytest.mark.parametrize(
    "properties",
    [
        {},
        service(f"/ip4/192.0.2.7/tcp/4710/p2p/{OTHER}".encode(), swarm="another"),
        service(f"/ip4/192.0.2.7/tcp/4710/p2p/{ME}".encode()),
        service(b"/ip4/192.0.2.7/tcp/4710"),
        service(f"/ip4/0.0.0.0/tcp/4710/p2p/{OTHER}".encode()),
        service(b"\xff\xfe", b"x" * 5000, b""),
        {b"dnsaddr": f"/ip4/192.0.2.7/tcp/4710/p2p/{OTHER}".encode()},
    ],
    ids=range(7),
)
def test_anything_else_in_the_local_network_is_not(properties: dict[bytes, bytes | None]) -> None:
    assert heard(properties) == []


def test_no_more_than_a_few_addresses_of_a_service_are_taken() -> None:
    addresses = [f"/ip4/192.0.2.7/tcp/{port}/p2p/{OTHER}".encode() for port in range(1, 100)]
    assert len(heard(service(*addresses))) == 8


@pytest.mark.slow
def test_two_nodes_that_know_a_third_find_each_other_in_the_dht(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("EVERY", "EVERY_ALONE"):  # who finds the third first is not alone any more
        monkeypatch.setattr(dht, pause, 1.0)

    async def learn(host: Libp2pHost, peer: PeerId) -> None:
        while True:
            event = await host.next_event()
            if isinstance(event, Learned) and event.address.endswith(peer):
                assert event.source == "dht"
                return

    async def main() -> None:
        with trio.fail_after(60):
            async with (
                open_host(new_key(), config(dht=True, internet=("127.0.0.0/8",))) as one,
                open_host(new_key(), config(dht=True, internet=("127.0.0.0/8",))) as third,
                open_host(new_key(), config(dht=True, internet=("127.0.0.0/8",))) as two,
            ):
                await link(one, third)
                await link(two, third)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(learn, one, two.me)
                    nursery.start_soon(learn, two, one.me)

    trio.run(main)
