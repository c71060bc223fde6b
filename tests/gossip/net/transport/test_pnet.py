"""Private networks: libp2p's cipher and format, and nobody gets in who lacks the key."""

import socket

import pytest
import trio
from hosts import config, link, run_with_time_to_stop, time_stands_still, wait_for
from nacl.secret import SecretBox

from shoal.crypto.keys import new_key
from shoal.gossip.events import DialFailed, PeerFound
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.transport.pnet import (
    GREETING,
    NONCE_BYTES,
    OTHER_NETWORK,
    PrivateStream,
    hsalsa20,
    xsalsa20,
)
from shoal.gossip.net.transport.tcp import Traffic
from shoal.gossip.psk_file import BadNetworkKey, key_of, text_of
from shoal.gossip.scope import Teller

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
FIRST_KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")


# --- the cipher ---------------------------------------------------------------------------------------


def test_hsalsa20_is_that_of_the_paper_and_of_nacl() -> None:
    """Bernstein, "Cryptography in NaCl", 2009, section 8: the second key of its example."""
    made = hsalsa20(FIRST_KEY, NONCE[:16])
    assert made.hex() == "dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4"


def test_xsalsa20_is_that_of_the_paper() -> None:
    """The stream of the same example, section 9: its first bytes."""
    assert xsalsa20(FIRST_KEY, NONCE).encrypt(bytes(32)).hex() == (
        "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"
    )


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 70_000])
def test_the_stream_is_the_one_that_nacl_encrypts_with(size: int) -> None:
    """An independent implementation; its first 32 bytes key the authenticator."""
    text = bytes(i * 7 % 256 for i in range(size))
    stream = xsalsa20(KEY, NONCE)
    stream.encrypt(bytes(32))
    cut = stream.encrypt(text[: size // 3]) + stream.encrypt(text[size // 3 :])
    assert cut == SecretBox(KEY).encrypt(text, NONCE).ciphertext[16:]


# --- the file -----------------------------------------------------------------------------------------


def test_a_key_file_is_that_of_libp2p() -> None:
    text = f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}"
    assert key_of(text) == key_of(text_of(KEY)) == key_of(text.replace("\n", "\r\n")) == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY.hex(),
        f"/key/swarm/psk/1.0.0/\n/base64/\n{KEY.hex()}",
        f"/key/swarm/psk/2.0.0/\n/base16/\n{KEY.hex()}",
        f"/key/swarm/psk/1.0.0/\n/bin/\n{KEY.hex()}",
        f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()[:-2]}",
        f"/key/swarm/psk/1.0.0/\n/base16/\n{'xy' * 32}",
    ],
)
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(BadNetworkKey):
        key_of(text)


# --- the connection -----------------------------------------------------------------------------------


async def pair(one: bytes, other: bytes) -> tuple[PrivateStream, PrivateStream]:
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair()]
    return PrivateStream(ends[0], Traffic(), one), PrivateStream(ends[1], Traffic(), other)


def test_bytes_pass_however_they_are_cut() -> None:
    async def main() -> None:
        one, other = await pair(KEY, KEY)
        text = GREETING + bytes(i % 251 for i in range(3_000_000))

        async def send() -> None:
            await one.write(text[:7])
            await one.send_all(memoryview(text)[7:])
            await one.stream.send_eof()

        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(got) < 100:
                got += await other.read(13)
            room = memoryview(bytearray(5000))
            while (count := other.receive_nowait(room)) != 0:
                got += room[: count or 0]
                if count is None:
                    await other.wait_readable(1)
        for each in (one, other):
            await trio.aclose_forcefully(each.stream)
        assert bytes(got) == text

    trio.run(main)


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_hosts_with_one_key_talk(fast: bool, unix: bool) -> None:
    async def main() -> None:
        settings = config(fast_links=fast, local_sockets=unix)
        with trio.fail_after(250):
            async with (
                open_host(new_key(), settings, None, KEY) as one,
                open_host(new_key(), settings, None, KEY) as other,
            ):
                await link(one, other)
                data = bytes(i % 253 for i in range(3_000_000))
                one.send_nowait(other.me, b"head", memoryview(data))
                event = await wait_for(other, FrameReceived)
                assert (event.head, bytes(event.data)) == (b"head", data)

    trio.run(main)


