"""Addresses as people type them: ``host:port``, or a multiaddr, as /ip4/192.0.2.7/tcp/4710/p2p/12D3….

A multiaddr is a path of protocol names, each followed by its value where it takes one. Only the form is
checked here; whether somebody answers is found out by dialling.
"""

import ipaddress
from collections.abc import Callable
from typing import Final

import base58


class BadAddress(ValueError):
    """The text is neither ``host:port`` nor a multiaddr."""


EXAMPLES: Final = "192.0.2.7:4710 or /ip4/192.0.2.7/tcp/4710/p2p/12D3KooW..."
"""What a right address looks like, for messages."""


def multiaddr_of(text: str) -> str:
    """Return the multiaddr of an address to dial; ``host:port`` is turned into one.

    Raises:
        BadAddress: neither a multiaddr nor ``host:port``.
    """
    text = text.strip()
    if text.startswith("/"):
        _check_multiaddr(text)
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise BadAddress(f"{_quoted(text)} is no address; write it like {EXAMPLES}")
    _check_value(text, "tcp", port)
    if host.startswith("[") and host.endswith("]"):
        _check_value(text, "ip6", host[1:-1])
        return f"/ip6/{host[1:-1]}/tcp/{int(port)}"
    if ":" in host:
        raise BadAddress(f"{_quoted(text)}: put an IPv6 host in brackets, like [::1]:4710")
    if host.replace(".", "").isdigit():
        _check_value(text, "ip4", host)
        return f"/ip4/{host}/tcp/{int(port)}"
    _check_value(text, "dns4", host)
    return f"/dns4/{host}/tcp/{int(port)}"


def check_listen(text: str) -> None:
    """Check a multiaddr to listen on: an IP address and a TCP port.

    Raises:
        BadAddress: it is not of that form.
    """
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise BadAddress(f"cannot listen on {_quoted(text)}; write it like /ip4/0.0.0.0/tcp/4710")
    _check_value(text, parts[1], parts[2])
    _check_value(text, "tcp", parts[4])


def _is_port(value: str) -> bool:
    return value.isascii() and value.isdigit() and int(value[:6]) <= 65535


def _is_ip(version: int) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            return ipaddress.ip_address(value).version == version
        except ValueError:
            return False

    return check


def _is_host_name(value: str) -> bool:
    labels = value.rstrip(".").split(".")
    return len(value) <= 253 and all(
        0 < len(label) <= 63
        and not label.startswith("-")
        and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )


def _is_peer_id(value: str) -> bool:
    try:
        return 34 <= len(base58.b58decode(value)) <= 64
    except ValueError:
        return False


_PROTOCOLS: Final[dict[str, tuple[str, Callable[[str], bool]] | None]] = {
    "ip4": ("an IPv4 address", _is_ip(4)),
    "ip6": ("an IPv6 address", _is_ip(6)),
    "dns": ("a host name", _is_host_name),
    "dns4": ("a host name", _is_host_name),
    "dns6": ("a host name", _is_host_name),
    "dnsaddr": ("a host name", _is_host_name),
    "tcp": ("a port from 0 to 65535", _is_port),
    "udp": ("a port from 0 to 65535", _is_port),
    "p2p": ("a peer id such as 12D3KooW...", _is_peer_id),
    "p2p-circuit": None,
    "quic-v1": None,
    "ws": None,
    "wss": None,
    "tls": None,
}


def _check_multiaddr(text: str) -> None:
    if len(text) > 1000:
        raise BadAddress(f"an address of {len(text)} characters; write it like {EXAMPLES}")
    parts = text[1:].split("/")
    index = 0
    while index < len(parts):
        name = parts[index]
        if name not in _PROTOCOLS:
            raise BadAddress(
                f"{_quoted(text)} is no multiaddr: {_quoted(name)} is no protocol; write it like {EXAMPLES}"
            )
        index += 1
        if _PROTOCOLS[name] is not None:
            _check_value(text, name, parts[index] if index < len(parts) else "")
            index += 1


def _check_value(text: str, protocol: str, value: str) -> None:
    rule = _PROTOCOLS[protocol]
    if rule is not None and not rule[1](value):
        raise BadAddress(f"{_quoted(text)}: {_quoted(value)} is not {rule[0]}; write it like {EXAMPLES}")


def _quoted(text: str) -> str:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return repr(shown)
