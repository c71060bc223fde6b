"""Fake nodes for tests of the testnet: statuses by hand, and a process that behaves like a node.

Run as a program, this file is a node that trains nothing: it writes its status into its home, goes through
its rounds, and stays until SIGTERM, as a real one does.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from shoal.node.status import PeerStatus, RoundStatus, Status
from shoal.node.testnet.plan import Plan, name_of
from shoal.node.testnet.watch import Observed

if TYPE_CHECKING:
    from shoal.node.testnet.launcher import Tools

ROOT = Path(__file__).parents[1]


def peer_status(name: str = "peer", link: str = "direct") -> PeerStatus:
    return PeerStatus(name, f"/ip4/127.0.0.1/tcp/1/p2p/{name}", link, "trainer", 1, "ab" * 6, 0.1, 10, 20)


def round_status(
    round_: int,
    *,
    accuracy: float | None = 0.5,
    contributors: int = 5,
    outcome: str = "averaged",
    state: str | None = None,
) -> RoundStatus:
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    hash_ = f"{round_:012x}" if state is None else state
    return RoundStatus(
        round_, outcome, contributors, 1.0 / round_, metrics, 0.1, 0.2, 0.3, 1e9 + round_, hash_
    )


def status(
    *,
    name: str = "node-1",
    phase: str = "finished",
    history: Sequence[RoundStatus] = (),
    pid: int = 1,
    peers: Sequence[PeerStatus] = (),
    state: str | None = None,
    sent: int = 1000,
) -> Status:
    last = history[-1] if history else None
    return Status(
        peer_id=f"12D3KooW{name}",
        version="0",
        swarm="shoal",
        pid=pid,
        uptime_seconds=1.0,
        addresses=[f"/ip4/127.0.0.1/tcp/4710/p2p/{name}"],
        join_command="",
        role="trainer",
        phase=phase,
        round=last.round if last else 0,
        state_hash=state if state is not None else (last.state_hash if last else ""),
        run=None,
        loss=last.loss if last else None,
        metrics=dict(last.metrics) if last else {},
        peers=list(peers),
        bootstrap=[],
        refusals=[],
        drops={},
        problems=[],
        bytes_sent=sent,
        bytes_received=sent,
        history=list(history),
        trainer="running",
        rss_bytes=1 << 20,
        utilisation=0.87,
        work_seconds=87.0,
        training_seconds=100.0,
    )


def fetch_status(home: Path) -> Status | None:
    """Read what a fake node wrote, if that runs."""
    try:
        found = msgspec.json.decode((home / "status.json").read_bytes(), type=Status)
        alive = psutil.Process(found.pid).status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return found if alive else None


def start_command(
    plan: Plan, index: int, home: Path, joins: Sequence[str], network: Sequence[str]
) -> list[str]:
    """Start a fake node; the plan's options say how it behaves."""
    behaviour = {
        "home": str(home),
        "name": name_of(index),
        "rounds": plan.rounds,
        "joins": list(joins),
        "contributors": plan.nodes,
        **plan.options,
    }
    return [sys.executable, __file__, json.dumps(behaviour)]


def baseline_command(plan: Plan) -> list[str]:
    """Print what a baseline prints."""
    script = f'for i in range(1, {plan.nodes} + 1): print(\'{{"share": %d, "accuracy": 0.%d}}\' % (i, i))'
    return [sys.executable, "-c", script]


def add_bootstrap(home: Path, address: str) -> None:
    """Note what a node was told."""
    (home / "told").write_text(address)


def wait_until(true: Callable[[], bool], seconds: float = 100.0) -> None:
    """Look again until it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def plan_of(*, nodes: int = 3, rounds: int = 4, **options: str | float) -> Plan:
    """Return a plan of fake nodes that behave as the options say."""
    return Plan(nodes=nodes, rounds=rounds, options=dict(options), timeout=250.0, bar=0.9)


class Seen:
    """Takes what the launcher shows and tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.rounds: list[int] = []

    def show(self, plan: Plan, nodes: Sequence[Observed], seconds: float, note: str) -> None:
        self.notes.append(note)
        self.rounds.append(sum(node.status.round if node.status else 0 for node in nodes))

    def progress(self, text: str, done: int, total: int) -> None:
        if text not in self.lines:
            self.tell(text)

    def tell(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)


def launch(directory: str, options: str) -> None:
    """Run a testnet of fake nodes that would take hours, as a launcher to be killed."""
    from shoal.node.testnet import launcher

    launcher.LOOK_EVERY = 0.05  # type: ignore[misc]
    seen = Seen()
    plan = plan_of(rounds=10**6, **json.loads(options))
    try:
        launcher.up(plan, Path(directory), screen=seen, tools=fake_tools())
    except launcher.Interrupted as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


def fake_tools() -> "Tools":
    """Return tools that start fake nodes."""
    from shoal.node.testnet.launcher import Tools

    return Tools(
        start_command=start_command,
        baseline_command=baseline_command,
        fetch_status=fetch_status,
        check_fit=lambda spec: None,
        add_bootstrap=add_bootstrap,
        environ={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])},
    )


def main(behaviour: dict[str, Any]) -> None:
    """Be a node. `dies`: NAME:ROUND, once there is a file "die"; `deaf`: NAME ignores SIGTERM.

    `stays`: it works no faster than a round in so many seconds.
    """
    home = Path(behaviour["home"])
    name = behaviour["name"]
    if behaviour.get("fails") == name:
        sys.exit("Error: no such task; choose another")
    home.mkdir(parents=True, exist_ok=True)
    (home / "joins").write_text("\n".join(behaviour["joins"]))
    asked = threading.Event()
    signal.signal(
        signal.SIGTERM, (lambda *_: None) if behaviour.get("deaf") == name else (lambda *_: asked.set())
    )

    before = home / "status.json"
    # Started again, it goes on from its own disk.
    history = msgspec.json.decode(before.read_bytes(), type=Status).history if before.exists() else []

    def write(phase: str) -> None:
        found = status(name=name, phase=phase, history=history, pid=os.getpid(), peers=[peer_status()])
        (home / "status.tmp").write_bytes(msgspec.json.encode(found))
        (home / "status.tmp").replace(home / "status.json")

    write("starting")
    for round_ in range(len(history) + 1, behaviour["rounds"] + 1):
        if asked.wait(behaviour.get("stays", 0.02)):
            break
        if behaviour.get("dies") == f"{name}:{round_}":
            wait_until((home / "die").exists)
            os.kill(os.getpid(), signal.SIGKILL)
        state = name if behaviour.get("apart") == name else None
        done = round_status(round_, accuracy=0.95, contributors=behaviour["contributors"], state=state)
        history.append(msgspec.structs.replace(done, finished_at=time.time()))
        write("working")
    if not asked.is_set() and not behaviour.get("endless"):
        write("finished")
    while not asked.is_set():
        asked.wait(0.5)
    print(f"{name} leaves", flush=True)


if __name__ == "__main__" and sys.argv[1] == "launch":
    launch(*sys.argv[2:])
elif __name__ == "__main__":
    main(json.loads(sys.argv[1]))
