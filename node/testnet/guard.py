"""The guard of a testnet: stops the nodes if their launcher dies without having done so.

    python -P -m shoal.node.testnet.guard GRACE GRACE_AT_ONCE

It reads orders from standard input, a line each: ``123`` to watch a pid, ``-123`` to forget it,
``!["ip", "netns", "del", "x"]`` to run a command after all have ended, ``done`` to go home. The end of
input without ``done`` means that the launcher is gone. Nothing is imported but the standard
library: the guard waits beside every testnet, and should weigh nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable


def read_orders(lines: Iterable[str]) -> tuple[set[int], list[list[str]]]:
    """Follow the launcher's lines; return who is left to stop and what to run, nothing after ``done``."""
    pids: set[int] = set()
    commands: list[list[str]] = []
    for line in lines:
        word = line.strip()
        if word == "done":
            return set(), []
        if word.startswith("!"):
            commands.append(json.loads(word[1:]))
        elif word.startswith("-"):
            pids.discard(int(word[1:]))
        else:
            pids.add(int(word))
    return pids, commands


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
    pids, commands = read_orders(sys.stdin)
    stop(pids, grace, grace_at_once)
    for command in commands:
        subprocess.run(command, capture_output=True, check=False)


if __name__ == "__main__":
    main()
