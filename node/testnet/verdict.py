"""The verdict on a testnet: did the nodes learn together, and does nothing contradict it?

A claim that cannot be checked does not hold. `judge` is a pure function of what was seen.

How far apart the models of a testnet's nodes are at its end, as their disks tell.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec
import numpy as np

from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE
from shoal.node.storage.checkpoint import load_newest
from shoal.node.testnet.comparison import Beside
from shoal.node.testnet.invariants import Check, Cost, Shaken, checked, costs, invariants
from shoal.node.testnet.plan import Plan, alpha_of
from shoal.node.testnet.watch import Observed

APART_BAR: Final = 0.10
"""How far from the mean of all a model may be where all average pairwise."""


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one node."""

    name: str
    peer: str
    finished: bool
    round: int
    accuracy: float | None
    loss: float | None
    state_hash: str
    failed_rounds: int
    utilisation: float | None
    """Share of the time in which its trainer computed, since its first round ended."""
    bytes_sent: int
    bytes_received: int
    exit_code: int | None
    """None where its process was not seen to end."""
    lie: str = ""
    """What it lied about; empty: it was honest."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a testnet, as result.json holds it."""

    verdict: bool
    nodes: int
    rounds: int
    """Rounds that every node has finished, but those that were ended for good on purpose."""
    method: str
    task: str
    alpha: float | msgspec.UnsetType
    """How unlike the shares are; left out where the task was given none."""
    seed: int
    topology: str
    accuracy_mean: float | None
    accuracy_min: float | None
    local_only_mean: float | None
    """The same shares, each trained alone for as many steps."""
    local_only: tuple[float, ...]
    same_state_hash: bool
    seconds: float
    """From the start of the first node until the last had finished."""
    bytes_sent: int
    """By all nodes together, as counted at their sockets."""
    bytes_received: int
    models_apart: float | None = None
    """Largest distance of a node's last model to their mean, relative to it; where all average pairwise."""
    utilisation: float | None = None
    """Mean over the nodes."""
    beside: tuple[Beside, ...] = ()
    """The method in lockstep and what its paper compares it with, over some seeds."""
    calm_accuracy_mean: float | None = None
    """Of the same plan left in peace, where it was run for comparison."""
    faults: tuple[Cost, ...] = ()
    """What was done to the nodes, and what it cost the others."""
    network: str = ""
    """By what means links were shaped, and why these."""
    liars: int = 0
    """As many of the nodes lied. All but the bytes and `per_node` is of the others."""
    lie: str = ""
    """What about."""
    invariants: tuple[Check, ...]
    per_node: tuple[NodeResult, ...]


def judge(
    plan: Plan,
    nodes: Sequence[Observed],
    *,
    local_only: Sequence[float] | None = (),
    seconds: float,
    shaken: Shaken | None = None,
    network: str = "",
    apart: float | None = None,
) -> Result:
    """Decide what holds; `apart`: as `models_apart` tells.

    Without `local_only` accuracy is not asked; with `shaken` more than else is. Nothing is asked of a node
    that lies.
    """
    everyone, nodes = nodes, nodes[: plan.honest]
    measured = accuracies_of(nodes)
    accuracies = [accuracy for accuracy in measured if accuracy is not None]
    checks = [check(plan, nodes) for check in _CHECKS]
    if plan.shares:
        checks += [check(plan, nodes) for check in _SHARING_CHECKS]
        if PATTERNS[plan.exchange].has_own_states:
            checks.append(_near_end(apart))
        if shaken is not None and shaken.calm_accuracy is not None:
            checks.append(_accuracy_in_peace(plan, accuracies, shaken))
        elif local_only is not None:
            checks.append(_accuracy(plan, nodes, local_only))
    if shaken is not None:
        checks += invariants(plan, nodes, shaken)
    alpha = alpha_of(plan)
    per_node = tuple(
        _node_result(node, accuracy, plan.lie_of(index))
        for index, (node, accuracy) in enumerate(zip(everyone, accuracies_of(everyone), strict=True), 1)
    )
    honest = per_node[: plan.honest]
    stayed = [each for each, node in zip(honest, nodes, strict=True) if not node.is_away] or list(honest)
    used = [node.utilisation for node in honest if node.utilisation is not None]
    return Result(
        verdict=all(check.ok for check in checks),
        nodes=plan.nodes,
        rounds=min((node.round for node in stayed), default=0),
        method=plan.method,
        task=plan.task,
        alpha=msgspec.UNSET if alpha is None else alpha,
        seed=plan.seed,
        topology=plan.topology,
        accuracy_mean=fmean(accuracies) if accuracies else None,
        accuracy_min=min(accuracies, default=None),
        local_only_mean=fmean(local_only) if local_only else None,
        local_only=tuple(local_only or ()),
        same_state_hash=len({node.state_hash for node in stayed}) == 1 and bool(stayed[0].state_hash),
        models_apart=apart,
        seconds=round(seconds, 3),
        bytes_sent=sum(node.bytes_sent for node in per_node),
        bytes_received=sum(node.bytes_received for node in per_node),
        utilisation=fmean(used) if used else None,
        calm_accuracy_mean=shaken.calm_accuracy if shaken is not None else None,
        faults=costs(plan, nodes, shaken) if shaken is not None else (),
        network=network,
        liars=plan.liars,
        lie=plan.lie,
        invariants=tuple(checks),
        per_node=per_node,
    )


