"""Measure what a frozen base costs where only LoRA of rank 8 travels: bytes, sizes, memory, and a newcomer.

    python scripts/bench_parts.py                         # GPTs of 10 M and 124 M parameters, three nodes
    python scripts/bench_parts.py --sizes 10 --json       # a line per size, and one that compares

Real nodes on loopback train a GPT with random weights by FedIT, a step a round. Then a node that has the base
is linked: its line to each giver carries `MBIT`, so that moving bytes takes time at all. `limit` is what the
bytes of a node and round may be: 1.05 * 2 (K - 1) / K * 4 * the adapter's numbers + 4 kB. All
that a node says is counted, presence records too. A node that owns a larger part sends more than others.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from shoal.gossip.state.tree_hash import state_hash
from shoal.node.errors import NotRunning, Refused
from shoal.node.status import Status
from shoal.node.testnet.processes import Guard, environment, spawn
from shoal.node.web import client

T = TypeVar("T")

SCRIPTS: Final = Path(__file__).resolve().parent
SHAPES: Final = {10: (320, 8), 124: (924, 12)}
"""Millions of parameters -> width and layers."""
NODES: Final = 3
ROUNDS: Final = 4
"""Over which bytes are counted, after the first two."""
MBIT: Final = 8.0
LONGEST: Final = 900.0
"""Seconds for anything here."""
NODE: Final = (sys.executable, "-P", "-m", "shoal.node")
FLAGS: Final = (
    *("--no-mdns", "--http-port", "0", "--no-check", "--listen", "/ip4/127.0.0.1/tcp/0"),
    *("--task", "bare_gpt:Bare", "--method", "fedit", "--option", "variant=separate", "--option", "rank=8"),
    *("--option", "targets=q_proj,v_proj", "--option", "steps=1", "--option", "batch_size=1"),
)


class Nodes:
    """The nodes of one run."""

    def __init__(self, folder: Path, width: int, layers: int) -> None:
        """`width`, `layers`: of the GPT."""
        self._folder, self._guard = folder, Guard()
        self._shape = ("--task-option", f"width={width}", "--task-option", f"layers={layers}")
        self._running: list[subprocess.Popen[bytes]] = []
        self.homes: list[Path] = []

    def start(self, *flags: str) -> Path:
        """Start a node; returns its home."""
        home = self._folder / f"node{len(self.homes)}"
        home.mkdir()
        command = [*NODE, "start", "--home", str(home), *FLAGS, *self._shape, *flags]
        slow = {"SHOAL_GOSSIP_STATE_UPLOAD_MBIT": str(MBIT)}
        process = spawn(command, home / "out.log", environment(os.environ) | slow, str(SCRIPTS))
        self._guard.watch(process.pid)
        self._running.append(process)
        self.homes.append(home)
        return home

    def wait(self, home: Path, look: Callable[[Status], T | None], every: float = 0.1) -> T:
        """Return the first that `look` finds in a node's status."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end:
            with suppress(NotRunning, Refused):
                if (found := look(client.fetch_status(home))) is not None:
                    return found
            if self._running[self.homes.index(home)].poll() is not None:
                break
            time.sleep(every)
        raise SystemExit(f"{home.name} came to nothing\n{(home / 'out.log').read_text()[-2000:]}")

    def end(self) -> None:
        """Kill them all."""
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._guard.close()


