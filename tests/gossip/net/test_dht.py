"""The DHT among strangers: nobody fills the swarm's record, nor keeps others from being served."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hosts import config, link, stranger
from libp2p.kad_dht.common import BUCKET_SIZE, PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from shoal.crypto.keys import PeerId, new_key
from shoal.gossip.addresses import parse
from shoal.gossip.net import dht as dht_module
from shoal.gossip.net.dht import (
    HOUR,
    MAX_ADDRESSES,
    MAX_KEYS,
    MAX_OF_A_BLOCK,
    MAX_STREAMS_OF_A_PEER,
    Providers,
    few_of_a_block,
    keys_of,
)
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.libp2p_node import Network

KEY = b"the key of the swarm"


def peer(number: int) -> ID:
    return ID(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


def provider(number: int, host: str) -> PeerInfo:
    return PeerInfo(peer(number), [Multiaddr(f"/ip4/{host}/tcp/4710")] * (MAX_ADDRESSES + 3))


def providers(answering: set[int], linked: dict[int, str] | None = None) -> Providers:
    """Make a store at a node that has links to some, and the hello of some."""
    host = SimpleNamespace(get_id=lambda: peer(0))

    def connections(remote: str) -> list[Any]:
        muxed = SimpleNamespace(get_remote_address=lambda: (remote, 1234))
        return [SimpleNamespace(muxed_conn=muxed)]

    swarm = SimpleNamespace(
        connections={peer(each): connections(remote) for each, remote in (linked or {}).items()}
    )
    dht: Any = SimpleNamespace(host=host, peer_routing=None)
    network: Any = SimpleNamespace(swarm=swarm)
    made = Providers(dht, network)
    names = {PeerId(str(peer(each))) for each in answering}
    made.answered = names
    return made


def kept(store: Providers) -> list[int]:
    return [int.from_bytes(each.peer_id.to_bytes()[6:], "big") for each in store.get_providers(KEY)]


def test_the_key_changes_by_the_hour_and_neighbours_in_time_share_two() -> None:
    now = 1_800_000_000.0
    assert len(set(keys_of("shoal", now))) == 3
    assert keys_of("shoal", now)[1:] == keys_of("shoal", now + HOUR)[:2]
    assert not set(keys_of("shoal", now)) & set(keys_of("another", now))
    assert not set(keys_of("shoal", now)) & set(keys_of("shoal", now + 3 * HOUR))


def test_few_of_one_prefix_are_kept_wherever_they_say_they_are() -> None:
    store = providers(set(), dict.fromkeys((), "198.18.0.1") | dict.fromkeys(range(1, 9), "8.8.4.4"))
    for number in range(1, 9):
        store.add_provider(KEY, provider(number, f"{number}.1.1.1"))
    assert kept(store) == [1, 2]
    assert len(kept(store)) == MAX_OF_A_BLOCK
    store.add_provider(KEY, provider(20, "9.9.9.9"))
    assert kept(store) == [1, 2, 20]


def test_on_one_machine_and_in_one_local_network_no_prefix_is_counted() -> None:
    store = providers(set())
    for number in range(1, 9):
        store.add_provider(KEY, provider(number, "127.0.0.1" if number % 2 else "192.168.1.7"))
    assert kept(store) == list(range(1, 9))


def test_a_record_full_of_keys_that_say_nothing_still_takes_who_says_hello() -> None:
    store = providers({101, 102})
    for number in range(1, 60):
        store.add_provider(KEY, provider(number, f"{number}.{number}.1.1"))
    assert len(kept(store)) == BUCKET_SIZE
    for number in (101, 102):
        store.add_provider(KEY, provider(number, f"1{number % 10}0.2.2.2"))
    assert kept(store)[:2] == [101, 102]
    assert len(kept(store)) == BUCKET_SIZE
    store.add_provider(KEY, provider(103, "99.99.1.1"))
    assert 103 not in kept(store)


def test_keys_and_addresses_are_bounded_and_our_own_key_stays() -> None:
    store = providers(set())
    store.providing_keys.add(KEY)
    store.add_provider(KEY, provider(0, "1.1.1.1"))
    for number in range(2 * MAX_KEYS):
        store.add_provider(b"%d" % number, provider(1, "8.8.8.8"))
    assert len(store.providers) == MAX_KEYS
    assert kept(store) == [0]
    assert all(len(each.addrs) == MAX_ADDRESSES for each in store.get_providers(KEY))


def test_of_what_is_found_few_of_one_prefix_are_dialled_and_those_first_that_said_hello() -> None:
    found = [(peer(n), provider(n, f"8.8.{n}.1")) for n in range(1, 6)]
    found += [(peer(n), provider(n, "127.0.0.1")) for n in range(6, 9)]
    chosen = few_of_a_block(found, {PeerId(str(peer(5)))})
    assert [each for each, _ in chosen] == [peer(n) for n in (5, 1, 6, 7, 8)]


async def ask(network: Network, host: Libp2pHost) -> Message:
    """Ask a host who provides the key, as any libp2p node would."""
    connection = await network.dial(parse(host.addresses()[0]), lambda _muxed, _peer: True)
    stream = await network.open_stream(connection, PROTOCOL_ID)
    data = Message(type=Message.MessageType.GET_PROVIDERS, key=KEY).SerializeToString()
    await stream.write(encode_uvarint(len(data)) + data)
    answer = Message()
    answer.ParseFromString(await read_varint_prefixed_bytes_limited(stream, 1 << 20))
    await stream.close()
    return answer


def under_attack(attack: Callable[[Network, Libp2pHost], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config(dht=True)) as host,
                open_host(new_key(), config()) as colleague,
                stranger() as liar,
                stranger() as honest,
            ):
                await link(colleague, host)
                await attack(liar, host)
                answer = await ask(honest, host)
                assert answer.type == Message.MessageType.GET_PROVIDERS

    trio.run(main)


async def open_idle(liar: Network, host: Libp2pHost, count: int, piece: bytes) -> list[Any]:
    """Open streams of the DHT from as many keys as are needed, and say half of something on each."""
    connection = await liar.dial(parse(host.addresses()[0]), lambda _muxed, _peer: True)
    streams = []
    for _ in range(count):
        stream = await liar.open_stream(connection, PROTOCOL_ID)
        assert stream is not None
        with suppress(Exception):  # the library's, of several kinds: it may have ended by now
            await stream.write(piece)
        streams.append(stream)
    return streams


@pytest.mark.parametrize("piece", [b"\x80", encode_uvarint(100) + bytes(99)])
def test_idle_streams_do_not_stop_it(piece: bytes) -> None:
    async def attack(liar: Network, host: Libp2pHost) -> None:
        await open_idle(liar, host, 12, piece)

    under_attack(attack)


def test_half_a_message_ends_after_a_while_and_a_peer_ends_its_own_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def attack(liar: Network, host: Libp2pHost) -> None:
        monkeypatch.setattr(dht_module, "MESSAGE_PATIENCE", 0.5)
        streams = await open_idle(liar, host, MAX_STREAMS_OF_A_PEER + 1, b"\x80")
        for stream in streams:
            with pytest.raises(Exception, match=r".*"):  # the library's, of several kinds
                await stream.read(1)
        monkeypatch.setattr(dht_module, "MESSAGE_PATIENCE", 60.0)  # for whoever asks afterwards

    under_attack(attack)
