"""A router for tests: answers NAT-PMP, and UPnP by SSDP and SOAP, and does as it is told with each.

In a test's own trio, or as a process between two networks: ``python fake_router.py OUTER INNER FILE``. There
it forwards the ports that it opens, and keeps them in a file of JSON.
"""

import json
import os
import re
import struct
import sys
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import trio

CONTROL = "urn:schemas-upnp-org:service:WANIPConnection:1"
ROOT = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device>'
    "<serviceList><service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service>"
    "</serviceList></device></deviceList></device></root>"
)
ANSWER = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
    '<u:{action}Response xmlns:u="{kind}">{words}</u:{action}Response></s:Body></s:Envelope>'
)
FAULT = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><detail><UPnPError>'
    "<errorCode>{code}</errorCode><errorDescription>{words}</errorDescription>"
    "</UPnPError></detail></s:Fault></s:Body></s:Envelope>"
)


def described(control: str = "/control", kind: str = CONTROL) -> bytes:
    """Return a router's description of itself."""
    return ROOT.format(kind=kind, control=control).encode()


def answered(action: str, words: str = "") -> bytes:
    """Return what a call is answered with."""
    return ANSWER.format(action=action, kind=CONTROL, words=words).encode()


def fault(code: int, words: str = "ActionFailed") -> bytes:
    """Return what a call is refused with."""
    return FAULT.format(code=code, words=words).encode()


def found(location: str) -> bytes:
    """Return an answer to a search."""
    return f"HTTP/1.1 200 OK\r\nST: x\r\nLocation: {location}\r\n\r\n".encode()


@dataclass
class Router:
    """What a router holds, and how it behaves."""

    outer: str
    speaks_pmp: bool = True
    speaks_upnp: bool = True
    shift: int = 0
    """Added to the port that is asked for."""
    lease: int = 3600
    ports: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Outer port -> address and port inside."""
    heard: list[str] = field(default_factory=list)

    def pmp(self, packet: bytes, sender: tuple[str, int]) -> bytes:
        """Answer a packet of NAT-PMP."""
        self.heard.append(f"pmp {packet[1]}")
        if not self.speaks_pmp:
            return b""
        if packet == b"\0\0":
            return struct.pack("!BBHI4s", 0, 128, 0, 7, IPv4Address(self.outer).packed)
        _, _, _, inner, outer, lease = struct.unpack("!BBHHHI", packet)
        if lease == 0:
            self.ports = {port: to for port, to in self.ports.items() if to != (sender[0], inner)}
            return struct.pack("!BBHIHHI", 0, 130, 0, 7, inner, 0, 0)
        self.ports[outer + self.shift] = sender[0], inner
        return struct.pack("!BBHIHHI", 0, 130, 0, 7, inner, outer + self.shift, self.lease)

    def soap(self, body: str) -> tuple[int, bytes]:
        """Answer a call."""
        action = (re.search(r"<u:(\w+)", body) or ["", ""])[1]
        given = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        self.heard.append(f"soap {action}")
        match action:
            case "GetExternalIPAddress":
                return 200, answered(action, f"<NewExternalIPAddress>{self.outer}</NewExternalIPAddress>")
            case "AddPortMapping":
                port, to = (
                    int(given["NewExternalPort"]),
                    (given["NewInternalClient"], int(given["NewInternalPort"])),
                )
                if self.ports.get(port, to) != to:
                    return 500, fault(718, "ConflictInMappingEntry")
                self.ports[port] = to
                return 200, answered(action)
            case "DeletePortMapping":
                self.ports.pop(int(given["NewExternalPort"]), None)
                return 200, answered(action)
        return 500, fault(401)


@dataclass
class Served:
    """Where a router of a test listens."""

    pmp: int
    ssdp: int


async def serve(router: Router, host: str, pmp: int, ssdp: int, task_status: Any) -> None:
    """Answer until cancelled."""
    first, second = (trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) for _ in range(2))
    with first, second:
        await first.bind((host, pmp))
        await second.bind((host, ssdp))
        listeners = await trio.open_tcp_listeners(0, host=host)
        http = listeners[0].socket.getsockname()[1]

        async def answer_http(stream: trio.SocketStream) -> None:
            async with stream:
                asked = b""
                while not _is_whole(asked):
                    piece = await stream.receive_some(4096)
                    if not piece:
                        return
                    asked += piece
                head, _, body = asked.partition(b"\r\n\r\n")
                status, said = (200, described()) if head.startswith(b"GET") else router.soap(body.decode())
                await stream.send_all(
                    b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(said), said)
                )

        async def answer_pmp() -> None:
            while True:
                packet, sender = await first.recvfrom(2048)
                said = router.pmp(packet, sender)
                if said:
                    await first.sendto(said, sender)

        async def answer_ssdp() -> None:
            while True:
                packet, sender = await second.recvfrom(2048)
                router.heard.append("search")
                if router.speaks_upnp and packet.startswith(b"M-SEARCH"):
                    await second.sendto(found(f"http://{host}:{http}/root.xml"), sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer_http, listeners)
            nursery.start_soon(answer_pmp)
            nursery.start_soon(answer_ssdp)
            task_status.started(Served(first.getsockname()[1], second.getsockname()[1]))


def _is_whole(asked: bytes) -> bool:
    head, there, body = asked.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(there) and len(body) >= (int(length[1]) if length else 0)


class Forwarding(Router):
    """A router that really forwards."""

    def __init__(self, outer: str, file: Path, nursery: trio.Nursery) -> None:
        super().__init__(outer)
        self._file, self._nursery = file, nursery
        self._forwarders: dict[int, trio.CancelScope] = {}
        self._note()

    def pmp(self, packet: bytes, sender: tuple[str, int]) -> bytes:
        """See `Router`."""
        said = super().pmp(packet, sender)
        for port in self.ports.keys() - self._forwarders.keys():
            scope = self._forwarders[port] = trio.CancelScope()
            self._nursery.start_soon(self._forward, port, scope)
        for port in self._forwarders.keys() - self.ports.keys():
            self._forwarders.pop(port).cancel()
        self._note()
        return said

    def _note(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.ports))
        os.replace(new, self._file)

    async def _forward(self, port: int, scope: trio.CancelScope) -> None:
        inside = self.ports[port]

        async def handle(outer: trio.SocketStream) -> None:
            inner = await trio.open_tcp_stream(*inside)
            async with outer, inner, trio.open_nursery() as nursery:
                nursery.start_soon(pump, outer, inner, nursery)
                nursery.start_soon(pump, inner, outer, nursery)

        with scope:
            await trio.serve_tcp(handle, port, host=self.outer)


async def pump(one: trio.SocketStream, other: trio.SocketStream, both: trio.Nursery) -> None:
    """Carry bytes until either side ends."""
    try:
        async for piece in one:
            await other.send_all(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    both.cancel_scope.cancel()


async def main(outer: str, inner: str, file: str) -> None:
    """Be a router until killed."""
    async with trio.open_nursery() as nursery:
        router = Forwarding(outer, Path(file), nursery)
        await nursery.start(partial(serve, router, inner, 5351, 1900))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
