"""Asking: carries the steps of `gossip/reachability` to a router, over UDP and HTTP, within time and size.

What does not come from the router's own address is not looked at, and it is asked at no other.
"""

from dataclasses import dataclass
from typing import Final

import h11
import trio

from shoal.gossip.net.router.routes import Route
from shoal.gossip.reachability.steps import Answer, Datagram, Request, Response, Step, Steps, T

MAX_PACKET: Final = 2048
MAX_PACKETS: Final = 64
"""That are looked at for one question: whoever floods us is no router."""
MAX_HEAD: Final = 16 << 10
MAX_BODY: Final = 128 << 10
HTTP_SECONDS: Final = 5.0
"""For a whole answer, however it trickles."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a router listens."""

    nat_pmp: int = 5351
    ssdp: tuple[tuple[str, int], ...] = (("239.255.255.250", 1900),)
    """Asked in this order, and the router itself at the same port."""


async def run_steps(steps: Steps[T], route: Route, places: Places) -> T:
    """Return what the steps come to.

    Raises:
        NoMapping: the router opens no port.
    """
    try:
        step: Step = next(steps)
        while True:
            step = steps.send(await _answer(step, route, places))
    except StopIteration as end:
        result: T = end.value
        return result


async def _answer(step: Step, route: Route, places: Places) -> Answer:
    try:
        if isinstance(step, Datagram):
            return await _datagram(step, route, places)
        with trio.move_on_after(HTTP_SECONDS):
            return await _request(step, route)
    except OSError:
        return None
    return None


async def _datagram(step: Datagram, route: Route, places: Places) -> bytes | None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((route.local, 0))
        if step.to == "nat-pmp":
            # Connected: the kernel drops what comes from anywhere else.
            await sock.connect((route.gateway, places.nat_pmp))
            await sock.send(step.body)
        else:
            local = trio.socket.inet_aton(route.local)
            sock.setsockopt(trio.socket.IPPROTO_IP, trio.socket.IP_MULTICAST_IF, local)
            for place in {*places.ssdp, (route.gateway, places.ssdp[0][1])}:
                await sock.sendto(step.body, place)
        with trio.move_on_after(step.seconds):
            for _ in range(MAX_PACKETS):
                packet, sender = await sock.recvfrom(MAX_PACKET)
                if sender[0] == route.gateway and step.fits(packet):
                    return packet
    return None


async def _request(step: Request, route: Route) -> Response | None:
    """Return the whole answer; None where it is too long, or not HTTP."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    headers = [
        ("Host", f"{route.gateway}:{step.port}"),
        ("Connection", "close"),
        ("Content-Length", str(len(step.body))),
        *step.headers,
    ]
    try:
        asked = connection.send(h11.Request(method=step.method, target=step.path, headers=headers))
        async with await trio.open_tcp_stream(route.gateway, step.port) as stream:
            await stream.send_all((asked or b"") + (connection.send(h11.Data(step.body)) or b""))
            connection.send(h11.EndOfMessage())
            return await _response(connection, stream)
    except (h11.ProtocolError, trio.BrokenResourceError):
        return None


async def _response(connection: h11.Connection, stream: trio.SocketStream) -> Response | None:
    body, status = bytearray(), 0
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(MAX_HEAD))
            case h11.Response():
                status = event.status_code
            case h11.Data():
                body += event.data
                if len(body) > MAX_BODY:
                    return None
            case h11.EndOfMessage():
                return Response(status, bytes(body))
            case h11.InformationalResponse():
                pass
            case _:
                return None
