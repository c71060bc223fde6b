"""Record sessions: libp2p's Noise handshake, then AEAD records of up to 512 KiB.

libp2p lets two peers choose a security protocol by name. This one runs the Noise XX handshake of the
standard, unchanged but for its cipher and prologue, and takes over the two keys at its end. Noise
itself sends messages of at most 64 KiB, each copied several times by the library; here

    record = length (4 bytes, big endian) | ciphertext | tag (16 bytes)
    nonce  = 00 00 00 00 | number of the record (8 bytes, little endian)

One key per direction, one counter per key: a nonce never repeats. After `REKEY_EVERY` records both
sides replace the key as Noise's REKEY does, which keeps the data under one key far below the bounds
of AES-GCM; after `LAST_RECORD` the session ends. A record that was cut, altered, repeated or moved
fails to open, and ends the session.

The Noise Protocol Framework, Trevor Perrin, revision 34, https://noiseprotocol.org/noise.html;
libp2p's profile: https://github.com/libp2p/specs/tree/master/noise
"""

import mmap
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair, PrivateKey
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import Transport as NoiseTransport

from shoal.gossip.events import Loan, TakenBack
from shoal.gossip.net.transport.tcp import TcpStream

CHUNK: Final = 256 * 1024
"""Payload of a record where others wait for it: on a slow line, or of many small writers."""
LARGEST: Final = 512 * 1024
"""Payload of a full record. Measured: larger ones fall out of the cache, smaller ones cost calls."""
MAX_RECORD: Final = LARGEST + 256
"""Plaintext of a record: a payload and the muxer's header."""
MAX_JOINED: Final = 16 * 1024
"""Plaintext that is put together from two pieces; copying more costs more than a second record."""
TAG: Final = 16
LENGTH: Final = 4
_LENGTH: Final = struct.Struct("!I")
_NONCE: Final = struct.Struct("<4xQ")
PEEK: Final = 4096
"""Bytes read ahead of a record, so that a small one costs no system call of its own."""
LAST_RECORD: Final = 1 << 63
REKEY_EVERY: Final = 1 << 20
"""Records under one key: at most 256 GiB, where AES-GCM's margin is still 2^-60."""
SEND_STALL: Final = 60.0
"""Seconds after which a peer that takes no byte is gone. A guess: two lost minutes are worse."""

Aead = AESGCM | ChaCha20Poly1305


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher of the handshake and the records."""

    name: str
    noise_name: bytes
    aead: type[AESGCM] | type[ChaCha20Poly1305]

    @property
    def protocol(self) -> str:
        """Name it is negotiated under."""
        return f"/shoal/noise-{self.name}/1"


AES: Final = Suite("aes", b"Noise_XX_25519_AESGCM_SHA256", AESGCM)
CHACHA: Final = Suite("chacha", b"Noise_XX_25519_ChaChaPoly_SHA256", ChaCha20Poly1305)


def suites_by_speed(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[Suite, Suite]:
    """Return both suites, first the one that this CPU computes faster.

    AES-GCM is about 1.5 times faster than ChaCha20 with AES instructions and ten times slower
    without. Systems without /proc/cpuinfo are taken to have them, as all their 64-bit CPUs do.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return (AES, CHACHA) if platform.machine() in {"x86_64", "AMD64", "arm64"} else (CHACHA, AES)
    flags = {
        word
        for line in text.splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.split()
    }
    return (AES, CHACHA) if "aes" in flags else (CHACHA, AES)


class Cipher:
    """One direction of a session: a key and the number of the next record."""

    def __init__(self, key: bytes, suite: Suite) -> None:
        """`key`: 32 bytes that nothing else uses."""
        self._suite = suite
        self._key = key
        self._aead: Aead = suite.aead(key)
        self.count = 0

    def _nonce(self) -> bytes:
        """Return the nonce of the next record; no value is ever returned twice under one key.

        Raises:
            ConnectionClosedError: the session has reached its end.
        """
        if self.count >= LAST_RECORD:
            raise ConnectionClosedError("the session has sent its last record")
        if self.count and self.count % REKEY_EVERY == 0:
            self._key = self._aead.encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32]
            self._aead = self._suite.aead(self._key)
        nonce = _NONCE.pack(self.count)
        self.count += 1
        return nonce

    def seal_into(self, plain: bytes | memoryview, out: memoryview) -> None:
        """Write ciphertext and tag into `out`, which is `TAG` bytes longer than `plain`."""
        self._aead.encrypt_into(self._nonce(), plain, None, out)

    def open_into(self, sealed: memoryview, out: memoryview) -> None:
        """Write the plaintext into `out`, which is `TAG` bytes shorter than `sealed`.

        Raises:
            ConnectionClosedError: altered, repeated, out of order, or sealed by another key.
        """
        try:
            self._aead.decrypt_into(self._nonce(), sealed, None, out)
        except InvalidTag as error:
            raise ConnectionClosedError("a record does not open") from error


