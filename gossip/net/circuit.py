"""Circuits: a link to a peer that cannot be dialled, carried by one that both are linked with.

    dialler --CONNECT(peer)--> relay --STOP--> peer        then every byte of one stream goes to the other
    peer    --RESERVE--------> relay                       before, so that the relay will carry it

The two messages of libp2p's circuit relay v2; the relay's side is gossip/net/relay.py. The ends secure the
circuit between themselves, as they would a TCP connection.
https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

import time
from typing import Any, Final

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as CircuitPeer
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg

from shoal.crypto.keys import PeerId
from shoal.gossip.net.libp2p_adapters import STREAM_ERRORS, claim
from shoal.gossip.net.transport.tcp import Traffic

HOP: Final = str(PROTOCOL_ID)
OK: Final = 100
"""The status of the specification that means yes."""
MAX_READ: Final = 1 << 18
LONGEST: Final = 86_400.0
"""Seconds: no reservation is believed to last longer, whatever the relay says."""


class NoCircuit(Exception):
    """The relay will not; the message is what it said."""


class Circuit(ReadWriteCloser):
    """A stream that is used as if it were a connection."""

    heard = True
    """The peer behind it answered the relay."""
    fault = ""

    def __init__(self, stream: Any, traffic: Traffic) -> None:
        """`stream`: to or from the relay, with nothing but the other end's bytes on it from now on."""
        self._stream, self._traffic = stream, traffic
        claim(stream)

    async def write(self, data: bytes) -> None:
        """Send.

        Raises:
            ConnectionClosedError: the circuit has ended.
        """
        try:
            await self._stream.write(bytes(data))
        except STREAM_ERRORS as error:
            raise ConnectionClosedError(str(error)) from error

    async def read(self, n: int | None = None) -> bytes:
        """Receive at most `n` bytes; none at the end."""
        try:
            return bytes(await self._stream.read(MAX_READ if n is None else min(n, MAX_READ)))
        except STREAM_ERRORS:
            return b""

    async def close(self) -> None:
        """End it in both directions."""
        with trio.move_on_after(1) as scope:
            scope.shield = True
            try:
                await self._stream.reset()
            except STREAM_ERRORS:
                return

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return nothing: where the other end is, the relay alone knows."""
        return None


async def connect(stream: Any, peer: PeerId, traffic: Traffic) -> Circuit:
    """Let the relay at the other end of a stream carry it on to a peer.

    Raises:
        NoCircuit: it will not, or the peer is not there.
    """
    wanted = HopMessage(type=HopMessage.CONNECT, peer=CircuitPeer(id=ID.from_base58(peer).to_bytes()))
    await _ask(stream, wanted)
    return Circuit(stream, traffic)


async def reserve(stream: Any) -> float:
    """Let the relay at the other end of a stream carry circuits to us; returns for how many seconds.

    Raises:
        NoCircuit: it will not.
    """
    answer = await _ask(stream, HopMessage(type=HopMessage.RESERVE))
    await Circuit(stream, Traffic()).close()
    seconds = float(answer.reservation.expire) - time.time()
    if seconds <= 0:
        raise NoCircuit("its clock and ours differ")
    return min(seconds, LONGEST)


async def _ask(stream: Any, message: Any) -> Any:
    try:
        await write_delimited_msg(stream, message)
        answer = await read_delimited_msg(stream, HopMessage)
    except (*STREAM_ERRORS, ValueError) as error:
        raise NoCircuit(str(error)) from error
    if answer.type != HopMessage.STATUS or answer.status != OK:
        await Circuit(stream, Traffic()).close()
        raise NoCircuit(f"status {answer.status}")
    return answer
