"""Attack honest nodes from outside, and measure what they lose: real processes, with and without, in turns.

    python scripts/attacks.py [--lie convene ...] [--seconds 60] [--turns 1] [--json]
    python scripts/attacks.py --young [--lie convene ...]         from round 0, before anybody has colleagues

Three digits nodes (Dirichlet 1.0) average for 20 rounds. Then stretches without and with one attacker
follow each other, over the same nodes. There is a line for each lie: the accuracy of the honest nodes and
their rounds a second in both, what was made of the attacker, and whether that holds. At most one point of
accuracy and a fifth of the rounds may be lost, nothing of the attacker's is held, and the attacker is named
with a reason. A lie of a member is told by a newcomer that trains on data of its own. Here a colleague
counts after 20 rounds, whatever time they took, since each run would else begin with ten minutes of
waiting. The exit code is 0 if everything holds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from shoal.node.errors import UserError
from shoal.node.testnet.lies.catalogue import LIES, lie_of
from shoal.node.testnet.plan import Plan, start_command
from shoal.node.testnet.processes import Guard, environment, spawn
from shoal.node.testnet.watch import Observed, fetch_status

LISTEN: Final = ("--listen", "/ip4/127.0.0.1/tcp/0")
HONEST: Final = 3
OLD_ROUNDS: Final = 20
LOADING: Final = 120.0
"""Seconds for nodes to start and to make their first rounds."""
LOOK_EVERY: Final = 0.5
MAX_LOST_POINTS: Final = 1.0
LEAST_PACE: Final = 0.8
YOUNG_ROUNDS: Final = 30


class Failed(UserError):
    """The nodes did not get as far as the attack."""


class Swarm:
    """Honest nodes under attack."""

    def __init__(self, directory: Path, guard: Guard, plan: Plan) -> None:
        """Start nothing yet; `plan`: of the honest nodes and, in the last place, an attacker that trains."""
        self.directory, self.plan = directory, plan
        self.nodes = [Observed(f"node-{i}") for i in range(1, HONEST + 1)]
        self._guard = guard
        self._environ = {**environment(os.environ), "SHOAL_TRUST_COLLEAGUE_MINUTES": "0"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, index: int) -> None:
        """Start an honest node; all but the first join the first."""
        joins = [self.address] if index > 1 else []
        command = start_command(self.plan, index, self._home(index), joins, LISTEN)
        # The attacker, for whom the plan has a share of the data, comes later or never trains.
        command[command.index("--wait-for") + 1] = str(HONEST)
        self._spawn(command, f"node-{index}")

    @property
    def address(self) -> str:
        """Where the first node is reached."""
        self.wait("the first node listens", lambda: self.nodes[0].status and self.nodes[0].status.addresses)
        assert self.nodes[0].status is not None
        return self.nodes[0].status.addresses[0]

    def _home(self, index: int) -> Path:
        return self.directory / f"node-{index}"

    def _spawn(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        process = spawn(list(command), self.directory / f"{name}.log", self._environ)
        self._guard.watch(process.pid)
        self._processes.append(process)
        return process

    def look(self) -> None:
        """Ask every node for its status."""
        for index, node in enumerate(self.nodes, 1):
            node.take(fetch_status(self._home(index)))

    def wait(self, what: str, condition: Any, seconds: float = LOADING) -> None:
        """Look until a condition holds.

        Raises:
            Failed: it does not in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.look()
            if condition():
                return
            if time.monotonic() > deadline:
                raise Failed(f"not within {seconds:.0f} s: {what}; read the logs in {self.directory}")
            time.sleep(LOOK_EVERY)

    @property
    def rounds(self) -> list[int]:
        """The round in which each node stands."""
        return [node.status.round if node.status else 0 for node in self.nodes]

    def is_old(self) -> bool:
        """Whether all nodes have made rounds enough, and have colleagues by them."""
        has_colleagues = all(node.status is not None and not node.status.quorum for node in self.nodes)
        return min(self.rounds) >= OLD_ROUNDS and has_colleagues

    def stretch(self, seconds: float) -> dict[str, float]:
        """Watch the nodes for a while: their accuracy, and rounds a second of the slowest."""
        self.look()
        begin, before = time.time(), self.rounds
        while time.time() < begin + seconds:
            time.sleep(min(LOOK_EVERY, max(0.0, begin + seconds - time.time())))
            self.look()
        took = time.time() - begin
        pace = min(after - each for after, each in zip(self.rounds, before, strict=True)) / took
        measured = [
            round_.metrics["accuracy"]
            for node in self.nodes
            for at, round_ in node.tries.items()
            if at >= begin and "accuracy" in round_.metrics
        ]
        return {"accuracy": fmean(measured) if measured else float("nan"), "rounds a second": pace}

    @contextmanager
    def attacked(self, lie: str, seconds: float) -> Iterator[Path]:
        """Let an attacker lie meanwhile; yields the file that it writes into."""
        name = f"attacker-{len(self._processes)}"
        if lie_of(lie).who == "outsider":
            module = "shoal.node.testnet.lies.outsider"
            command = [sys.executable, "-P", "-m", module, lie, self.address, "--seconds", str(seconds)]
        else:
            command = start_command(self.plan, HONEST + 1, self.directory / name, [self.address], LISTEN)
            command[command.index("shoal.node")] = "shoal.node.testnet.lies.process"
            command.insert(command.index("shoal.node.testnet.lies.process") + 1, lie)
        process = self._spawn(command, name)
        try:
            yield self.directory / f"{name}.log"
        finally:
            process.terminate()
            process.wait()
            self._guard.unwatch(process.pid)

    def named(self, peer: str) -> str:
        """Return what the nodes' statuses say of a peer; empty where they say nothing."""
        faults = [
            f"{each.reason}"
            for node in self.nodes
            if node.status is not None
            for each in getattr(node.status, "named_faults", ())
            if each.peer == peer
        ]
        return ", ".join(sorted(set(faults)))

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()