async def refused(dialler: Libp2pHost, other: Libp2pHost) -> str:
    dialler.dial_nowait(other.addresses()[0])
    return (await wait_for(dialler, DialFailed)).reason


async def counted_once(host: Libp2pHost) -> None:
    """Wait until the other end has noticed it too: which of both is first is up to the system."""
    while not host.admission.counts[OTHER_NETWORK]:
        await trio.lowlevel.checkpoint()
    assert host.admission.counts[OTHER_NETWORK] == 1


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [(KEY, OTHER_KEY), (KEY, b""), (b"", KEY)])
def test_another_key_or_none_is_told_at_once(ours: bytes, theirs: bytes, unix: bool) -> None:
    """libp2p's specification promises a second; here nothing waits for a timer."""

    async def main() -> None:
        settings = config(local_sockets=unix)
        async with (
            open_host(new_key(), settings, None, ours) as one,
            open_host(new_key(), settings, None, theirs) as other,
        ):
            with time_stands_still():
                reason = await refused(one, other)
                assert not ours or reason == OTHER_NETWORK
                if theirs:
                    await counted_once(other)

    run_with_time_to_stop(main)


def test_a_scanner_gets_nothing_but_noise() -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with open_host(new_key(), config(local_sockets=False), None, KEY) as host:
                port = int(host.addresses()[0].split("/")[4])
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(GREETING)
                    got = b"".join([each async for each in stream])
                assert len(got) in (0, NONCE_BYTES, NONCE_BYTES + len(GREETING))
                assert GREETING[1:10] not in got

    trio.run(main)


# --- while the key changes ----------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((KEY,), (OTHER_KEY, KEY)),  # the dialler was away when the key changed
        ((OTHER_KEY,), (OTHER_KEY, KEY)),  # it is new, and knows the new key alone
        ((OTHER_KEY, KEY), (KEY,)),  # the one that is dialled was away
        ((OTHER_KEY, KEY), (OTHER_KEY, KEY)),
    ],
)
def test_nodes_talk_that_know_one_key_of_the_two(
    ours: tuple[bytes, ...], theirs: tuple[bytes, ...], unix: bool
) -> None:
    async def main() -> None:
        settings = config(local_sockets=unix)
        with trio.fail_after(250):
            async with (
                open_host(new_key(), settings, None, KEY) as one,
                open_host(new_key(), settings, None, KEY) as other,
            ):
                one.use_network_keys(ours)
                other.use_network_keys(theirs)
                await link(one, other)
                data = bytes(i % 253 for i in range(300_000))
                one.send_nowait(other.me, b"head", memoryview(data))
                event = await wait_for(other, FrameReceived)
                assert (event.head, bytes(event.data)) == (b"head", data)

    trio.run(main)


@pytest.mark.parametrize(("ours", "theirs"), [((KEY,), (OTHER_KEY,)), ((b"x" * 32,), (OTHER_KEY, KEY))])
def test_a_key_that_has_ended_lets_nobody_in(ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> None:
    async def main() -> None:
        async with (
            open_host(new_key(), config(), None, KEY) as one,
            open_host(new_key(), config(), None, KEY) as other,
        ):
            one.use_network_keys(ours)
            other.use_network_keys(theirs)
            assert await refused(one, other) == OTHER_NETWORK
            await counted_once(other)

    trio.run(main)


def test_who_holds_two_keys_says_nothing_but_noise_before_it_knows_which() -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with open_host(new_key(), config(local_sockets=False), None, KEY) as host:
                host.use_network_keys((OTHER_KEY, KEY))
                port = int(host.addresses()[0].split("/")[4])
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(GREETING)
                    got = b"".join([each async for each in stream])
                assert len(got) in (0, NONCE_BYTES)

    trio.run(main)


def test_a_peer_of_a_private_network_that_another_named_is_dialled() -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config(local_sockets=False), None, KEY) as one,
                open_host(new_key(), config(local_sockets=False), None, KEY) as other,
            ):
                one.dial_nowait(other.addresses()[0], Teller("peer", "127.0.0.1"))
                await wait_for(one, PeerFound)

    trio.run(main)
