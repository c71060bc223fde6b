"""Record sessions: what arrives is what was sent, in order, once, or the session ends."""

import socket
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fast_pairs import Wire, handshake, noise, over_tcp, wired
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import Transport as NoiseTransport

from shoal.gossip.events import Loan, TakenBack
from shoal.gossip.net.transport import records
from shoal.gossip.net.transport.records import (
    AES,
    CHACHA,
    CHUNK,
    LARGEST,
    LAST_RECORD,
    MAX_JOINED,
    MAX_RECORD,
    TAG,
    Cipher,
    RecordSession,
    Suite,
    suites_by_speed,
)
from shoal.gossip.net.transport.tcp import LOOPBACK_BUFFER

SIZES = (0, 1, 17, 4095, 4096, 4097, 70_000, CHUNK, LARGEST, MAX_RECORD)


@pytest.mark.parametrize("suite", [AES, CHACHA], ids=lambda suite: suite.name)
@pytest.mark.parametrize("tcp", [True, False])
def test_records_arrive_whole_and_in_order(suite: Suite, tcp: bool) -> None:
    async def main() -> None:
        one, other = await over_tcp(suite) if tcp else (await wired(suite))[:2]

        async def send() -> None:
            for _ in range(3):
                for size in SIZES:
                    await one.write_record(bytes([size % 251]) * size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(3):
                for size in SIZES:
                    assert bytes(await other.read_record()) == bytes([size % 251]) * size
        await one.close()
        with pytest.raises(IncompleteReadError):
            await other.read_record()
        await other.close()

    trio.run(main)


@pytest.mark.parametrize("size", [0, 1, MAX_JOINED - 2, MAX_JOINED - 1, CHUNK, LARGEST + 1])
@pytest.mark.parametrize("tcp", [True, False])
def test_a_small_pair_is_one_record_and_a_large_one_several(size: int, tcp: bool) -> None:
    async def main() -> None:
        one, other = await over_tcp() if tcp else (await wired())[:2]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.write_records, b"hi", bytes(size))
            if 2 + size <= MAX_JOINED:
                assert bytes(await other.read_record()) == b"hi" + bytes(size)
            else:
                assert bytes(await other.read_record()) == b"hi"
                for start in range(0, size, LARGEST):
                    piece = min(LARGEST, size - start)
                    assert await other.wait_record() == piece
                    out = bytearray(b"x" * piece)
                    other.open_record(memoryview(out))
                    assert out == bytes(piece)
        await one.close()
        await other.close()

    trio.run(main)


BENDS = {
    "a flipped length": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a flipped first byte": lambda data: data[:4] + bytes([data[4] ^ 1]) + data[5:],
    "a flipped middle byte": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    "a flipped tag": lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
    "a shorter record": lambda data: (len(data) - 5).to_bytes(4, "big") + data[4:-1],
    "a record without its tag": lambda data: (len(data) - 4 - TAG).to_bytes(4, "big") + data[4:-TAG],
    "a length of nothing": lambda data: bytes(4) + data[4:],
    "a length below the tag": lambda data: (TAG - 1).to_bytes(4, "big") + data[4:],
    "a length beyond all records": lambda data: (MAX_RECORD + TAG + 1).to_bytes(4, "big") + data[4:],
    "a length of 4 GiB": lambda data: b"\xff" * 4 + data[4:],
    "a lost record": lambda data: b"",
    "a repeated record": lambda data: data + data,
}


async def read_both(session: RecordSession) -> None:
    await session.read_record()  # the first copy of a repeated record is genuine
    await session.read_record()


@pytest.mark.parametrize("bend", BENDS.values(), ids=BENDS.keys())
def test_a_bent_record_ends_the_session(bend: object) -> None:
    async def main() -> None:
        one, other, wire, _ = await wired()
        await one.write_record(b"fine")
        assert bytes(await other.read_record()) == b"fine"
        wire.bend = bend  # type: ignore[assignment]
        await one.write_record(b"x" * 100)
        wire.bend = lambda data: data
        await one.write_record(b"y" * 100)
        with pytest.raises(ConnectionClosedError):
            await read_both(other)

    trio.run(main)


