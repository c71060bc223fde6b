"""Connections between nodes on one machine: a Unix socket in the place of TCP over loopback.

    node listens on 127.0.0.1:4001    and on the socket named "shoal 127.0.0.1:4001"
    who dials 127.0.0.1:4001          tries that name first, and TCP when nobody is there

Nothing else differs: the same handshake, records and streams run over it, and addresses stay those of TCP.
The system carries bytes over a Unix socket for half of what TCP costs it, and on one machine that is the
largest part of what averaging costs.

The names are in Linux's abstract namespace: they leave no file behind, end with their process, and are of one
network namespace, as ports are. Any process may take one, so whoever dials asks the system whose it is, and
turns to TCP when that is another user; who answers there must prove its identity all the same.
"""

import ipaddress
import os
import socket
import struct
import sys
from typing import Any, Final

import trio

from shoal.gossip.addresses import is_loopback

HAS_LOCAL: Final = sys.platform == "linux"
BACKLOG: Final = 128
_PREFIX: Final = "shoal "
_CREDENTIALS: Final = struct.Struct("3i")
_ANY: Final = {4: "0.0.0.0", 6: "::"}  # a name, not an address to listen on


def open_local(host: str, port: int) -> trio.SocketStream | None:
    """Connect to who listens on this port of this machine; None where that takes TCP."""
    if not HAS_LOCAL or not is_loopback(host):
        return None
    for each in (host, _ANY[ipaddress.ip_address(host).version]):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            # A name of our own, by which the other end tells its connections apart.
            sock.bind("")
            # At once or not at all: where too many wait already, TCP has room for more.
            sock.connect(_name(each, port))
            if _user(sock) in (0, os.getuid()):
                return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        except OSError:
            sock.close()
            continue
        sock.close()
    return None


def listen_local(host: str, port: int) -> trio.SocketListener | None:
    """Listen for nodes of this machine that dial this port; None where they take TCP."""
    if not HAS_LOCAL or not (is_loopback(host) or host in _ANY.values()):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(_name(host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        return None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def peer_name(sock: trio.socket.SocketType) -> tuple[str, int] | None:
    """Return what stands for the other end's address and port; None for a socket of the internet."""
    return _as_address(sock.getpeername()) if sock.family == socket.AF_UNIX else None


def own_name(sock: trio.socket.SocketType) -> tuple[str, int]:
    """Return the address and port of our end, as `peer_name` gives them on the other."""
    name = sock.getsockname()
    return _as_address(name) if sock.family == socket.AF_UNIX else (name[0], name[1])


def _as_address(name: Any) -> tuple[str, int]:
    text = bytes(name[1:]).decode() if isinstance(name, bytes) else ""
    try:
        if text.startswith(_PREFIX):
            host, _, port = text.removeprefix(_PREFIX).rpartition(":")
            return ("127.0.0.1" if host in _ANY.values() else host), int(port)
        # The system numbers those that only dial, in five hexadecimal digits.
        return "127.0.0.1", int(text, 16) % 65536
    except ValueError:
        return "127.0.0.1", 0


def _name(host: str, port: int) -> bytes:
    return f"\0{_PREFIX}{host}:{port}".encode()


def _user(sock: socket.socket) -> int:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])
