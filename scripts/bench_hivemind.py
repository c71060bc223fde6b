"""One hivemind peer of scripts/bench_averaging.py; needs ``pip install hivemind``.

Same lines in and out as scripts/bench_peer.py. The all-reduce is timed inside hivemind's own process, from
the moment its group is known, so that matchmaking does not count.
"""

import json
import multiprocessing as mp
import os
import resource
import sys
import time
from typing import Any

import hivemind
import numpy as np
import psutil
import torch
from hivemind.averaging import DecentralizedAverager
from hivemind.compression import Float16Compression, NoCompression, Uniform8BitQuantization, quantization

# NumPy 2.4 no longer makes an int of an array with one number, on which hivemind 1.1.12's 8-bit codecs rely:
# every part would be refused, nothing averaged, and the time of that be measured.
quantization.int = lambda array: array.item()

COMPRESSIONS = {"float32": NoCompression, "float16": Float16Compression, "uint8": Uniform8BitQuantization}


class TimedAverager(DecentralizedAverager):  # type: ignore[misc]  # untyped library
    """Tells how long the all-reduce itself took."""

    seconds: Any = None

    async def _aggregate_with_group(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return await super()._aggregate_with_group(*args, **kwargs)
        finally:
            self.seconds.value = time.perf_counter() - start


def cpu_seconds() -> float:
    """Return the CPU time of this process and all it started."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in [me, *me.children(recursive=True)])


def main() -> None:
    """Join, and average."""
    options = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    addresses: list[str] = []
    if options["index"] == 0:
        dht = hivemind.DHT(start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
        print(json.dumps({"address": str(dht.get_visible_maddrs()[0])}), flush=True)
        json.loads(sys.stdin.readline())
    else:
        print(json.dumps({"address": ""}), flush=True)
        addresses = json.loads(sys.stdin.readline())
        dht = hivemind.DHT(start=True, initial_peers=addresses, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    TimedAverager.seconds = mp.Value("d", 0.0)
    tensor = torch.zeros(options["numel"])
    matchmaking: dict[str, Any] = {"min_matchmaking_time": 5.0}
    if options["told_size"]:
        matchmaking = {"target_group_size": options["peers"]}
    averager = TimedAverager(
        [tensor], dht, start=True, prefix="bench", compression=COMPRESSIONS[options["codec"]](), **matchmaking
    )
    base = torch.from_numpy(np.linspace(-1, 1, options["numel"], dtype=np.float32))
    for round_ in range(options["rounds"]):
        with averager.get_tensors() as tensors:
            tensors[0].copy_(base * (options["index"] + 1) + round_)
        used, start = cpu_seconds(), time.perf_counter()
        averager.step(wait=True, timeout=120)
        whole = time.perf_counter() - start
        with averager.get_tensors() as tensors:
            error = float((tensors[0] - (base * (options["peers"] + 1) / 2 + round_)).abs().max())
        row = {
            "round": round_,
            "seconds": TimedAverager.seconds.value,
            "matchmaking_seconds": max(0.0, whole - TimedAverager.seconds.value),
            "bytes": None,
            "cpu_seconds": cpu_seconds() - used,
            "error": error,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(row), flush=True)
    print(json.dumps({"done": True}), flush=True)
    sys.stdin.readline()
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
