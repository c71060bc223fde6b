"""Our host and go-libp2p, as hivemind's bundled daemon runs it: standard Noise and yamux, both ways."""

import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hosts import config
from libp2p.custom_types import TProtocol
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.net.libp2p_adapters import claim
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host

HIVEMIND: Final = find_spec("hivemind")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        HIVEMIND is None or not (Path(str(HIVEMIND.origin)).parent / "hivemind_cli" / "p2pd").exists(),
        reason="hivemind with its go-libp2p daemon p2pd is not installed: .[hivemind]",
    ),
]
PROCESS: Final = Path(__file__).parents[2] / "p2pd_process.py"
ECHO: Final = TProtocol("/shoal-test/echo/1")
N_BYTES: Final = 3 << 20
"""Several times yamux's window of 256 KiB, so that it has to be updated in both directions."""
SENT: Final = bytes(range(256)) * (N_BYTES // 256)


class Daemon:
    """A go-libp2p daemon and its address."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def said(self) -> dict[str, str]:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some()
            assert data, "the daemon's process ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, str] = json.loads(line)
        return found

    async def dial(self, address: str) -> str:
        """Let it dial, send on ECHO, and tell the digest of what came back."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(address.encode() + b"\n")
        return (await self.said())["digest"]


@asynccontextmanager
async def go_libp2p() -> AsyncIterator[tuple[Daemon, str]]:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROCESS), str(N_BYTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    daemon = Daemon(process)
    try:
        yield daemon, (await daemon.said())["address"]
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.move_on_after(10):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def echo(stream: Any) -> None:
    """Take all before the first byte goes back: go-libp2p's bindings read nothing while they send."""
    claim(stream)
    came = bytearray()
    while len(came) < N_BYTES:
        data = await stream.read(min(N_BYTES - len(came), 1 << 16))
        assert data
        came += data
    await stream.write(bytes(came))
    await stream.close()


def negotiated(host: Libp2pHost) -> tuple[str, str]:
    """Return the security protocol and the muxer of the host's only connection."""
    (connection,) = host.network.swarm.get_connections()
    return connection.get_negotiated_security_protocol(), connection.get_negotiated_muxer_protocol()


@pytest.mark.parametrize("fast", [True, False])
def test_bytes_go_both_ways_when_we_dial_go_libp2p(fast: bool) -> None:
    async def main() -> None:
        with trio.fail_after(100):
            async with go_libp2p() as (_, address), open_host(new_key(), config(fast_links=fast)) as host:
                connection = await host.network.dial(parse(address), lambda _muxed, _peer: True)
                assert negotiated(host) == (NOISE, YAMUX)
                lane = await host.network.open_lane(connection, ECHO)
                assert lane is not None, "it does not speak the protocol"
                came = bytearray(N_BYTES)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lane.write, SENT)
                    await lane.read_into(memoryview(came))
                assert came == SENT

    trio.run(main)


@pytest.mark.parametrize("fast", [True, False])
def test_bytes_go_both_ways_when_go_libp2p_dials_us(fast: bool) -> None:
    async def main() -> None:
        with trio.fail_after(100):
            async with go_libp2p() as (daemon, _), open_host(new_key(), config(fast_links=fast)) as host:
                host.network.host.set_stream_handler(ECHO, echo)
                digest = await daemon.dial(host.addresses()[0])
                assert negotiated(host) == (NOISE, YAMUX)
                assert digest == hashlib.blake2b(SENT).hexdigest()

    trio.run(main)
