"""A host in a process of its own: prints its address, then echoes control frames and counts bulk.

usage: python tests/host_process.py KEY_SEED_HEX fast|standard [PORT]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import psutil
import trio

from shoal.crypto.keys import key_from_seed
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import open_host


async def main() -> None:
    """Run until killed."""
    port = sys.argv[3] if len(sys.argv) > 3 else "0"
    config = HostConfig(
        listen=(f"/ip4/127.0.0.1/tcp/{port}",), mdns=False, dht=True, fast_links=sys.argv[2] == "fast"
    )
    async with open_host(key_from_seed(bytes.fromhex(sys.argv[1])), config) as host:
        print(host.addresses()[0], flush=True)
        bulk = 0
        while True:
            event = await host.next_event()
            if isinstance(event, FrameReceived) and event.data:
                bulk += len(event.data)
            elif isinstance(event, FrameReceived) and event.head == b"status":
                memory = psutil.Process().memory_info().rss
                modules = sorted({"torch", "hivemind", "scipy", "sklearn"} & set(sys.modules))
                status = {"rss": memory, "heavy": modules, "bulk": bulk}
                host.send_nowait(event.peer, json.dumps(status).encode())
            elif isinstance(event, FrameReceived):
                host.send_nowait(event.peer, event.head)


if __name__ == "__main__":
    trio.run(main)
