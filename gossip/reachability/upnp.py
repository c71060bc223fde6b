"""UPnP: asks a router by SSDP, then by XML over HTTP, to lead a TCP port of its own to one of ours. Pure.

    M-SEARCH  ->  where its description is  ->  which service opens ports  ->  address, map, unmap by SOAP

Everything that it names has to be on the router itself. References: UPnP Device Architecture 1.1 (SSDP, SOAP)
and WANIPConnection:1, https://openconnectivity.org/developer/specifications/upnp-resources/upnp/
"""

from html import escape
from typing import Final
from urllib.parse import urljoin, urlsplit

from shoal.gossip.reachability.steps import (
    LEASE,
    Control,
    Datagram,
    Grant,
    NoMapping,
    Request,
    Response,
    Steps,
    Wanted,
    ask,
    fetch,
)
from shoal.gossip.reachability.strict_xml import BadXml, Element, parse_xml

SEARCHES: Final = (1.0, 2.0)
"""Seconds for which each search waits; a router may take the second that it is given to answer."""
_DEVICE: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SERVICES: Final = tuple(
    f"urn:schemas-upnp-org:service:{name}"
    for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
MAX_PATH: Final = 512
TAKEN: Final = 718
"""The port leads to another machine."""
FOR_EVER_ONLY: Final = 725
"""The router knows no leases."""
_SEARCH: Final = (
    "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
    f'MAN: "ssdp:discover"\r\nMX: 1\r\nST: {_DEVICE}\r\n\r\n'
).encode()


class _Fault(Exception):
    """The router answered a call with an error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


def map_port(wanted: Wanted, gateway: str, known: Control | None = None) -> Steps[Grant]:
    """Have the router open a port, for `LEASE` seconds where it knows leases, or renew it.

    `known`: of the grant that is renewed.

    Raises:
        NoMapping: it does not.
    """
    control = known or (yield from _find(gateway))
    try:
        host = yield from _outer(control, wanted)
        port, lease = yield from _add_any(control, wanted)
    except _Fault as fault:
        raise NoMapping("refused", f"{fault.words} ({fault.code})") from None
    return Grant("UPnP", host, port, wanted.internal, lease, control)


def outer_address(wanted: Wanted, gateway: str) -> Steps[str]:
    """Return the router's address on the outside; nothing is changed.

    Raises:
        NoMapping: it does not say it, or it is of no use.
    """
    control = yield from _find(gateway)
    try:
        return (yield from _outer(control, wanted))
    except _Fault as fault:
        raise NoMapping("refused", f"{fault.words} ({fault.code})") from None


def _outer(control: Control, wanted: Wanted) -> Steps[str]:
    found = yield from _call(control, "GetExternalIPAddress")
    host = found.get("NewExternalIPAddress")
    wanted.judge(host)
    return host


def close_port(grant: Grant) -> Steps[None]:
    """Have the router close a port.

    Raises:
        NoMapping: it does not say so.
    """
    assert grant.control is not None
    place = {"NewRemoteHost": "", "NewExternalPort": str(grant.port), "NewProtocol": "TCP"}
    try:
        yield from _call(grant.control, "DeletePortMapping", place)
    except _Fault as fault:
        raise NoMapping("refused", fault.words) from None


def _find(gateway: str) -> Steps[Control]:
    for seconds in SEARCHES:
        search = Datagram("ssdp", _SEARCH, seconds, lambda packet: _location(packet, gateway) is not None)
        answer = yield from ask(search)
        place = _location(answer, gateway) if answer is not None else None
        if place is not None:
            port, path = place
            described = yield from fetch(Request("GET", port, path))
            return _control(described, f"http://{gateway}:{port}{path}", gateway)
    raise NoMapping("silent")


def _location(packet: bytes, gateway: str) -> tuple[int, str] | None:
    """Return the port and path of the description that an answer to a search names, if on the router."""
    first, *lines = packet.decode("latin1").split("\r\n")
    if not first.startswith("HTTP/1.1 200"):
        return None
    for line in lines:
        name, _, text = line.partition(":")
        if name.strip().lower() == "location":
            return place_of(text.strip(), gateway)
    return None


def place_of(url: str, gateway: str) -> tuple[int, str] | None:
    """Return the port and path of a URL; None where it leads anywhere but to the router."""
    if not (url.isascii() and url.isprintable()) or " " in url or len(url) > MAX_PATH:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return None
    if parts.scheme != "http" or parts.hostname != gateway or "@" in parts.netloc:
        return None
    return port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _control(described: Response | None, url: str, gateway: str) -> Control:
    if described is None or described.status != 200:
        raise NoMapping("garbled")
    document = _read(described.body)
    base = document.get("URLBase") or url
    services = {each.get("serviceType"): each.get("controlURL") for each in document.all("service")}
    for kind in SERVICES:
        if services.get(kind):
            place = place_of(urljoin(base, services[kind]), gateway)
            if place is not None:
                return Control(*place, kind)
    raise NoMapping("garbled")


def _add_any(control: Control, wanted: Wanted) -> Steps[tuple[int, float]]:
    """Map the first port that is not another's; returns it, and the seconds of its lease."""
    *first, last = wanted.ports
    for port in first:
        try:
            return port, (yield from _add(control, wanted, port))
        except _Fault as fault:
            if fault.code != TAKEN:
                raise
    return last, (yield from _add(control, wanted, last))


def _add(control: Control, wanted: Wanted, port: int) -> Steps[float]:
    for lease in (LEASE, 0):
        about = {
            "NewRemoteHost": "",
            "NewExternalPort": str(port),
            "NewProtocol": "TCP",
            "NewInternalPort": str(wanted.internal),
            "NewInternalClient": wanted.local,
            "NewEnabled": "1",
            "NewPortMappingDescription": "shoal",
            "NewLeaseDuration": str(lease),
        }
        try:
            yield from _call(control, "AddPortMapping", about)
        except _Fault as fault:
            if fault.code != FOR_EVER_ONLY or not lease:
                raise
        else:
            return float(lease)
    raise AssertionError("the second lease returns or raises")


def _call(control: Control, action: str, given: dict[str, str] | None = None) -> Steps[Element]:
    """Return what a call of the router's service answers.

    Raises:
        NoMapping: nothing that can be read.
        _Fault: an error.
    """
    words = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in (given or {}).items())
    body = (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{control.kind}">{words}</u:{action}></s:Body></s:Envelope>'
    ).encode()
    headers = (("Content-Type", 'text/xml; charset="utf-8"'), ("SOAPAction", f'"{control.kind}#{action}"'))
    answer = yield from fetch(Request("POST", control.port, control.path, headers, body))
    if answer is None:
        raise NoMapping("silent")
    found = _read(answer.body)
    code = found.get("errorCode")
    if code or answer.status != 200:
        number = int(code) if code.isascii() and code.isdigit() and len(code) < 6 else answer.status
        raise _Fault(number, found.get("errorDescription"))
    if not found.all(f"{action}Response"):
        raise NoMapping("garbled")
    return found


def _read(body: bytes) -> Element:
    try:
        return parse_xml(body)
    except BadXml:
        raise NoMapping("garbled") from None
