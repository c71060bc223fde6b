"""The testnet's launcher: real nodes, each a process with its own home, on one machine.

It starts processes, reads what they say about themselves, and draws; it coordinates nothing. Kill it and
the nodes end only because its guard stops them; leave them to themselves and they finish the run.

    [the same in peace ->] start -> look, draw, shake -> ... -> all finished -> stop -> train alone -> judge

Every node is started as a person would start it. An address can only be told once its node has one, so
nodes start as soon as those they are told about answer.
"""

import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

import msgspec

from shoal.gossip.patterns import PATTERNS
from shoal.node.errors import UserError
from shoal.node.testnet.comparison import Beside, as_nodes, besides, lines_expected
from shoal.node.testnet.event_log import read_events
from shoal.node.testnet.fault_injection.chaos import Shaker
from shoal.node.testnet.invariants import Shaken
from shoal.node.testnet.network.link_model import read_report
from shoal.node.testnet.network.links import Wires, Wish, choose, namespaces_left
from shoal.node.testnet.nodes import NodeFailed, Testnet, Tools, last_line
from shoal.node.testnet.plan import Plan, ShareAlone, SystemReached, alpha_of
from shoal.node.testnet.plots import can_draw, draw_timeline, plot_accuracy, plot_systems
from shoal.node.testnet.processes import CALM_NAME, Guard, environment, left_over, spawn
from shoal.node.testnet.verdict import Result, judge
from shoal.node.testnet.watch import Observed

__all__ = ["Interrupted", "NodeFailed", "Screen", "Testnet", "Tools", "up", "up_detached"]

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at all nodes; a person sees no more, and the nodes need the processor."""
NODES_PER_LOOK: Final = 16
"""With more nodes than this, looks are rarer: each costs every node an answer."""
RESULT_NAME: Final = "result.json"
PLOT_NAME: Final = "accuracy.png"
TIMELINE_NAME: Final = "timeline.png"
BESIDE_NAME: Final = "beside.png"


class Screen(Protocol):
    """Where a launcher shows what it does."""

    def show(self, plan: Plan, nodes: Sequence[Observed], seconds: float, note: str) -> None:
        """Draw the nodes."""
        ...

    def progress(self, text: str, done: int, total: int) -> None:
        """Draw how far something else is."""
        ...

    def tell(self, line: str) -> None:
        """Say a line."""
        ...


class Interrupted(UserError):
    """Somebody pressed Ctrl-C or asked the launcher to end; all nodes have been stopped."""

    exit_code = 130


class Interrupts:
    """Counts the wishes to end instead of raising, so that nothing is left half done."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.count = 0
        self._event = threading.Event()

    def __enter__(self) -> "Interrupts":
        """Take over Ctrl-C, SIGTERM and the closing of the terminal."""
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # Under nohup the terminal may close. Ctrl-C counts all the same: a shell's background job, or a
            # runner, has us begin with it ignored, and nobody could interrupt us.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not on when somebody asks."""
        before = self.count
        self._event.clear()
        if self.count == before:
            self._event.wait(seconds)


def up(
    plan: Plan,
    directory: Path,
    *,
    screen: Screen,
    tools: Tools,
    keep: bool = False,
    network: Wish = "auto",
    compare: bool = True,
) -> Result:
    """Run a testnet to its end and judge it.

    With `compare` a plan that is to be shaken is run in peace first. Without `keep` the homes of a testnet
    whose verdict holds are removed; logs, result and pictures stay.

    Raises:
        NodeFailed: a node ended before it ever answered.
        Interrupted: somebody asked to end; all nodes have been stopped.
        BadPlan: the network cannot be had as asked.
    """
    wires = choose(plan, directory, network, changeable=False)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        guard = Guard()
        stack.callback(guard.close)
        launcher = _Launcher(interrupts, guard, screen, tools)
        calm = None
        if compare and plan.is_shaken and plan.rounds and plan.shares:
            screen.tell("first the same nodes left in peace, to compare with")
            peace = directory / CALM_NAME
            peace.mkdir()
            calm = launcher.run(plan.calm, peace, Wires(means="bare"), is_reference=True)
            launcher.remove_homes(plan, peace)
        if wires.means != "bare":
            screen.tell(f"links of {wires.link} by {wires.means} ({wires.why})")
        result = launcher.run(plan, directory, wires, calm=calm)
        if result.verdict and not keep:
            launcher.remove_homes(plan, directory)
        return result


