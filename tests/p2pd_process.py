"""A go-libp2p host in a process of its own: hivemind's bundled daemon, driven by hivemind's own bindings.

Prints its address; echoes on ECHO what arrives there, until the other side sends no more. Each line on its
standard input is an address to dial: it sends so many bytes there on ECHO and prints the answer's digest.

hivemind and py-libp2p cannot be imported into one interpreter, hence the process.

usage: python tests/p2pd_process.py N_BYTES
"""

import asyncio
import hashlib
import json
import sys

from hivemind.p2p import P2P, PeerID
from hivemind.utils.multiaddr import Multiaddr

ECHO = "/shoal-test/echo/1"


async def echo(info, reader, writer) -> None:  # type: ignore[no-untyped-def]  # hivemind's streams
    """Give back what comes."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def call(p2p: P2P, address: str, n_bytes: int) -> str:
    """Dial, send, and return the digest of the echo."""
    whole = Multiaddr(address)
    peer = PeerID.from_base58(whole["p2p"])
    await p2p._client.connect(peer, [whole.decapsulate(f"/p2p/{peer.to_base58()}")])
    _, reader, writer = await p2p.call_binary_stream_handler(peer, ECHO)
    writer.write(bytes(range(256)) * (n_bytes // 256))
    await writer.drain()
    came = await reader.readexactly(n_bytes)
    writer.close()
    return hashlib.blake2b(came).hexdigest()


async def main() -> None:
    """Run until standard input ends."""
    p2p = await P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"], auto_nat=False, nat_port_map=False)
    try:
        await p2p.add_binary_stream_handler(ECHO, echo)
        addresses = [str(address) for address in await p2p.get_visible_maddrs()]
        print(json.dumps({"address": addresses[0]}), flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            digest = await call(p2p, line, int(sys.argv[1]))
            print(json.dumps({"digest": digest}), flush=True)
    finally:
        await p2p.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