@contextmanager
def nodes(width: int, layers: int) -> Iterator[Nodes]:
    """Run nodes for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        made = Nodes(Path(folder), width, layers)
        try:
            yield made
        finally:
            made.end()


def limit(members: int, adapter: int) -> int:
    """Return how many bytes a node may send in a round."""
    return round(1.05 * 2 * (members - 1) / members * 4 * adapter + 4000)


def measure(millions: int) -> dict[str, Any]:
    """Return what a run with a base of this size costs."""
    with nodes(*SHAPES[millions]) as made:
        first = made.start("--wait-for", str(NODES))
        address = made.wait(first, lambda status: status.addresses or None)[0]
        for _ in range(NODES - 1):
            made.start("--wait-for", str(NODES), "--join", address)
        sent = [bytes_a_round(made, home) for home in made.homes]
        status = made.wait(first, lambda status: status)
        assert status.run is not None
        adapter = status.run.parameters
        rss = [made.wait(home, lambda status: status.rss_bytes) for home in made.homes]
        saved = made.wait(first, lambda status: saved_bytes(first))
        base = next(made.homes[0].glob("state/base-*.data")).stat().st_size
        new = newcomer(made, address)
        return {
            "parameters": base // 4 + adapter,
            "adapter": adapter,
            "bytes_a_round": sum(sent) // NODES,
            "bytes_of_the_busiest": max(sent),
            "limit": limit(NODES, adapter),
            "base_bytes": base,
            "state_bytes": 4 * adapter,
            "checkpoint_bytes": saved,
            "hash_seconds": hash_seconds(adapter),
            "daemon_rss_bytes": max(rss),
            **new,
            "moving_seconds": round(8 * 4 * adapter / (MBIT * 1e6), 3),
        }


def bytes_a_round(made: Nodes, home: Path) -> int:
    """Return what a node sends in a round, all its other words among it."""
    begin = made.wait(home, lambda s: (s.round, s.bytes_sent) if s.round >= 2 else None)
    end = made.wait(home, lambda s: (s.round, s.bytes_sent) if s.round >= begin[0] + ROUNDS else None)
    return (end[1] - begin[1]) // (end[0] - begin[0])


def saved_bytes(home: Path) -> int | None:
    """Return the bytes of a checkpoint; nothing where it was replaced while we looked."""
    found = [path for path in home.glob("state/*-round*.safetensors") if "-made" not in path.name]
    with suppress(FileNotFoundError):
        return max(path.stat().st_size for path in found if "-agreed" not in path.name)
    return None


def hash_seconds(adapter: int) -> float:
    """Return what it takes to name a state."""
    vector = np.ones(adapter, np.float32)
    began = time.perf_counter()
    state_hash(vector.data)
    return round(time.perf_counter() - began, 5)


def newcomer(made: Nodes, address: str) -> dict[str, Any]:
    """Link a node whose trainer is ready, and time it from the first link to the state that it verified."""
    home = made.start("--wait-for", "2", "--wait-seconds", str(LONGEST))
    made.wait(home, lambda status: status.run)
    client.add_bootstrap(home, address)
    linked = made.wait(home, lambda s: time.monotonic() if _links(s) else None, every=0.005)
    verified = made.wait(home, lambda s: time.monotonic() if s.round > 0 else None, every=0.005)
    return {"newcomer_seconds": round(verified - linked, 3)}


def _links(status: Status) -> bool:
    return any(peer.link == "direct" for peer in status.peers)


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is claimed of both sizes."""
    memory = [row["daemon_rss_bytes"] for row in rows]
    return {
        "bytes_are_within": all(row["bytes_a_round"] <= row["limit"] for row in rows),
        "daemon_differs_by": max(memory) - min(memory),
        "newcomer_times": [round(row["newcomer_seconds"] / row["moving_seconds"], 2) for row in rows],
    }


def main() -> None:
    """Read the command line and run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--sizes", default="10,124", help="millions of parameters: 10, 124, or both")
    parser.add_argument("--json", action="store_true", help="a line per size, and one that compares")
    options = parser.parse_args()
    rows = []
    for millions in map(int, options.sizes.split(",")):
        rows.append(measure(millions))
        shown = json.dumps(rows[-1]) if options.json else _table(rows[-1])
        print(shown, flush=True)
    print(json.dumps(compared(rows)) if options.json else _table(compared(rows)))


def _table(row: dict[str, Any]) -> str:
    return "\n".join(f"{name.replace('_', ' '):20} {value}" for name, value in row.items()) + "\n"


if __name__ == "__main__":
    main()
