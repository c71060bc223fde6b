"""The guard of a testnet: stops the nodes if their launcher dies without having done so.

    python -m node.testnet_guard GRACE GRACE_AT_ONCE

It reads pids from standard input, a line each: ``123`` to watch, ``-123`` to forget, ``done`` to go home.
The end of input without ``done`` means that the launcher is gone. Nothing is imported but the standard
library: the guard waits beside every testnet, and should weigh nothing.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable


def read_orders(lines: Iterable[str]) -> set[int]:
    """Follow the launcher's lines; return who is left to stop, nobody after ``done``."""
    pids: set[int] = set()
    for line in lines:
        word = line.strip()
        if word == "done":
            return set()
        if word.startswith("-"):
            pids.discard(int(word[1:]))
        else:
            pids.add(int(word))
    return pids


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def stop(pids: set[int], grace: float, grace_at_once: float) -> None:
    """Ask in order, ask again, kill."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGTERM, grace_at_once), (signal.SIGKILL, 0.0)):
        for pid in filter(is_alive, pids):
            try:
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)
                # A frozen process would not hear before it is thawed.
                os.killpg(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(map(is_alive, pids)):
            time.sleep(0.05)


def main() -> None:
    """Watch until the input ends."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    grace, grace_at_once = map(float, sys.argv[1:3])
    stop(read_orders(sys.stdin), grace, grace_at_once)


if __name__ == "__main__":
    main()
