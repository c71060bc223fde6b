"""Lookup: other nodes found without being told of them, and what looks is started again when it fails.

mDNS asks the local network by multicast, RFC 6762, under a service name of our own. The DHT is in `dht.py`,
announcements are in `announcements.py`. None of them is needed to run: each says once that it fails.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

import trio
from zeroconf import IPVersion, NonUniqueNameException, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import BadAddress, parse
from shoal.gossip.events import Learned
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_node import Network

log = logging.getLogger(__name__)

MDNS_TYPE: Final = "_shoal._udp.local."
RESTART_AFTER: Final = 2.0
"""Seconds; doubled after every failure."""
MAX_RESTART_AFTER: Final = 300.0
LOOK_EVERY: Final = 60.0
"""Seconds between looks at whether the key of the private network has changed."""

Emit = Callable[[Learned], None]


async def keep_running(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part again and again; without it the node lives on with less."""
    warned, pause = False, RESTART_AFTER
    while True:
        began = trio.current_time()
        try:
            await part()
        except Exception as error:  # the boundary to a service of the library, which raises anything
            level = logging.DEBUG if warned else logging.WARNING
            log.log(level, "%s does not work and is tried again later: %s", name, error)
            log.debug("%s", name, exc_info=True)
            warned = True
        if trio.current_time() - began > MAX_RESTART_AFTER:
            warned, pause = False, RESTART_AFTER
        await trio.sleep(pause)
        pause = min(2 * pause, MAX_RESTART_AFTER)


class LocalNetwork(ServiceListener):
    """Our service in mDNS; its callbacks come from a thread of zeroconf."""

    def __init__(self, network: Network, config: HostConfig, me: PeerId, emit: Emit) -> None:
        """`emit` is handed the addresses found, in the trio thread."""
        self._network = network
        self._name = config.swarm
        self._me = me
        self._emit = emit
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
        try:
            await trio.to_thread.run_sync(
                self._register,
                zeroconf,
                abandon_on_cancel=True,  # type: ignore[call-arg]  # old stubs
            )
            told = self._swarms()
            while self._swarms() == told:  # else the network's key has changed, and we are registered anew
                await trio.sleep(LOOK_EVERY)
        finally:
            # Saying goodbye waits for the network; nobody here waits for that.
            threading.Thread(target=_close, args=(zeroconf,), daemon=True).start()

    def _register(self, zeroconf: Zeroconf) -> None:
        addresses = [each.of(self._me) for each in self._network.addresses() if not each.is_loopback][:8]
        ServiceBrowser(zeroconf, MDNS_TYPE, self)
        if not addresses:
            return
        properties: dict[bytes, bytes | None] = {b"swarm": self._swarms()[0]}
        properties |= {b"dnsaddr%d" % i: str(each).encode() for i, each in enumerate(addresses)}
        label = blake2b(self._me.encode(), digest_size=16).hexdigest()
        info = ServiceInfo(
            MDNS_TYPE,
            f"{label}.{MDNS_TYPE}",
            port=addresses[0].port,
            properties=properties,
            server=f"{label}.local.",
            addresses=[socket.inet_aton(each.host) for each in addresses if each.kind == "ip4"],
        )
        with contextlib.suppress(NonUniqueNameException):  # ours, from before a crash
            zeroconf.register_service(info)

    def _swarms(self) -> list[bytes]:
        """What stands for the swarm in the local network, the one that we say first."""
        return [_announced(self._name, key) for key in self._network.traffic.network_keys or (b"",)]

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Read who is there."""
        info = zc.get_service_info(type_, name, timeout=3000)
        properties = info.properties if info is not None else {}
        if properties.get(b"swarm") not in self._swarms() or self._token is None:
            return
        texts = [value for key, value in properties.items() if key.startswith(b"dnsaddr") and value]
        for text in texts[:8]:
            address = text.decode(errors="replace")
            if not address.endswith(self._me):
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(learn, self._emit, address, "mdns")

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """See `add_service`."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Forget nothing: links tell better who is gone."""


def _close(zeroconf: Zeroconf) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        zeroconf.close()


def learn(emit: Emit, text: str, source: str) -> None:
    """Emit an address that somebody claims, if it is one."""
    try:
        address = parse(text)
    except BadAddress:
        log.debug("%s told of %.80r, which is no address", source, text)
        return
    if address.peer is not None and not address.is_any:
        emit(Learned(str(address), source))


def _announced(swarm: str, network_key: bytes) -> bytes:
    """Return what stands for the swarm in the local network: in a private one nobody can guess its name."""
    return blake2b(swarm.encode(), key=network_key, digest_size=16).hexdigest().encode()
