"""A plain hivemind script that averages with a run of shoal nodes; needs no shoal, only hivemind.

    shoal start --task digits --engine hivemind             # prints what to put after --peer and --prefix
    python examples/hivemind_script.py --peer /ip4/192.0.2.7/tcp/40123/p2p/12D3KooW... \
        --prefix shoal-0123456789abcdef --numel 8970 --rounds 5

`shoal status` tells peer, prefix and, as parameters, the size. The script's vector counts once in the mean; a
node's counts as often as it has examples. In place of nothing, a script would train between two rounds.
"""

import argparse
import hashlib
import json

import hivemind
import numpy as np
import torch
from hivemind.averaging import DecentralizedAverager


def main() -> None:
    """Average as often as asked, and print what came of it."""
    parser = argparse.ArgumentParser(description="Average with a run of shoal nodes.")
    parser.add_argument("--peer", required=True, action="append", help="hivemind address of a node")
    parser.add_argument("--prefix", required=True, help="of the run's groups")
    parser.add_argument("--numel", required=True, type=int, help="how many numbers the model has")
    parser.add_argument("--rounds", type=int, default=1, help="how often to average")
    parser.add_argument(
        "--fill", type=float, default=0.0, help="what the vector holds before the first round"
    )
    parser.add_argument("--weight", type=float, default=1.0, help="how much it counts")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to look for a group")
    parser.add_argument("--save", help="write the vector to this .npy file after every round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dht = hivemind.DHT(initial_peers=given.peer, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    averager = DecentralizedAverager(
        [torch.full((given.numel,), given.fill)], dht, prefix=given.prefix, start=True
    )
    for round_ in range(given.rounds):
        members = averager.step(weight=given.weight, timeout=given.timeout)
        with averager.get_tensors() as tensors:
            vector = tensors[0].numpy().copy()
        if given.save:
            np.save(given.save, vector)
        said = {
            "round": round_,
            "members": len(members or ()),
            "first": [float(number) for number in vector[:8]],
            "blake2b": hashlib.blake2b(vector.tobytes(), digest_size=8).hexdigest(),
        }
        print(json.dumps(said), flush=True)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