class _Launcher:
    """Runs one testnet after another; what they share."""

    def __init__(self, interrupts: Interrupts, guard: Guard, screen: Screen, tools: Tools) -> None:
        self._interrupts, self._guard, self._screen, self._tools = interrupts, guard, screen, tools

    def run(
        self,
        plan: Plan,
        directory: Path,
        wires: Wires,
        *,
        calm: Result | None = None,
        is_reference: bool = False,
    ) -> Result:
        """Run a testnet from its first start to its verdict, and write that."""
        net = Testnet(plan, directory, self._tools, self._guard, wires)
        seconds, ended = self._to_end(net)
        net.read_disks()
        alone: Sequence[float] | None = None if is_reference else ()
        beside: tuple[Beside, ...] = ()
        if (plan.is_shaken or plan.liars) and plan.accuracy_bar is None:
            alone = None
        elif not plan.shares:
            alone = [node.accuracy for node in net.nodes if node.accuracy is not None]
        elif (
            not is_reference
            and not (plan.is_shaken or plan.liars)
            and any(node.finished for node in net.nodes)
        ):
            alone, beside = self._train_alone(net)
        if self._interrupts.count:
            raise Interrupted(_stopped(net))
        shaken = self._shaken(net, ended, calm)
        means = f"{wires.means}: {wires.why}" if wires.why else wires.means
        apart = net.models_apart() if PATTERNS[plan.exchange].has_own_states else None
        result = judge(
            plan, net.nodes, local_only=alone, seconds=seconds, shaken=shaken, network=means, apart=apart
        )
        if beside and result.accuracy_mean is not None:
            nodes = as_nodes(plan, result.accuracy_mean, result.bytes_sent, result.rounds)
            result = msgspec.structs.replace(result, beside=(nodes, *beside))
        _write(directory, plan, net.nodes, result, shaken)
        return result

    def remove_homes(self, plan: Plan, directory: Path) -> None:
        """Remove what the nodes of a testnet have stored."""
        for index in range(1, plan.nodes + 1):
            shutil.rmtree(directory / f"node-{index}", ignore_errors=True)

    def _to_end(self, net: Testnet) -> tuple[float, float]:
        """Look after the nodes until the run is over; return how long it took and when it ended."""
        interrupts = self._interrupts
        try:
            net.open()
            self._look_after(net)
            seconds, ended = net.seconds, time.time()
        finally:
            asked = interrupts.count
            if asked:
                self._screen.tell("stopping the nodes; Ctrl-C again to end them at once")
            killed = net.stop(lambda: interrupts.count > asked, interrupts.wait)
            if killed:
                self._screen.tell(f"did not leave in time and were killed: {', '.join(killed)}")
        if asked:
            raise Interrupted(_stopped(net))
        return seconds, ended

    def _look_after(self, net: Testnet) -> None:
        shaker = Shaker(net, self._tools.environ, self._screen.tell)
        pause = LOOK_EVERY * max(1.0, net.plan.nodes / NODES_PER_LOOK)
        while not self._interrupts.count:
            net.step()
            shaker.step()
            left = net.plan.timeout - net.seconds
            self._screen.show(net.plan, net.nodes, net.seconds, "" if net.started else "starting")
            enough = 0 < net.plan.seconds <= shaker.seconds
            if (net.over and not shaker.owes) or enough or left <= 0:
                return
            self._interrupts.wait(min(pause, left))

    def _shaken(self, net: Testnet, ended: float, calm: Result | None) -> Shaken:
        return Shaken(
            events=read_events(net.directory),
            began=net.began_at,
            ended=ended,
            left=[*left_over(net.directory), *namespaces_left(net.wires)],
            proxied=net.wires.means == "proxy",
            report=read_report(net.directory),
            calm_accuracy=calm.accuracy_mean if calm is not None else None,
            calm_faults=[f"{each.name}: {each.detail}" for each in calm.invariants if not each.ok]
            if calm is not None
            else (),
        )

    def _train_alone(self, net: Testnet) -> tuple[list[float], tuple[Beside, ...]]:
        """Train the shares alone, and in the ways of the method's paper, in one process.

        Returns the accuracies alone and of the systems; none where that failed.
        """
        output = net.directory / "baseline.jsonl"
        output.unlink(missing_ok=True)
        process = spawn(self._tools.baseline_command(net.plan), output, environment(self._tools.environ))
        self._guard.watch(process.pid)
        total = lines_expected(net.plan)
        doing = "training every share alone, for comparison"
        if total > net.plan.nodes:
            doing += f"; and what the paper compares with, over {net.plan.seeds} seeds"
        while process.poll() is None and not self._interrupts.count:
            done = min(output.read_bytes().count(b"\n"), total)
            self._screen.progress(doing, done, total)
            self._interrupts.wait(0.2)
        if process.poll() is None:
            process.kill()
        exit_code = process.wait()
        self._guard.unwatch(process.pid)
        if self._interrupts.count:
            return [], ()
        if exit_code:
            self._screen.tell(f"training alone failed: {last_line(output)}")
            return [], ()
        lines = [line for line in output.read_bytes().splitlines() if line.startswith(b"{")]
        shares = [msgspec.json.decode(line, type=ShareAlone) for line in lines if b'"share"' in line]
        reached = [msgspec.json.decode(line, type=SystemReached) for line in lines if b'"system"' in line]
        return [share.accuracy for share in shares], besides(reached)


