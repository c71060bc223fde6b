"""One torch.distributed gloo rank of scripts/bench_averaging.py.

Plaintext and without faults: the practical floor. Same lines in and out as scripts/bench_peer.py.
"""

import json
import os
import resource
import socket
import sys
import time

import numpy as np
import torch
import torch.distributed as dist

from scripts.bench_memory import huge_mb


def main() -> None:
    """Join, and average."""
    options = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    port = 0
    if options["index"] == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    print(json.dumps({"address": f"tcp://127.0.0.1:{port}"}), flush=True)
    given = json.loads(sys.stdin.readline())
    address = given[0] if given else f"tcp://127.0.0.1:{port}"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=address, rank=options["index"], world_size=options["peers"])
    base = torch.from_numpy(np.linspace(-1, 1, options["numel"], dtype=np.float32))
    for round_ in range(options["rounds"]):
        tensor = base * (options["index"] + 1) + round_
        dist.barrier()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        dist.all_reduce(tensor)
        tensor /= options["peers"]
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_SELF)
        row = {
            "round": round_,
            "seconds": seconds,
            "matchmaking_seconds": 0.0,
            "bytes": None,
            "cpu_seconds": used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime,
            "error": float((tensor - (base * (options["peers"] + 1) / 2 + round_)).abs().max()),
            "peak_rss_mb": used.ru_maxrss / 1024,
            "page_faults": used.ru_minflt - usage.ru_minflt,
            "huge_mb": huge_mb(),
        }
        print(json.dumps(row), flush=True)
    print(json.dumps({"done": True}), flush=True)
    sys.stdin.readline()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
