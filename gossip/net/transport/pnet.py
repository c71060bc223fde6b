"""Private networks: a key that all nodes of a swarm share, below all else that they say.

Each side sends 24 random bytes, and from then on every byte XORed with a stream of XSalsa20 from the key and
those. A node without the key reads noise, and what it says is noise. Format and cipher are libp2p's, so nodes
of other programs with the same key file can talk:
https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md

    XSalsa20(key, nonce) = Salsa20(HSalsa20(key, nonce[:16]), nonce[16:])

A dialler says one key. The other end may hold several, while a key changes (admission/rotations.py): its
nonce is of no key, and it says nothing more until it knows in which of them the dialler speaks.

A wrong key is no error of the cipher: it gives other bytes. So the first that comes must be what every libp2p
connection begins with, else the other end is in another network.

"Extending the Salsa20 nonce", Bernstein, 2011, https://cr.yp.to/snuffle/xsalsa-20110204.pdf. A key is a fence
and no identity: whoever had it once keeps it.
"""

import os
import struct
from typing import Any, Final

import trio
from Crypto.Cipher import Salsa20
from libp2p.io.exceptions import ConnectionClosedError

from shoal.gossip.net.transport.tcp import TcpStream, Traffic

NONCE_BYTES: Final = 24
GREETING: Final = b"\x13/multistream/1.0.0\n"
"""What the first bytes of both sides are on every connection of libp2p."""
OTHER_NETWORK: Final = "other private network"
"""Why a link to somebody without this key fails."""
_SIGMA: Final = struct.unpack("<4I", b"expand 32-byte k")
_ROUNDS: Final = (
    ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    (
        (0, 1, 2, 3),
        (5, 6, 7, 4),
        (10, 11, 8, 9),
        (15, 12, 13, 14),
    ),
)
"""Columns and rows of Salsa20's square, each from its diagonal on."""


class OtherNetwork(ConnectionClosedError):
    """The other end has another key, or none."""


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """Return the 32 bytes of HSalsa20 for a key of 32 bytes and a nonce of 16."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for quarters in _ROUNDS:
            for a, b, c, d in quarters:
                x[b] ^= _turned(x[a] + x[d], 7)
                x[c] ^= _turned(x[b] + x[a], 9)
                x[d] ^= _turned(x[c] + x[b], 13)
                x[a] ^= _turned(x[d] + x[c], 18)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def _turned(word: int, bits: int) -> int:
    word &= 0xFFFFFFFF
    return (word << bits | word >> 32 - bits) & 0xFFFFFFFF


def xsalsa20(key: bytes, nonce: bytes) -> Any:
    """Return a cipher whose ``encrypt`` XORs bytes with the next of the stream."""
    return Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class PrivateStream(TcpStream):
    """A connection within a private network; to all above it the bytes are plain."""

    def __init__(self, stream: trio.SocketStream, traffic: Traffic, *keys: bytes) -> None:
        """`keys`: of 32 bytes each; with several, the other end has to speak first."""
        super().__init__(stream, traffic)
        self._keys = keys
        self._own_nonce = nonce = os.urandom(NONCE_BYTES)
        self._out = xsalsa20(keys[0], nonce) if len(keys) == 1 else None
        self._in: Any = None
        self._unsent = memoryview(nonce)
        """Ciphertext that the system has not taken yet; all but `_lead` of it is bytes of a caller."""
        self._lead = NONCE_BYTES
        self._nonce = b""
        """Of the other side, as far as it has come."""
        self._greeting = GREETING
        """What of it has not come yet."""
        self._early = b""
        """What was read to find the key, and not asked for yet."""

    # --- out --------------------------------------------------------------------------------------

    def send_nowait(self, data: memoryview) -> int:
        """See `TcpStream`; a caller sends what was not taken again, and nothing else in between."""
        assert self._out is not None
        held = len(self._unsent) - self._lead
        if len(data) > held:
            self._unsent = memoryview(bytes(self._unsent) + self._out.encrypt(bytes(data[held:])))
        count = super().send_nowait(self._unsent)
        self._unsent = self._unsent[count:]
        taken = max(0, count - self._lead)
        self._lead = max(0, self._lead - count)
        return taken

    async def write(self, data: bytes | memoryview) -> None:
        """See `TcpStream`."""
        await self.send_all(memoryview(data).cast("B"))

    async def send_all(self, data: memoryview) -> None:
        """See `TcpStream`."""
        await trio.lowlevel.checkpoint()
        if self._out is None:
            await self._find_key()
        await super().send_all(data)

    # --- in ---------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """See `TcpStream`.

        Raises:
            OtherNetwork: what came first is not what it must be.
        """
        if self._out is None:
            await self._find_key()
        if self._early:
            size = len(self._early) if n is None else n
            early, self._early = self._early[:size], self._early[size:]
            return early
        while self._in is None:
            some = await super().read(NONCE_BYTES - len(self._nonce))
            if not some:
                return self._ended()
            self._take_nonce(some)
        data: bytes = self._in.encrypt(await super().read(n))
        if not data:
            return self._ended()
        self._check(data)
        return data

    def receive_nowait(self, view: memoryview) -> int | None:
        """See `TcpStream`; only of use once something was read."""
        assert self._in is not None
        count = super().receive_nowait(view)
        if count:
            self._in.encrypt(view[:count], output=view[:count])
        return count

    async def _find_key(self) -> None:
        """Say our nonce, and read the other's greeting to see in which of the keys it is."""
        while self._lead:
            sent = TcpStream.send_nowait(self, self._unsent)
            self._unsent, self._lead = self._unsent[sent:], self._lead - sent
            if not sent:
                await self.wait_writable()
        said = b""
        while len(said) < NONCE_BYTES + len(GREETING):
            some = await super().read(NONCE_BYTES + len(GREETING) - len(said))
            said += some
            if not some or said.startswith(GREETING):
                raise self._other()
        nonce, greeting = said[:NONCE_BYTES], said[NONCE_BYTES:]
        for key in self._keys:
            cipher = xsalsa20(key, nonce)
            if cipher.encrypt(greeting) == GREETING:
                self._in, self._out = cipher, xsalsa20(key, self._own_nonce)
                self._early, self._greeting = GREETING, b""
                return
        raise self._other()

    def _take_nonce(self, some: bytes) -> None:
        self._nonce += some
        if self._nonce.startswith(GREETING):  # said plainly, by somebody who has no key at all
            raise self._other()
        if len(self._nonce) == NONCE_BYTES:
            self._in = xsalsa20(self._keys[0], self._nonce)

    def _check(self, data: bytes) -> None:
        expected = self._greeting[: len(data)]
        if data[: len(expected)] != expected:
            raise self._other()
        self._greeting = self._greeting[len(expected) :]

    def _ended(self) -> bytes:
        """The other side closed: without a greeting, since it could not read ours."""
        if self._greeting:
            raise self._other()
        return b""

    def _other(self) -> OtherNetwork:
        self.fault = OTHER_NETWORK
        return OtherNetwork(OTHER_NETWORK)
