"""Sockets: a TCP connection to the first that answers of the addresses a name has, from the port we listen
on.

A router that keeps ports then shows others the port that leads back to us. The system refuses a second
connection between the same two ports while the first one lingers: then any port will do, as for loopback,
where no router is.
"""

import errno
import socket
from collections.abc import Iterable
from typing import Final

import trio

from shoal.gossip.addresses import Address, Endpoint, is_loopback
from shoal.gossip.scope import Here, Teller, may_dial

MAX_PLACES: Final = 4
"""Addresses of one name that are dialled."""
STAGGER: Final = 0.25
"""Seconds after which the next address of a name is tried beside the last, RFC 8305."""
FIRST_LINE: Final = b"\x13/multistream/1.0.0\n"
"""What every libp2p listener says first."""
SPEAK_PATIENCE: Final = 5.0
_TAKEN: Final = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)


class Forbidden(OSError):
    """Nothing that the address stands for may be dialled on this word."""


async def places_of(address: Address, teller: Teller, here: Here) -> list[Endpoint]:
    """Return what an address stands for, as far as it may be dialled.

    Raises:
        Forbidden: nothing of it may be.
        OSError: the name is not known.
    """
    hosts = [address.host]
    if address.kind not in ("ip4", "ip6"):
        family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
        found = await trio.socket.getaddrinfo(
            address.host, address.port, family=family, type=socket.SOCK_STREAM
        )
        hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    every = [Endpoint(host, address.port) for host in hosts]
    allowed = [each for each in every if may_dial(each, teller, here)][:MAX_PLACES]
    if not allowed:
        raise Forbidden(f"{address} is not for us to dial")
    return allowed


async def connect_to(places: Iterable[Endpoint], own: Iterable[Address]) -> trio.SocketStream:
    """Connect to the first that answers; `own`: where we listen.

    Raises:
        OSError: nobody answers; a group of them, where several were tried.
    """
    won: list[trio.SocketStream] = []
    faults: list[OSError] = []
    own = list(own)

    async def attempt(place: Endpoint, failed: trio.Event) -> None:
        try:
            stream = await _connect(place, own)
        except OSError as error:
            faults.append(error)
            failed.set()
        else:
            won.append(stream)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for place in places:
            failed = trio.Event()
            nursery.start_soon(attempt, place, failed)
            with trio.move_on_after(STAGGER):
                await failed.wait()
    for each in won[1:]:
        await trio.aclose_forcefully(each)
    if won:
        return won[0]
    if len(faults) == 1:
        raise faults[0]
    raise OSError("nobody answers") from ExceptionGroup("", faults)


async def _connect(place: Endpoint, own: list[Address]) -> trio.SocketStream:
    kind = "ip6" if ":" in place.host else "ip4"
    mine = next((each for each in own if each.kind == kind), None)
    if mine is not None and not is_loopback(place.host) and not mine.is_loopback:
        try:
            return await _open(place, (mine.host, mine.port))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    return await _open(place, None)


async def _open(place: Endpoint, own: tuple[str, int] | None) -> trio.SocketStream:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    made = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if own is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            await made.bind(own)
        await made.connect((place.host, place.port))
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)


async def speaks_first(stream: trio.SocketStream, n_noise: int = 0) -> bool:
    """Wait for what a libp2p listener says first, and leave it unread; whatever else listens gets no byte.

    `n_noise`: bytes that a listener of a private network says first, which may be any; 0: there is none.
    """
    data, size = b"", n_noise or len(FIRST_LINE)
    with trio.move_on_after(SPEAK_PATIENCE):
        while len(data) < size and (n_noise or FIRST_LINE.startswith(data)):
            before = data
            data = await stream.socket.recv(size, socket.MSG_PEEK)
            if not data:
                return False
            if data == before:
                await trio.sleep(0.01)  # a part of it has come, and stays to be read
    return len(data) == size and (n_noise > 0 or data == FIRST_LINE)