def told(log: Path) -> dict[str, Any]:
    """Return the last line that an attacker wrote about itself."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def plan_of(lie: str, rounds: int = 0) -> Plan:
    """Return the plan of the honest nodes for a lie."""
    return Plan(
        nodes=HONEST + 1,
        rounds=rounds,
        seconds=0.0 if rounds else 1.0,
        alpha=1.0,
        options={"steps": 10},
        quorum=2,
        exchange="pairwise" if lie == "heavy-push" else "group",
    )


@contextmanager
def old_swarm(plan: Plan, directory: Path, guard: Guard) -> Iterator[Swarm]:
    """Start honest nodes, and wait until they have averaged for a while."""
    swarm = Swarm(directory, guard, plan)
    try:
        for index in range(1, HONEST + 1):
            swarm.start(index)
        swarm.wait(f"all have made {OLD_ROUNDS} rounds, and have colleagues", swarm.is_old)
        yield swarm
    finally:
        swarm.close()


def attack(swarm: Swarm, lie: str, seconds: float, turns: int) -> dict[str, Any]:
    """Attack nodes that have averaged for a while; return the line of this lie."""
    calm, attacked, did, names = [], [], [], []
    for _ in range(turns):
        calm.append(swarm.stretch(seconds))
        with swarm.attacked(lie, LOADING + seconds) as log:
            if lie_of(lie).who == "outsider":
                # It speaks a second after its start, which on a busy machine takes long.
                swarm.wait("the attacker has begun", partial(told, log))
            attacked.append(swarm.stretch(seconds))
            did.append(told(log))
            names.append(swarm.named(str(did[-1].get("peer", "?"))))
    calm.append(swarm.stretch(seconds))
    return line_of(lie, calm, attacked, did, names)


def old(lie: str, seconds: float, turns: int, directory: Path, guard: Guard) -> dict[str, Any]:
    """Attack nodes of a swarm of their own."""
    with old_swarm(plan_of(lie), directory, guard) as swarm:
        return attack(swarm, lie, seconds, turns)


def line_of(
    lie: str,
    calm: Sequence[dict[str, float]],
    attacked: Sequence[dict[str, float]],
    did: Sequence[dict[str, Any]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what a lie came to, and whether that holds."""
    accuracy = [fmean(each["accuracy"] for each in some) for some in (calm, attacked)]
    pace = [fmean(each["rounds a second"] for each in some) for some in (calm, attacked)]
    held = sum(each.get("nodes that held its state", 0) + each.get("means believed", 0) for each in did)
    lost = 100 * (accuracy[0] - accuracy[1])
    is_outsider = lie_of(lie).who == "outsider"
    holds = lost <= MAX_LOST_POINTS and pace[1] >= LEAST_PACE * pace[0] and not held
    return {
        "lie": lie,
        "accuracy without": round(100 * accuracy[0], 1),
        "accuracy with": round(100 * accuracy[1], 1),
        "rounds a second without": round(pace[0], 2),
        "rounds a second with": round(pace[1], 2),
        "held": held,
        "named": next((name for name in names if name), ""),
        "did": did[-1],
        "holds": holds and (bool(any(names)) or not is_outsider),
    }


def young(lie: str, directory: Path, guard: Guard) -> dict[str, Any]:
    """Attack nodes from their first round on; return the line of this lie."""
    swarm = Swarm(directory, guard, plan_of(lie, YOUNG_ROUNDS))
    began = time.monotonic()
    try:
        swarm.start(1)
        with swarm.attacked(lie, LOADING) as log:
            for index in range(2, HONEST + 1):
                swarm.start(index)
            is_over = False
            try:
                swarm.wait("the run is over", lambda: min(swarm.rounds) >= YOUNG_ROUNDS)
                is_over = True
            except Failed:
                pass
            did = told(log)
            named = swarm.named(str(did.get("peer", "?")))
    finally:
        swarm.close()
    accuracies = [node.accuracy for node in swarm.nodes if node.accuracy is not None]
    return {
        "lie": lie,
        "young": True,
        "accuracy": round(100 * fmean(accuracies), 1) if accuracies else None,
        "rounds": min(swarm.rounds),
        "seconds": round(time.monotonic() - began, 1),
        "named": named,
        "did": did,
        "holds": is_over,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Attack honest nodes from outside, and measure what they lose."
    )
    names = [lie.name for lie in LIES]
    outsiders = [lie.name for lie in LIES if lie.who == "outsider"]
    parser.add_argument("--lie", action="append", choices=names, help="every lie of outsiders, unless given")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stretch with and without")
    parser.add_argument("--turns", type=int, default=1, help="how often each lie is told")
    parser.add_argument("--young", action="store_true", help="from round 0 on")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    given = parser.parse_args(arguments)
    is_fine = True
    with ExitStack() as stack:
        guard = Guard()
        stack.callback(guard.close)
        for lie in given.lie or outsiders:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-attacks-")))
            found = (
                young(lie, directory, guard)
                if given.young
                else old(lie, given.seconds, given.turns, directory, guard)
            )
            is_fine = is_fine and found["holds"]
            text = json.dumps(found) if given.json else "  ".join(f"{k}: {v}" for k, v in found.items())
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
