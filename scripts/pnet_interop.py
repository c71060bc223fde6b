"""Let js-libp2p talk to a shoal host in a private network: `python scripts/pnet_interop.py`.

Needs node and npm; the packages are installed into a temporary folder. It prints what each side said, and
ends with 0 if js-libp2p with the same key connects, identifies and pings, and one with another key does not.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio

from shoal.crypto.keys import new_key
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.psk_file import text_of

PACKAGES: Final = (
    "libp2p",
    "@libp2p/pnet",
    "@libp2p/tcp",
    "@libp2p/identify",
    "@chainsafe/libp2p-noise",
    "@chainsafe/libp2p-yamux",
    "@multiformats/multiaddr",
)
SCRIPT: Final = """
import { createLibp2p } from 'libp2p'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { identify } from '@libp2p/identify'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { readFileSync } from 'node:fs'

const [address, keyFile] = process.argv.slice(2)
const node = await createLibp2p({
  transports: [tcp()],
  connectionProtector: preSharedKey({ psk: readFileSync(keyFile) }),
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})
await node.start()
const identified = new Promise(done => node.addEventListener('peer:identify', event => done(event.detail)))
const began = Date.now()
try {
  const connection = await node.dial(multiaddr(address), { signal: AbortSignal.timeout(10000) })
  console.log('connected to', connection.remotePeer.toString(), connection.encryption, connection.multiplexer)
  const found = await identified
  console.log('identified', found.protocols.filter(each => each.startsWith('/shoal/')).sort().join(' '))
  await node.stop()
} catch (error) {
  console.log('refused after', Date.now() - began, 'ms:', error.name, error.message)
  process.exit(3)
}
process.exit(0)
"""

POLYFILL: Final = """
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
"""
"""What node 20 lacks."""


async def main(folder: Path) -> int:
    """Run both tries; returns the exit code."""
    key, other = bytes(range(32)), bytes(range(1, 33))
    for name, each in (("right.key", key), ("other.key", other)):
        (folder / name).write_text(text_of(each))
    (folder / "dial.mjs").write_text(SCRIPT)
    (folder / "polyfill.mjs").write_text(POLYFILL)
    config = HostConfig(listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, dht=False, local_sockets=False)
    async with open_host(new_key(), config, None, key) as host:
        address = host.addresses()[0]
        codes = {}
        for name in ("right.key", "other.key"):
            ran = await trio.run_process(
                ["node", "--import", "./polyfill.mjs", "dial.mjs", address, name],
                cwd=folder,
                capture_stdout=True,
                check=False,
            )
            codes[name] = ran.returncode
            print(f"{name}: exit {ran.returncode}\n  " + ran.stdout.decode().strip().replace("\n", "\n  "))
        print("shoal refused:", dict(host.admission.counts))
    return 0 if codes == {"right.key": 0, "other.key": 3} else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="Where the packages lie already.")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as made:
        where = chosen or Path(made)
        if not (where / "node_modules").exists():
            subprocess.run(["npm", "install", "--silent", "--prefix", str(where), *PACKAGES], check=True)
        sys.exit(trio.run(main, where))