def accuracies_of(nodes: Sequence[Observed]) -> list[float | None]:
    """Return every node's accuracy at the end.

    A node that took the last state over from others has not measured it. What another measured of the
    very same state holds for it too, since the test set is common.
    """
    known = {
        node.last.state_hash: node.last.metrics["accuracy"]
        for node in nodes
        if node.last and "accuracy" in node.last.metrics
    }
    return [
        known.get(node.last.state_hash, node.accuracy)
        if node.last and node.last.outcome == "synced"
        else node.accuracy
        for node in nodes
    ]


def _node_result(node: Observed, accuracy: float | None, lie: str) -> NodeResult:
    status = node.status
    return NodeResult(
        name=node.name,
        peer=status.peer_id if status else "",
        finished=node.finished,
        round=status.round if status else 0,
        accuracy=accuracy,
        loss=status.loss if status else None,
        state_hash=status.state_hash if status else "",
        failed_rounds=len(node.failed),
        utilisation=status.utilisation if status else None,
        bytes_sent=node.sent_before + (status.bytes_sent if status else 0),
        bytes_received=node.received_before + (status.bytes_received if status else 0),
        exit_code=node.left if node.exit_code is None else node.exit_code,
        lie=lie,
    )


def _all_finished(plan: Plan, nodes: Sequence[Observed]) -> Check:
    faults = []
    for node in nodes:
        # One that was killed for good has no more to finish.
        if not node.finished and not node.wished and plan.rounds:
            round_ = node.status.round if node.status else 0
            faults.append(f"{node.name} stands at round {round_} of {plan.rounds}")
    stayed = sum(not node.is_away for node in nodes)
    ended = f", {len(nodes) - stayed} ended on purpose" if stayed < len(nodes) else ""
    held = f"{plan.rounds} rounds on {stayed} nodes{ended}" if plan.rounds else "the run has no end"
    return checked("every node finished every round", faults, held)


def ended_how(exit_code: int) -> str:
    """Say how a process ended, from its exit code as `subprocess` gives it."""
    return f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"


def _no_restart(plan: Plan, nodes: Sequence[Observed]) -> Check:
    faults = [
        f"{node.name} had {len(node.pids)} processes, {node.restarts + 1} were started"
        for node in nodes
        if len(node.pids) > 1 + node.restarts
    ] + [
        f"{node.name} {ended_how(node.exit_code)}{node.last_words and ': '}{node.last_words}"
        for node in nodes
        if node.exit_code is not None and not node.finished and not node.wished
    ]
    restarts = sum(node.restarts for node in nodes)
    held = f"{len(nodes)} processes, the same throughout"
    if restarts or any(node.wished for node in nodes):
        held = f"{len(nodes)} nodes, {restarts} restarts, all on purpose"
    return checked("no node restarted or ended early", faults, held)


def _left_in_order(plan: Plan, nodes: Sequence[Observed]) -> Check:
    faults = [f"{node.name} {ended_how(node.left)}" for node in nodes if node.left]
    return checked("every node left when asked to", faults, "none failed, none had to be killed")


def _quorum(plan: Plan, nodes: Sequence[Observed]) -> Check:
    quorum = plan.effective_quorum
    faults = [
        f"{node.name} round {round_.round}: {round_.contributors} contributors, {round_.outcome}"
        for node in nodes
        for round_ in node.rounds.values()
        if round_.outcome != "synced" and round_.contributors < quorum
    ]
    counts = [r.contributors for node in nodes for r in node.rounds.values() if r.outcome != "synced"]
    smallest = min(counts, default=0)
    if not counts:
        faults = ["no round led to a state"]
    return checked("every round met its quorum", faults, f"at least {smallest} contributors, quorum {quorum}")


def _equal_states(plan: Plan, nodes: Sequence[Observed]) -> Check:
    name = "equal state on all nodes after every round"
    if why := _why_states_differ(plan):
        return Check(name, True, why)
    faults = []
    rounds = sorted({round_ for node in nodes for round_ in node.rounds})
    for round_ in rounds:
        hashes = {node.rounds[round_].state_hash for node in nodes if round_ in node.rounds}
        if len(hashes) > 1:
            faults.append(f"round {round_}: {len(hashes)} states")
    return checked(name, faults, f"{len(rounds)} rounds compared")


def _why_states_differ(plan: Plan) -> str:
    """Return why nodes of one round need not hold the same bytes; empty: they must."""
    if plan.engine != NATIVE:
        return f"not asked of engine {plan.engine}, whose means differ by rounding"
    if PATTERNS[plan.exchange].has_own_states:
        return "not asked where all average pairwise: models are compared"
    return "" if plan.one_group else f"not asked of groups of {plan.group_size} among {plan.nodes} nodes"