def test_records_in_another_order_end_the_session() -> None:
    async def main() -> None:
        one, other, wire, _ = await wired()
        held: list[bytes] = []

        def hold(data: bytes) -> bytes:
            held.append(data)
            return b""

        wire.bend = hold
        await one.write_record(b"first")
        await one.write_record(b"second")
        await wire.stream.send_all(held[1] + held[0])
        with pytest.raises(ConnectionClosedError, match="does not open"):
            await other.read_record()

    trio.run(main)


def test_a_record_sent_back_to_its_sender_does_not_open() -> None:
    async def main() -> None:
        one, _, wire, far = await wired()
        held: list[bytes] = []
        wire.bend = lambda data: held.append(data) or b""  # type: ignore[func-returns-value]
        await one.write_record(b"mine")
        await far.stream.send_all(held[0])
        with pytest.raises(ConnectionClosedError, match="does not open"):
            await one.read_record()

    trio.run(main)


def test_a_cut_record_ends_the_session() -> None:
    async def main() -> None:
        one, other, wire, _ = await wired()
        wire.bend = lambda data: data[:-1]
        await one.write_record(b"x" * 100)
        await one.close()
        with pytest.raises(IncompleteReadError):
            await other.read_record()

    trio.run(main)


@pytest.mark.parametrize("suite", [AES, CHACHA], ids=lambda suite: suite.name)
def test_no_nonce_repeats_under_one_key(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_EVERY", 50)
    used: set[tuple[bytes, bytes]] = set()
    cipher = Cipher(bytes(32), suite)
    for _ in range(500):
        nonce = cipher._nonce()
        assert (cipher._key, nonce) not in used
        used.add((cipher._key, nonce))
    assert len({key for key, _ in used}) == 10
    assert (bytes(4) + b"\xff" * 8) not in {nonce for _, nonce in used}


def test_both_ends_change_the_key_at_the_same_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_EVERY", 10)

    async def main() -> None:
        one, other, *_ = await wired()
        first_key = one._sealer._key
        for number in range(35):
            await one.write_record(b"%d" % number)
            assert bytes(await other.read_record()) == b"%d" % number
        assert one._sealer._key == other._opener._key != first_key

    trio.run(main)


def test_a_session_ends_before_its_counter_does() -> None:
    cipher = Cipher(bytes(32), AES)
    cipher.count = LAST_RECORD - 1
    cipher._nonce()
    with pytest.raises(ConnectionClosedError, match="last record"):
        cipher._nonce()


def test_a_record_is_sealed_as_the_documentation_says() -> None:
    cipher = Cipher(b"k" * 32, AES)
    out = bytearray(5 + TAG)
    for number in range(3):
        cipher.seal_into(memoryview(b"plain"), memoryview(out))
        nonce = bytes(4) + number.to_bytes(8, "little")
        assert AESGCM(b"k" * 32).decrypt(nonce, bytes(out), None) == b"plain"


def test_a_peer_with_another_key_is_refused() -> None:
    async def main() -> None:
        left, right = trio.testing.memory_stream_pair()
        dialler, listener = noise(AES), noise(AES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, listener.secure_inbound, Wire(right, initiator=False))
            with pytest.raises(PeerIDMismatchesPubkey):
                await dialler.secure_outbound(Wire(left, initiator=True), noise(AES).local_peer)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_handshake_is_bound_to_the_protocol_that_was_negotiated() -> None:
    """/noise and ours with ChaCha20 run the same handshake, but for the prologue."""

    async def main() -> None:
        left, right = trio.testing.memory_stream_pair()
        standard = NoiseTransport(create_new_key_pair(), create_noise_key().private_key)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, standard.secure_inbound, Wire(right, initiator=False))
            with pytest.raises(InvalidTag):
                await noise(CHACHA).secure_outbound(Wire(left, initiator=True), standard.local_peer)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def swallow(function: object, wire: Wire) -> None:
    """Run a side that is expected to fail in its own way."""
    try:
        await function(wire)  # type: ignore[operator]
    except Exception:  # noqa: BLE001 - the other side says what matters
        return


