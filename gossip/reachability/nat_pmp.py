"""NAT-PMP: asks a router by small datagrams to lead a TCP port of its own to one of ours. Pure.

    address   00 00                                    ->  00 80 result epoch address
    map       00 02 0000 internal external lifetime    ->  00 82 result epoch internal external lifetime

Reference: RFC 6886, https://www.rfc-editor.org/rfc/rfc6886. Its nine tries take two minutes; these three take
two seconds, since most routers of today that do not speak it never answer.
"""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from shoal.gossip.reachability.steps import LEASE, Datagram, Grant, NoMapping, Steps, Wanted, ask

TRIES: Final = (0.25, 0.5, 1.0)
"""Seconds for which each of the same packets waits for an answer."""
_RESULTS: Final = {
    1: "it speaks another version of NAT-PMP",
    2: "it is set to open no ports",
    3: "it has no address itself",
    4: "it has no port left",
    5: "it opens no ports",
}
_ADDRESS, _MAP_TCP, _ANSWER = 0, 2, 128
_ADDRESS_FORM: Final = struct.Struct("!BBHI4s")
_MAP_FORM: Final = struct.Struct("!BBHIHHI")
_MAP_REQUEST: Final = struct.Struct("!BBHHHI")
_HEAD: Final = struct.Struct("!BBH")


def map_port(wanted: Wanted) -> Steps[Grant]:
    """Have the router open a port for `LEASE` seconds, or renew it.

    Raises:
        NoMapping: it does not.
    """
    host = yield from outer_address(wanted)
    _, external, lifetime = yield from _map(wanted.internal, wanted.ports[0], LEASE)
    if not (external and lifetime):
        raise NoMapping("garbled")
    return Grant("NAT-PMP", host, external, wanted.internal, float(lifetime))


def outer_address(wanted: Wanted) -> Steps[str]:
    """Return the router's address on the outside; nothing is changed.

    Raises:
        NoMapping: it does not say it, or it is of no use.
    """
    answer = yield from _ask(bytes((0, _ADDRESS)), _ADDRESS, _ADDRESS_FORM.size, _is_any)
    host = str(IPv4Address(_ADDRESS_FORM.unpack(answer)[4]))
    wanted.judge(host)
    return host


def close_port(grant: Grant) -> Steps[None]:
    """Have the router close a port.

    Raises:
        NoMapping: it does not say so.
    """
    yield from _map(grant.internal, 0, 0)


def _map(internal: int, external: int, lifetime: int) -> Steps[tuple[int, int, int]]:
    request = _MAP_REQUEST.pack(0, _MAP_TCP, 0, internal, external, lifetime)
    # The answer names our port. One to an earlier question of ours, or of another program, names another.
    answer = yield from _ask(
        request, _MAP_TCP, _MAP_FORM.size, lambda packet: _MAP_FORM.unpack(packet)[4] == internal
    )
    _, _, _, _, ours, theirs, granted = _MAP_FORM.unpack(answer)
    return ours, theirs, granted


def _ask(request: bytes, opcode: int, size: int, is_ours: Callable[[bytes], bool]) -> Steps[bytes]:
    """Return an answer that says yes.

    Raises:
        NoMapping: none came, or it says no.
    """

    def fits(packet: bytes) -> bool:
        if len(packet) < _HEAD.size or packet[1] != _ANSWER + opcode:
            return False
        # One that refuses may be shorter, and of another version.
        return _HEAD.unpack_from(packet)[2] != 0 or (
            packet[0] == 0 and len(packet) == size and is_ours(packet)
        )

    for seconds in TRIES:
        answer = yield from ask(Datagram("nat-pmp", request, seconds, fits))
        if answer is not None:
            result = _HEAD.unpack_from(answer)[2]
            if result:
                raise NoMapping("refused", _RESULTS.get(result, f"result {result}"))
            return answer
    raise NoMapping("silent")


def _is_any(_: bytes) -> bool:
    return True