def _same_end(plan: Plan, nodes: Sequence[Observed]) -> Check:
    name = "same state hash at the end"
    if why := _why_states_differ(plan):
        return Check(name, True, why)
    present = [node for node in nodes if not node.is_away]
    if plan.rounds:
        hashes = {node.status.state_hash if node.status else "" for node in present}
    else:
        # Nobody stands still in a run without end: the last round that all have reached is compared.
        last = min((max(node.rounds, default=-1) for node in present), default=-1)
        hashes = {node.rounds[last].state_hash for node in present if last in node.rounds} or {""}
    faults = [f"{len(hashes)} states: {', '.join(h or 'none' for h in sorted(hashes))}"]
    return checked(name, [] if len(hashes) == 1 and "" not in hashes else faults, next(iter(hashes), ""))


def _near_end(apart: float | None) -> Check:
    """Compare models in place of hashes: where all average pairwise, each has a state of its own."""
    name = f"models within {100 * APART_BAR:g} % of their mean at the end"
    if apart is None:
        return Check(name, False, "a node has stored no model of this run")
    return Check(name, apart <= APART_BAR, f"the farthest is {100 * apart:.2g} % away")


def _accuracy(plan: Plan, nodes: Sequence[Observed], local_only: Sequence[float]) -> Check:
    accuracies = [accuracy for accuracy in accuracies_of(nodes) if accuracy is not None]
    if not accuracies and plan.bar is None and any(node.last for node in nodes):
        return _loss(nodes)  # the task measures none
    # In a run without end somebody has just come back, and has measured nothing yet.
    missing = len(nodes) - len(accuracies) if plan.rounds or not accuracies else 0
    bar = plan.accuracy_bar
    name = "accuracy beats training alone" if bar is None else f"accuracy of every node at least {bar:.2f}"
    if missing:
        return Check(name, False, f"{missing} nodes report no accuracy")
    if bar is not None:
        return Check(name, min(accuracies) >= bar, f"the lowest is {min(accuracies):.3f}")
    if plan.nodes == 1:
        return Check(name, True, "not asked of a single node")
    if not local_only:
        return Check(name, False, "training alone was not measured")
    mean, alone = fmean(accuracies), fmean(local_only)
    return Check(name, mean >= alone, f"{mean:.3f} together, {alone:.3f} alone")


def _loss(nodes: Sequence[Observed]) -> Check:
    """Judge a task that measures no accuracy by what it has: its training loss must have fallen."""
    name = "training loss fell"
    losses = [
        [round_.loss for _, round_ in sorted(node.rounds.items()) if round_.outcome != "synced"]
        for node in nodes
    ]
    known = [each for each in losses if each]
    if not known or all(math.isnan(loss) for each in known for loss in each):
        return Check(name, True, "not asked: the task measures neither accuracy nor loss")
    first, last = fmean(each[0] for each in known), fmean(each[-1] for each in known)
    if not math.isfinite(last):
        return Check(name, False, f"it is {last} at the end")
    if max(map(len, known)) == 1:
        return Check(name, True, f"not asked of a single round, which ended with {last:.4g}")
    return Check(name, last < first, f"from {first:.4g} to {last:.4g} in the mean")


def _accuracy_in_peace(plan: Plan, accuracies: Sequence[float], shaken: Shaken) -> Check:
    """Compare with the same plan left in peace."""
    drop, peace = plan.holds.accuracy_drop, shaken.calm_accuracy
    name = f"accuracy within {100 * drop:g} points of the calm run"
    if shaken.calm_faults:
        return Check(name, False, f"the calm run itself failed: {shaken.calm_faults[0]}")
    if not accuracies or peace is None:
        return Check(name, False, "no accuracy was measured")
    mean = fmean(accuracies)
    return Check(name, mean >= peace - drop, f"{mean:.3f} shaken, {peace:.3f} in peace")


_CHECKS: Final[tuple[Callable[[Plan, Sequence[Observed]], Check], ...]] = (
    _all_finished,
    _no_restart,
    _left_in_order,
)
_SHARING_CHECKS: Final[tuple[Callable[[Plan, Sequence[Observed]], Check], ...]] = (
    _quorum,
    _equal_states,
    _same_end,
)


def models_apart(state_dirs: Iterable[Path], run: bytes) -> float | None:
    """Return the largest distance of a model to the mean of all, relative to that mean's length.

    None where a node has stored no state of the run.
    """
    found = [load_newest(directory, run) for directory in state_dirs]
    models = [checkpoint.vector.astype(np.float64) for checkpoint in found if checkpoint is not None]
    if not models or len(models) < len(found) or len({model.size for model in models}) > 1:
        return None
    mean = np.mean(models, axis=0)
    length = float(np.linalg.norm(mean)) or 1.0
    return max(float(np.linalg.norm(model - mean)) for model in models) / length