def _room(size: int) -> memoryview:
    """Return memory that costs nothing before it is used: most links never carry a full record."""
    return memoryview(mmap.mmap(-1, size))


class RecordSession(BaseSession):
    """A secured connection that carries records; see the module's docstring."""

    def __init__(self, noise: Any, raw: IRawConnection, suite: Suite) -> None:
        """Take over the keys of a finished handshake. `noise` must not be used again."""
        super().__init__(
            local_peer=noise.local_peer,
            local_private_key=noise.local_private_key,
            remote_peer=noise.remote_peer,
            remote_permanent_pubkey=noise.remote_permanent_pubkey,
            is_initiator=noise.is_initiator,
        )
        state = noise.conn.noise_state.noise_protocol
        self._sealer = Cipher(bytes(state.cipher_state_encrypt.k), suite)
        self._opener = Cipher(bytes(state.cipher_state_decrypt.k), suite)
        self._raw = raw
        stream = getattr(raw, "stream", None)
        # A relayed or wrapped connection has no socket of its own and is read and written in copies.
        self._tcp = stream if isinstance(stream, TcpStream) else None
        self._write_lock = trio.Lock()
        self._plain_out = _room(MAX_JOINED)
        self._sealed_out = _room(2 * (LENGTH + TAG) + MAX_JOINED + MAX_RECORD)
        self._plain_in = _room(MAX_RECORD)
        self._sealed_in = _room(LENGTH + MAX_RECORD + TAG + PEEK)
        self._have = 0
        self._next = 0
        self._rest = b""
        self._is_cut = False
        self._closed = False

    async def write_record(self, plain: bytes | memoryview) -> None:
        """Seal and send one record. It is sent whole even if the caller is cancelled.

        Nothing of this waits while the system takes the data: whoever writes much lets others run.

        Raises:
            ConnectionClosedError: the connection ended, or the peer takes no data.
        """
        await self._begin_write()
        try:
            await self._send(self._seal(plain, 0))
        finally:
            self._write_lock.release()

    async def write_records(self, head: bytes, body: bytes | memoryview, loan: Loan | None = None) -> None:
        """Seal and send both: as one record where that is small, else as several with none between them.

        `loan`: of which `body` is a piece. Where it ends between two records, so that who waits for the rest
        would get other bytes, the session ends; that is rare, as only what goes out at once has several.

        Raises:
            ConnectionClosedError: the connection ended, or the peer takes no data.
            TakenBack: the loan is over; nothing was sent.
        """
        await self._begin_write()
        try:
            if loan is not None and loan.is_over:
                raise TakenBack
            size = len(head) + len(body)
            if size <= MAX_JOINED:
                self._plain_out[: len(head)] = head
                self._plain_out[len(head) : size] = body
                await self._send(self._seal(self._plain_out[:size], 0))
            else:
                end = self._seal(head, 0)
                for start in range(0, len(body), LARGEST):
                    if loan is not None and loan.is_over:
                        await self.close()
                        raise ConnectionClosedError("half of a frame was taken back")
                    await self._send(self._seal(body[start : start + LARGEST], end))
                    end = 0
        finally:
            self._write_lock.release()

    async def wait_room(self) -> None:
        """Wait until the system holds little that it has not sent, where it can tell.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        if self._tcp is not None:
            await self._tcp.wait_writable()

    async def _begin_write(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # the last moment: from here on it is sent whole
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        if self._closed or self._is_cut:
            self._write_lock.release()
            raise ConnectionClosedError("the session is closed")

    def _seal(self, plain: bytes | memoryview, start: int) -> int:
        """Put a record into what is sent next, from `start` on; return its end."""
        end = start + LENGTH + len(plain) + TAG
        _LENGTH.pack_into(self._sealed_out, start, len(plain) + TAG)
        self._sealer.seal_into(plain, self._sealed_out[start + LENGTH : end])
        return end

    async def _send(self, size: int) -> None:
        """Send what was sealed; half of it on the wire ends the session for everyone on it."""
        sealed = self._sealed_out[:size]
        self._is_cut = True
        if self._tcp is not None:
            # Again after a part was taken: often the other end has made room meanwhile.
            while sealed and (count := self._tcp.send_nowait(sealed)):
                sealed = sealed[count:]
        if sealed:
            with trio.CancelScope(deadline=trio.current_time() + SEND_STALL, shield=True) as scope:
                if self._tcp is not None:
                    await self._tcp.send_all(sealed)
                else:
                    await self._raw.write(bytes(sealed))
            if scope.cancelled_caught:
                await self.close()
                raise ConnectionClosedError("the peer takes no data")
        self._is_cut = False

    async def read_record(self) -> memoryview:
        """Return the next record's plaintext; it stays valid until the next call.

        Raises:
            ConnectionClosedError: the connection ended or the record does not open.
            IncompleteReadError: the peer closed the connection.
        """
        await self.wait_record()
        return self.open_record()

    async def wait_record(self) -> int:
        """Wait until the next record is here; return the size of its plaintext.

        Raises:
            ConnectionClosedError: the connection ended, or what comes is no record.
            IncompleteReadError: the peer closed the connection.
        """
        self._check_open()
        if self._have < LENGTH:
            await self._fill(LENGTH)
        (size,) = _LENGTH.unpack_from(self._sealed_in)
        if not TAG <= size <= MAX_RECORD + TAG:
            raise ConnectionClosedError("record length out of range")
        self._next = LENGTH + size
        if self._have < self._next:
            await self._fill(self._next)
        return int(size - TAG)

    def open_record(self, out: memoryview | None = None) -> memoryview:
        """Open the record that was waited for, into `out`, which is as large as its plaintext.

        Where the record does not open, what stands in `out` is nobody's data. Without `out` the
        plaintext is valid until the next record.

        Raises:
            ConnectionClosedError: altered, repeated, out of order, or sealed by another key.
        """
        end = self._next
        plain = self._plain_in[: end - LENGTH - TAG] if out is None else out
        self._opener.open_into(self._sealed_in[LENGTH:end], plain)
        rest = self._have - end
        if rest:
            self._sealed_in[:rest] = bytes(self._sealed_in[end : self._have])
        self._have = rest
        return plain

    async def _fill(self, need: int) -> None:
        """Read until `need` bytes are there, and at most `PEEK` more."""
        limit = need + PEEK
        while self._have < need:
            if self._tcp is not None:
                count = self._tcp.receive_nowait(self._sealed_in[self._have : limit])
                if count is None:
                    await self._tcp.wait_readable(need - self._have)
                    self._check_open()
                    continue
            else:
                piece = await self._raw.read(limit - self._have)
                self._check_open()
                count = len(piece)
                self._sealed_in[self._have : self._have + count] = piece
            if not count:
                raise IncompleteReadError("closed", expected_bytes=need, received_bytes=self._have)
            self._have += count

    async def write(self, data: bytes) -> None:
        """Send bytes as records; multistream negotiates the muxer through this."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            await self.write_record(view[start : start + CHUNK])

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes of what records carry."""
        if not self._rest:
            self._rest = bytes(await self.read_record())
        count = len(self._rest) if n is None else n
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    async def close(self) -> None:
        """Close the connection, and let the buffers go: links are parts of circles of objects."""
        self._closed = True
        self._plain_out = self._sealed_out = self._plain_in = self._sealed_in = memoryview(b"")
        await self._raw.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosedError("the session is closed")

    def get_remote_address(self) -> tuple[str, int] | None:
        """See `ISecureConn`."""
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Any]:
        """See `ISecureConn`."""
        return list(self._raw.get_transport_addresses())

    def get_connection_type(self) -> Any:
        """See `ISecureConn`."""
        return self._raw.get_connection_type()


class FastNoise(NoiseTransport):
    """The security protocol that ends in a `RecordSession`."""

    def __init__(self, keys: KeyPair, noise_key: PrivateKey, suite: Suite) -> None:
        """`keys`: the node's identity; `noise_key`: X25519, of this process."""
        super().__init__(keys, noise_key)
        self._suite = suite

    def get_pattern(self) -> IPattern:
        """Return the handshake, bound to this protocol's name.

        Negotiation is not authenticated: the prologue makes the handshake fail where somebody
        between the peers made them choose different protocols.
        """
        pattern = PatternXX(
            self.local_peer, self.libp2p_privkey, self.noise_privkey, prologue=self._suite.protocol.encode()
        )
        pattern.protocol_name = self._suite.noise_name
        return pattern

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """See `ISecureTransport`."""
        return RecordSession(await super().secure_inbound(conn), conn, self._suite)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID | None) -> ISecureConn:
        """See `ISecureTransport`; without a `peer_id` the identity is learned."""
        return RecordSession(await super().secure_outbound(conn, peer_id), conn, self._suite)