def _stopped(net: Testnet) -> str:
    round_ = min(node.status.round if node.status else 0 for node in net.nodes)
    of = f" of {net.plan.rounds}" if net.plan.rounds else ""
    return f"stopped at round {round_}{of}; logs: {net.directory}"


def _write(directory: Path, plan: Plan, nodes: Sequence[Observed], result: Result, shaken: Shaken) -> None:
    text = msgspec.json.format(msgspec.json.encode(result))
    (directory / RESULT_NAME).write_bytes(text + b"\n")
    if can_draw():
        _draw(directory, plan, nodes, result, shaken)


def _draw(directory: Path, plan: Plan, nodes: Sequence[Observed], result: Result, shaken: Shaken) -> None:
    curves = {
        node.name: [
            (number + 1, round_.metrics["accuracy"])
            for number, round_ in sorted(node.rounds.items())
            if "accuracy" in round_.metrics
        ]
        for node in nodes
    }
    alpha = alpha_of(plan)
    title = f"{plan.method} on {plan.task}, {plan.nodes} nodes"
    plot_accuracy(
        directory / PLOT_NAME,
        curves,
        local_only=result.local_only if plan.shares else (),
        bar=plan.accuracy_bar if plan.shares else None,
        title=title if alpha is None else f"{title}, alpha {alpha:g}",
    )
    if result.beside:
        systems = {
            each.system: [
                {"accuracy": value, "sent by a node per round, kB": each.sent_bytes / 1000}
                for value in each.accuracies
            ]
            for each in result.beside
        }
        plot_systems(directory / BESIDE_NAME, title, systems)
    if plan.shares:
        draw_timeline(directory / TIMELINE_NAME, plan, nodes, result, shaken, title=title)


def up_detached(
    plan: Plan, directory: Path, *, screen: Screen, tools: Tools, network: Wish = "auto"
) -> Wires:
    """Start a testnet and leave it to itself; return how its nodes are linked.

    Raises:
        NodeFailed: a node ended before it ever answered; the others have been stopped.
        Interrupted: somebody asked to end, or the nodes did not start in time; they have been stopped.
        BadPlan: the network cannot be had as asked.
    """
    wires = choose(plan, directory, network, changeable=True)
    with Interrupts() as interrupts:
        net = Testnet(plan, directory, tools, None, wires)
        try:
            net.open()
            while not net.started and not interrupts.count and net.seconds < plan.timeout:
                net.step()
                screen.show(plan, net.nodes, net.seconds, "starting")
                interrupts.wait(0.2)
            if not net.started:
                raise Interrupted(f"the nodes had not all started; logs: {directory}")
        except BaseException:
            net.stop(lambda: interrupts.count > 1, interrupts.wait)
            raise
        net.release()
        return wires
