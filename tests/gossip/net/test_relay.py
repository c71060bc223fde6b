"""Two libp2p hosts that share no address talk through a node of ours."""

from typing import Any

import pytest
import trio
from hosts import config
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from shoal.crypto.keys import new_key
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.net.relay import LIMITS

ECHO = TProtocol("/echo/1")


def plain_host() -> Any:
    """Return a host of the library itself, with no protocol of ours."""
    keys = create_new_key_pair()
    return new_host(key_pair=keys, sec_opt={NOISE: Noise(keys, create_noise_key().private_key)})


async def echo(stream: Any) -> None:
    await stream.write(await stream.read(5))
    await stream.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hosts_that_cannot_dial_each_other_meet_through_a_node() -> None:
    async def main() -> bytes:
        async with open_host(new_key(), config()) as node:
            address = Multiaddr(node.addresses()[0])
            hidden, caller = plain_host(), plain_host()
            hidden.set_stream_handler(ECHO, echo)
            async with hidden.run([]), caller.run([]), trio.open_nursery() as nursery:
                for host in (hidden, caller):
                    await host.connect(info_from_p2p_addr(address))
                protocols = [CircuitV2Protocol(host, limits=LIMITS) for host in (hidden, caller)]
                async with background_trio_service(protocols[0]), background_trio_service(protocols[1]):
                    roles = RelayRole.STOP | RelayRole.CLIENT
                    server = CircuitV2Transport(hidden, protocols[0], RelayConfig(roles=roles, limits=LIMITS))
                    relay_id = ID.from_base58(node.me)
                    reservation = await hidden.new_stream(relay_id, [HOP])
                    assert await server.reserve(reservation, relay_id, nursery)
                    client = CircuitV2Transport(
                        caller, protocols[1], RelayConfig(roles=RelayRole.STOP, limits=LIMITS)
                    )
                    await client.dial(Multiaddr(f"{address}/p2p-circuit/p2p/{hidden.get_id()}"))
                    stream = await caller.new_stream(hidden.get_id(), [ECHO])
                    await stream.write(b"hello")
                    answer = await stream.read(5)
                for host in (hidden, caller):
                    await host.close()
                nursery.cancel_scope.cancel()
        return bytes(answer)

    async def bounded() -> bytes:
        with trio.fail_after(60):
            return await main()

    assert trio.run(bounded) == b"hello"
