"""Link two nodes on this machine and let them average three rounds, with the versions that run this.

    .lowest/venv/bin/python scripts/link_two.py [PYTHON]

With PYTHON, an interpreter that has another version of shoal, the second node is run by it. The trainers are
without torch (tests/tasks/light.py). Exit code 1 where they do not meet within five minutes, or say that a
fault of their own made the link a slower one.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from shoal.node.errors import UserError
from shoal.node.status import Status
from shoal.node.web.client import fetch_status

SECONDS: Final = 300.0
TASKS: Final = Path(__file__).resolve().parents[1] / "tests" / "tasks"
COMMAND: Final = (
    *("-P", "-m", "shoal.node", "start", "--no-mdns", "--no-http"),
    *("--listen", "/ip4/127.0.0.1/tcp/0"),
    *("--task", "light:Light", "--option", "steps=1", "--wait-for", "2"),
)


def start(python: str, home: Path, *flags: str) -> "subprocess.Popen[bytes]":
    """Start a node by an interpreter; it writes into its home."""
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    with (home / "node.log").open("wb") as log:
        return subprocess.Popen(
            [python, *COMMAND, "--home", str(home), *flags],
            cwd=TASKS,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment | {"SHOAL_TESTING_TRAINER": "light", "PYTHONPATH": str(TASKS)},
        )


def seen(home: Path) -> Status | None:
    """Return what a node says, if it answers."""
    try:
        return fetch_status(home)
    except UserError:
        return None


def have_met(homes: list[Path]) -> bool:
    """Whether both have averaged three rounds with each other."""
    for home in homes:
        status = seen(home)
        if status is None or sum(row.contributors == 2 for row in status.history) < 3:
            return False
    return True


def main() -> int:
    """See the module's docstring."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        one, two = homes = [Path(folder) / "one", Path(folder) / "two"]
        nodes = [start(sys.executable, one)]
        other = sys.argv[1] if sys.argv[1:] else sys.executable
        until = time.monotonic() + SECONDS
        try:
            while (status := seen(one)) is None and time.monotonic() < until:
                time.sleep(0.1)
            if status is not None:
                nodes.append(start(other, two, "--join", status.addresses[0]))
            while not (met := len(nodes) == 2 and have_met(homes)) and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                node.wait()
        logs = [(home / "node.log").read_text() for home in homes if home.exists()]
    is_whole = met and "a fault of this node" not in "".join(logs)
    print("two nodes are linked and average" if is_whole else "\n".join(logs))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
