"""Routes: which router leads out of this machine's network, and from which address of ours."""

import ipaddress
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROUTES: Final = Path("/proc/net/route")
SOMEWHERE: Final = "192.0.2.1"
"""An address that is nobody's: nothing is sent to it."""
_UP_OVER_GATEWAY: Final = 3
_ROUTE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Route:
    """The way out, IPv4."""

    gateway: str
    local: str
    """Our address in the router's network."""


def local_towards(host: str = SOMEWHERE) -> str:
    """Return from which address of ours packets go to a host; empty where none would. Nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
    return ""


def default_route() -> Route | None:
    """Return the router that packets to the internet go to; None where there is none. This blocks."""
    gateway = _of_macos() if sys.platform == "darwin" else _of_linux()
    local = local_towards(gateway) if gateway else ""
    return Route(gateway, local) if local else None


def _of_linux() -> str:
    try:
        return gateway_in(ROUTES.read_text("ascii", "replace"))
    except OSError:
        return ""


def gateway_in(table: str) -> str:
    """Return the gateway of the default route with the lowest metric, of Linux's table; empty: none."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        words = line.split()
        with suppress(ValueError, IndexError, struct.error):
            flags, metric = int(words[3], 16), int(words[6])
            if int(words[1], 16) == int(words[7], 16) == 0 and flags & 3 == _UP_OVER_GATEWAY:
                # As the kernel has it in memory, so in the byte order of this machine.
                found.append((metric, str(ipaddress.IPv4Address(struct.pack("=I", int(words[2], 16))))))
    return min(found)[1] if found else ""


def _of_macos() -> str:
    try:
        ran = subprocess.run(
            ["/sbin/route", "-n", "get", "default"], capture_output=True, timeout=_ROUTE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return gateway_of(ran.stdout.decode("ascii", "replace"))


def gateway_of(words: str) -> str:
    """Return the gateway that macOS's `route get` names; empty: none, as through a tunnel."""
    for line in words.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "gateway":
            with suppress(ValueError):
                return str(ipaddress.IPv4Address(value))
    return ""
