"""Commands that show a node: status, peers."""

from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shoal.crypto.keys import PeerId, short
from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.status import UNREADY
from shoal.node.text import UNANCHORED, alone_for, duration, figure, printable, reach_line, size

MAX_FAILED: Final = 3
"""Rounds whose failure is shown."""
UNREACHED: Final = "nobody can reach this node yet; once a relay carries it, its address stands here"

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from shoal.node.status import (
        CallsStatus,
        EngineStatus,
        HandoverStatus,
        LineageStatus,
        PeerStatus,
        PrivacyStatus,
        Status,
    )


def status(
    home: HomeOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow until Ctrl-C.")] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="End with 1 while the node can take part in nothing.")
    ] = False,
) -> None:
    """Show what the running node does."""
    from shoal.node.web import client

    path = home_of(home).path
    if ready:
        phase = client.fetch_status(path).phase
        print(phase)
        raise typer.Exit(int(phase in UNREADY))
    if watch and not json:
        _watch(lambda: client.fetch_status(path))
        return
    found = client.fetch_status(path)
    if json:
        print_json(found)
    else:
        console().print(_overview(found))


def _watch(fetch: Any) -> None:
    from rich.live import Live

    with Live(_overview(fetch()), console=console(), screen=False, auto_refresh=False) as live:
        while True:
            sleep(1)
            live.update(_overview(fetch()), refresh=True)


def _overview(status: "Status") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(status):
        facts.add_row(Text(label, style="dim"), Text(printable(value)))
    parts: list[RenderableType] = [facts]
    if status.peers:
        parts.append(_peer_table(status.peers, status.state_hash))
    if status.history:
        parts.append(_history(status))
    return Group(*parts)


def privacy_line(told: "PrivacyStatus") -> str:
    """Say how much a node's data has told, and may tell."""
    limit = f" of {told.budget:g}" if told.budget else ", no budget"
    end = ": spent, this node gives nothing more" if told.is_spent else ""
    return (
        f"epsilon {told.epsilon:.3g}{limit} at delta {told.delta:g} after {told.releases} releases{end}"
        f" ({told.kind}, clip norm {told.clip_norm:g}, noise multiplier {told.noise_multiplier:g})"
    )


def _facts(status: "Status") -> list[tuple[str, str]]:
    run = status.run
    of = f" of {run.rounds}" if run is not None and run.rounds else ""
    measured = {"loss": status.loss, **status.metrics} if run is not None else {}
    facts = [
        (
            "node",
            f"{status.name and status.name + '  '}{status.peer_id}  {status.role} in swarm {status.swarm},"
            f" up {duration(status.uptime_seconds)}",
        ),
        ("now", f"{status.phase}, round {status.round}{of}"),
    ]
    if status.pause:
        facts.append(("paused", status.pause))
    if status.alone is not None:
        facts.append(("alone", f"for {alone_for(status.alone)}"))
    if status.unanchored:
        facts.append(("trust", UNANCHORED))
    if run is not None:
        facts.append(("run", f"{run.name}: {run.method} on {run.task}, {run.parameters:,} parameters"))
        masked = " under masks: nobody sees what one peer gives" if run.secure else ""
        facts.append(("combines by", run.combine + masked))
        if status.privacy is not None:
            facts.append(("privacy", privacy_line(status.privacy)))
        if run.base:
            facts.append(("base", f"a node without it starts with --base {run.base}"))
        facts.append(("figures", "  ".join(f"{name} {figure(value)}" for name, value in measured.items())))
        facts.append(("state", _agreement(status)))
    busy = "" if status.utilisation is None else f", computing {100 * status.utilisation:.0f} % of the time"
    facts.append(("trainer", status.trainer + busy))
    facts.append(("bytes", f"{size(status.bytes_sent)} sent, {size(status.bytes_received)} received"))
    facts.append(("memory", size(status.rss_bytes)))
    facts += [
        ("bootstrap", f"{b.address}: {b.state}{': ' + b.reason if b.reason else ''}")
        for b in status.bootstrap
    ]
    if status.port_mapping is not None and status.port_mapping.state != "off":
        facts.append(("router", reach_line(status.port_mapping)))
    if status.quorum:
        facts.append(("quorum", status.quorum))
    facts += [("problem", line) for line in status.problems]
    failed = [done for done in status.history if done.outcome == "failed"]
    facts += [("round failed", f"{done.round}: {done.reason}") for done in failed[-MAX_FAILED:]]
    facts += [("refused", line) for line in status.refusals[-3:]]
    facts += [("dropped", f"{count} messages: {reason}") for reason, count in status.drops.items()]
    facts += [("not followed", lineage_line(each)) for each in status.refused_lineages]
    facts += [
        ("at fault", f"{fault.peer}: {fault.reason} ({fault.count}, {duration(fault.age_seconds)} ago)")
        for fault in status.named_faults
    ]
    if status.calls is not None:
        facts += calls_facts(status.calls, status.peer_id)
    if status.engine is not None:
        facts += _engine_facts(status.engine)
    if status.page:
        facts.append(("page", status.page))
    facts.append(("join with", status.join_command or UNREACHED))
    return facts


