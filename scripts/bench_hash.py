"""Compare the hashes a state could be named by: python scripts/bench_hash.py [--megabytes 64]."""

import argparse
import hashlib
import time
from collections.abc import Callable

from blake3 import blake3


def gigabytes_per_second(digest: Callable[[bytes], object], data: bytes) -> float:
    """Return the best of five."""
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        digest(data)
        best = max(best, len(data) / (time.perf_counter() - start) / 1e9)
    return best


def main() -> None:
    """Print a line per hash, and its ratio to BLAKE2b."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    data = bytes(parser.parse_args().megabytes << 20)
    systems: dict[str, Callable[[bytes], object]] = {
        "BLAKE2b": lambda d: hashlib.blake2b(d).digest(),
        "SHA-256": lambda d: hashlib.sha256(d).digest(),
        "BLAKE3": lambda d: blake3(d).digest(),
    }
    rates = {name: gigabytes_per_second(digest, data) for name, digest in systems.items()}
    for name, rate in rates.items():
        print(f"{name:8} {rate:6.2f} GB/s  {rate / rates['BLAKE2b']:5.1f} x BLAKE2b")


if __name__ == "__main__":
    main()
