"""What a process of scripts/bench_averaging.py knows of its own memory, from the tables of Linux."""

from contextlib import suppress
from pathlib import Path


def memory(name: str, table: str = "status") -> int:
    """Return bytes of this process's memory by its name in a table of the system; 0 where there is none."""
    try:
        text = Path(f"/proc/self/{table}").read_text()
    except OSError:
        return 0
    return next((1024 * int(each.split()[1]) for each in text.splitlines() if each.startswith(name)), 0)


def huge_mb() -> float:
    """Return how many megabytes of this process lie in huge pages."""
    return memory("AnonHugePages", "smaps_rollup") / 1e6


def forget_peak() -> None:
    """Let the system measure the largest memory anew, where it can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