def lineage_line(lineage: "LineageStatus") -> str:
    """Say who claims a state that this node does not go by."""
    more = lineage.n_peers - len(lineage.peers)
    names = ", ".join(
        [*(short(PeerId(peer)) for peer in lineage.peers), *([f"{more} more"] if more > 0 else [])]
    )
    whose = "1 peer" if lineage.n_peers == 1 else f"{lineage.n_peers} peers"
    return f"round {lineage.round}, state {lineage.state_hash} of {whose} ({names}): {lineage.reason}"


def calls_facts(calls: "CallsStatus", me: str) -> list[tuple[str, str]]:
    """Say who holds each role, how many calls there are, and how long their parts take."""
    facts = list[tuple[str, str]]()
    for role, peers in calls.hosts.items():
        names = ["this node" if peer == me else short(PeerId(peer)) for peer in peers]
        facts.append(("" if facts else "hosts", f"{role}: {', '.join(names) or 'nobody'}"))
    verbs: dict[str, list[str]] = {}
    for each in calls.parts:
        verbs.setdefault(each.verb, []).append(f"{each.part} {each.seconds:.3f} s")
    left = f"{calls.unanswered} not answered, {calls.waiting} of peers wait"
    facts.append(("calls", f"{calls.per_second:.1f} a second, {left}"))
    facts += [("", f"{verb}: {', '.join(parts)}") for verb, parts in verbs.items()]
    return facts + [("went on", handover_line(each)) for each in calls.handovers[-MAX_FAILED:]]


def handover_line(told: "HandoverStatus") -> str:
    """Say with whom calls went on, since when, and what it took."""
    left, to = short(PeerId(told.left)), short(PeerId(told.to))
    return (
        f"with {to} {duration(told.age_seconds)} ago, {told.seconds:.1f} s after {left} did not answer"
        f" {told.verb} ({told.why})"
    )


def _engine_facts(engine: "EngineStatus") -> list[tuple[str, str]]:
    if not engine.addresses:
        return [("engine", f"{engine.name}, not up")]
    others = f", {engine.strangers} scripts in the last group" if engine.strangers else ""
    facts = [("engine", f"{engine.name}, prefix {engine.prefix}{others}")]
    return facts + [("", address) for address in engine.addresses]


def _agreement(status: "Status") -> str:
    """Say how many peers hold this node's state; who has none, itself or a peer, agrees with nobody."""
    if not status.peers:
        return nobody(status)
    if not status.state_hash:
        return "none yet"
    same = sum(peer.state_hash == status.state_hash for peer in status.peers)
    return f"{status.state_hash}, the same on {same} of {len(status.peers)} peers"


def nobody(status: "Status") -> str:
    """Say that there is no peer, and whether there were any."""
    met = status.peers_met
    return f"no peer now; {met} were linked since the start" if met else "no peer yet"


def _history(status: "Status") -> "Table":
    made = table(
        "round", "outcome", "contributors", "loss", "metrics", "work", "matchmaking", "exchange",
        numbers=("round", "contributors", "loss", "work", "matchmaking", "exchange"),
    )  # fmt: skip
    for done in status.history[-8:]:
        metrics = " ".join(f"{name} {figure(value)}" for name, value in done.metrics.items())
        seconds = (done.work_seconds, done.matchmaking_seconds, done.exchange_seconds)
        row(
            made, done.round, done.outcome, done.contributors, figure(done.loss), metrics,
            *(duration(each) for each in seconds),
        )  # fmt: skip
    return made


def peers(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show the peers the running node knows."""
    from shoal.node.web import client

    found = client.fetch_status(home_of(home).path)
    if json:
        print_json(found.peers)
    elif found.peers:
        console().print(_peer_table(found.peers, found.state_hash))
    else:
        there = f"; on another device: {found.join_command}" if found.join_command else f"; {UNREACHED}"
        print(nobody(found) + there)


def _peer_table(peers: "list[PeerStatus]", ours: str) -> "Table":
    from rich.text import Text

    made = table(
        "peer", "link", "role", "round", "state", "seen", "sent", "received", "address",
        numbers=("round", "seen", "sent", "received"),
    )  # fmt: skip
    styles = {"direct": "green", "relayed": "yellow", "none": "dim"}
    for peer in peers:
        agrees = bool(ours) and peer.state_hash == ours
        row(
            made, short(PeerId(peer.peer)), Text(printable(peer.link), style=styles.get(peer.link, "")),
            peer.role, peer.round,
            Text(printable(peer.state_hash[:6]) or "-", style="green" if agrees else ""),
            duration(peer.age_seconds), size(peer.bytes_sent), size(peer.bytes_received), peer.address,
        )  # fmt: skip
    return made
