"""Listening: whether the system lets a node listen where it is told to."""

import errno
import logging
import socket

from shoal.gossip.addresses import Address

log = logging.getLogger(__name__)


class PortInUse(OSError):
    """Somebody listens there already; the message says what to do."""

    def __init__(self, port: int) -> None:
        """`port`: the one asked for."""
        text = f"port {port} is in use: choose another with --port, or 0 for a free one"
        super().__init__(errno.EADDRINUSE, text)

    def __str__(self) -> str:
        """Return the advice alone."""
        return str(self.strerror)


def check_port_free(address: Address) -> None:
    """Try to listen as nobody who shares would.

    The library listens with SO_REUSEPORT, which hole punching needs: a second node on the same port
    would start without an error and take half of the connections.

    Raises:
        PortInUse: somebody listens there.
        OSError: the address is not one of this machine, or the port may not be used.
    """
    family = socket.AF_INET if address.kind == "ip4" else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(address.port) from error
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


def listenable(addresses: list[Address]) -> list[Address]:
    """Return those of our addresses on which the system lets us listen: it may lack one of the families.

    Raises:
        PortInUse: somebody listens on one of them.
        OSError: none of them, or one that does not stand for every interface, may be used.
    """
    found, faults = [], []
    for address in addresses:
        try:
            check_port_free(address)
        except PortInUse:
            raise
        except OSError as error:
            if not address.is_any:
                raise
            faults.append(error)
        else:
            found.append(address)
    if faults and not found:
        raise faults[0]
    for fault in faults:
        log.info("%s", fault)
    return found
