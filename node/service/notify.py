"""Notify: what a node tells the service manager that started it, over the socket that systemd names.

    READY=1       the node listens, and commands reach it
    WATCHDOG=1    its loop turns; systemd starts a node again that stops saying so
    STATUS=...    a line for `systemctl status`
    STOPPING=1    it has begun to leave

Without ``NOTIFY_SOCKET`` nothing is sent. The protocol: https://www.freedesktop.org/software/systemd/man/sd_notify.html
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

import trio

from shoal.node.status import Status

log = logging.getLogger(__name__)

STATUS_SECONDS: Final = 10.0
"""Between two lines of status, where no watchdog wants them more often."""
SHARE: Final = 1 / 3
"""Of the watchdog's time after which it hears from us: two may be late."""


def send(message: str, environ: Mapping[str, str]) -> bool:
    """Send lines to the service manager; tells whether there is one that took them.

    A path that begins with ``@`` is in the abstract namespace of Linux.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(message.encode(), path)
    except OSError as error:
        # A manager that hangs must not hold up the node.
        log.info("the service manager was not told %r: %s", message, error)
        return False
    return True


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Return after what silence the service manager starts this process again; None: never."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


def status_line(status: Status) -> str:
    """Return what `systemctl status` shows of a node."""
    linked = sum(peer.link != "none" for peer in status.peers)
    peers = "1 peer" if linked == 1 else f"{linked} peers"
    problem = f"; {status.problems[0]}" if status.problems else ""
    return f"{status.phase}, round {status.round}, {peers}{problem}".replace("\n", " ")


async def tell_manager(
    status: Callable[[], Status], is_stopping: trio.Event, environ: Mapping[str, str]
) -> None:
    """Say that the node is up, again and again that its loop turns, and that it ends, when it does."""
    if not send(f"READY=1\nSTATUS={status_line(status())}", environ):
        return
    limit = watchdog_seconds(environ, os.getpid())
    pause = STATUS_SECONDS if limit is None else min(STATUS_SECONDS, limit * SHARE)
    while not is_stopping.is_set():
        with trio.move_on_after(pause):
            await is_stopping.wait()
            break
        send(f"WATCHDOG=1\nSTATUS={status_line(status())}", environ)
    send("STOPPING=1\nSTATUS=leaving the swarm", environ)