def test_a_cancelled_writer_does_not_cut_its_record() -> None:
    async def main() -> None:
        one, other = await over_tcp()
        written = 0

        async def fill_the_socket() -> None:
            nonlocal written
            with trio.move_on_after(0.05) as scope:
                while True:
                    await one.write_record(bytes(CHUNK))
                    written += 1
            assert scope.cancelled_caught
            await one.write_record(b"last")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill_the_socket)
            await trio.sleep(0.1)  # by now the writer was cancelled in the middle of a record
            read = 0
            while (record := bytes(await other.read_record())) != b"last":
                assert record == bytes(CHUNK)
                read += 1
        assert read == written
        await one.close()
        await other.close()

    trio.run(main)


def test_what_was_taken_back_before_is_not_sent_and_the_session_goes_on() -> None:
    async def main() -> None:
        one, other = await over_tcp()
        for size in (10, LARGEST):
            loan = Loan(memoryview(bytearray(size)))
            body = loan.view
            loan.end()
            with pytest.raises(TakenBack):
                await one.write_records(b"head", body, loan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.write_record, b"next")
                assert bytes(await other.read_record()) == b"next"
        await one.close()
        await other.close()

    trio.run(main)


async def read_all(session: RecordSession, byte: int) -> None:
    while True:
        assert set(bytes(await session.read_record())) == {byte}


def test_a_session_ends_where_half_of_a_frame_is_taken_back() -> None:
    async def main() -> None:
        one, other = await over_tcp()
        memory = bytearray(b"\1" * (40 * LARGEST))
        loan = Loan(memoryview(memory))

        async def write() -> None:
            with pytest.raises(ConnectionClosedError, match="taken back"):
                await one.write_records(b"head", loan.view, loan)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.05)
            loan.end()
            memory[:] = b"\2" * len(memory)
            assert bytes(await other.read_record()) == b"head"
            with pytest.raises(IncompleteReadError):
                await read_all(other, 1)
        await other.close()

    trio.run(main)


def test_a_closed_session_neither_reads_nor_writes() -> None:
    async def main() -> None:
        for one, other in (await over_tcp(), (await wired())[:2]):
            async with trio.open_nursery() as nursery:

                async def read(session: RecordSession = one) -> None:
                    with pytest.raises((ConnectionClosedError, IncompleteReadError)):
                        await session.read_record()

                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await one.close()
            with pytest.raises(ConnectionClosedError):
                await one.write_record(b"more")
            with pytest.raises(ConnectionClosedError):
                await one.read_record()
            await one.close()
            await other.close()

    trio.run(main)


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    async def main() -> None:
        one, _, wire, _ = await wired()
        wire.blocked = True
        with pytest.raises(ConnectionClosedError, match="takes no data"):
            await one.write_record(b"hello")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("flags\t\t: fpu vme aes avx2\n", AES),
        ("Features\t: fp asimd aes pmull\n", AES),
        ("flags\t\t: fpu vme avx2\n", CHACHA),
        ("Features\t: fp asimd\n", CHACHA),
    ],
)
def test_the_faster_suite_of_the_cpu_is_offered_first(text: str, first: Suite, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert suites_by_speed(cpuinfo)[0] is first
    assert set(suites_by_speed(cpuinfo)) == {AES, CHACHA}
    assert set(suites_by_speed(tmp_path / "missing")) == {AES, CHACHA}


def test_two_ends_learn_each_others_identity() -> None:
    async def main() -> None:
        left, right = trio.testing.memory_stream_pair()
        one, other = await handshake(Wire(left, initiator=True), Wire(right, initiator=False))
        assert one.get_remote_peer() == other.get_local_peer()
        assert other.get_remote_peer() == one.get_local_peer()

    trio.run(main)


def test_little_is_kept_under_way_to_a_peer_on_this_machine() -> None:
    async def main() -> None:
        one, other = await over_tcp()
        for session in (one, other):
            tcp = session._tcp
            assert tcp is not None
            # Linux doubles what it is told, for its own bookkeeping.
            kept = tcp.stream.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert LOOPBACK_BUFFER <= kept <= 2 * LOOPBACK_BUFFER
            await session.close()

    trio.run(main)
