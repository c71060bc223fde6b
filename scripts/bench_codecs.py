"""How long a chunk takes to be written and read in each codec, in processor time.

    python scripts/bench_codecs.py [--numel 524288] [--repeat 20]

A line per codec: bytes a number, and nanoseconds of processor a number for encoding and decoding, the least
of so many runs, of normal numbers on one thread.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "src")]

import numpy as np  # noqa: E402  # the path comes first

from shoal.gossip.averaging.tensor_codecs import CODECS, Codec  # noqa: E402
from shoal.gossip.events import Vector  # noqa: E402
from shoal.gossip.run_spec import CHUNK_NUMEL  # noqa: E402


def seconds(codec: Codec, x: Vector) -> tuple[float, float]:
    """Return the processor seconds of one encoding and of one decoding."""
    begun = time.process_time()
    data = codec.encode(x)
    encoded = time.process_time()
    codec.decode(data, x.size)
    return encoded - begun, time.process_time() - encoded


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench_codecs.py", description="Time every codec on a chunk.")
    parser.add_argument("--numel", type=int, default=CHUNK_NUMEL, help="numbers in the chunk")
    parser.add_argument("--repeat", type=int, default=20, help="runs, of which the fastest counts")
    given = parser.parse_args()
    x = np.random.default_rng(0).normal(size=given.numel).astype(np.float32)
    print("| codec | bytes a number | ns to encode | ns to decode |\n|---|---|---|---|")
    for name, codec in CODECS.items():
        runs = [seconds(codec, x) for _ in range(given.repeat)]
        encoding, decoding = (min(each) / x.size * 1e9 for each in zip(*runs, strict=True))
        print(f"| {name} | {codec.size(x.size) / x.size:.3f} | {encoding:.2f} | {decoding:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
