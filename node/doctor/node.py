"""A node and its peers: what the running node says. Pure: what was found is handed in.

Whether others can dial this node only they can tell; that they are not asked is said.
"""

from collections.abc import Sequence
from typing import Final

from shoal.gossip.addresses import endpoint, listen_at
from shoal.gossip.scope import Scope, scope_of
from shoal.node.doctor.findings import Finding, Level, finding_of
from shoal.node.status import PortMappingStatus, Status
from shoal.node.text import duration

QUIET: Final = 3.0
"""A node is said to have stopped after so many times what its longest of the last rounds took,"""
LEAST_QUIET: Final = 600.0
"""and so many seconds."""


def check_peers(status: Status | None, dials: Sequence[tuple[str, str]]) -> Finding:
    """Look at whom this node reaches.

    `dials`: of the addresses to join, where no node runs, each with why it did not answer; empty: it did.
    """
    if status is not None:
        linked = [peer for peer in status.peers if peer.link != "none"]
        if linked:
            direct = sum(peer.link == "direct" for peer in linked)
            return Finding("peers", "ok", f"{len(linked)} linked, {direct} of them without a relay")
        if not status.bootstrap:
            fix = f"on another device: {status.join_command}" if status.join_command else ""
            return Finding("peers", "note", "none is linked, and no address is given to dial", fix)
        dials = [(target.address, target.reason or target.state) for target in status.bootstrap]
    elif not dials:
        return Finding("peers", "note", "no address is given to dial: this node would be the first")
    answered = [address for address, reason in dials if not reason]
    if answered:
        return Finding("peers", "ok", f"{len(answered)} of {len(dials)} addresses to join answer")
    reasons = "; ".join(f"{address}: {reason}" for address, reason in dials[:3])
    fix = "ask a peer for its line as shoal status shows it, or: shoal bootstrap add ADDRESS"
    return Finding("peers", "unasked", f"none answers: {reasons}", fix)


def check_reach(status: Status | None, port: int, is_hidden: bool) -> Finding:
    """Look at where others would dial this node; nobody is asked to try."""
    if is_hidden:
        return Finding("reach", "note", "hidden: others reach this node through those that it dials")
    if status is None:
        return Finding("reach", "note", "no node runs, so it is not known where others would dial it")
    scopes = [(each, _scope(each)) for each in status.addresses if "/p2p-circuit" not in each]
    public = [address for address, scope in scopes if scope in (Scope.PUBLIC, Scope.NAME)]
    if public:
        return Finding("reach", "ok", f"others are told {public[0]}; nobody was asked to dial it")
    # IPv4 first: routers forward that, and hand IPv6 through.
    local = sorted(address for address, scope in scopes if scope is Scope.PRIVATE)
    place = endpoint(local[0]) if local else None
    port = place.port if place is not None else port
    to = f"{place.host}:{port}" if place is not None else f"this machine, port {port}"
    text = "no public address is known: peers outside your network may not be able to dial this node"
    if status.port_mapping is not None and status.port_mapping.is_unreachable:
        return Finding("reach", "note", text)  # the line of the router says what to do
    fix = (
        f"to be reachable forward TCP {port} -> {to} on your router, then shoal start --announce"
        f" {listen_at('YOUR_PUBLIC_ADDRESS', port)}; else nothing: others can be dialled, and relays carry"
        " links"
    )
    return Finding("reach", "note", text, fix)


def check_router(found: PortMappingStatus | None) -> list[Finding]:
    """Look at what the router does for the node, or would do."""
    if found is None or found.state == "off":
        return []
    level: Level = "note" if found.is_unreachable or found.state == "looking" else "ok"
    return [Finding("router", level, found.text, found.fix)]


def _scope(address: str) -> Scope:
    found = endpoint(address)
    return Scope.NEVER if found is None else scope_of(found.host)


def check_node(status: Status | None, refusal: str, start: str) -> list[Finding]:
    """Look at what the running node says of itself.

    `refusal`: why it says nothing, though it runs. `start`: what starts one.
    """
    if refusal:
        return [finding_of("node", "fix", refusal)]
    if status is None:
        return [Finding("node", "note", "none runs in this home", start)]
    text = f"up for {duration(status.uptime_seconds)}, {status.phase}, round {status.round}"
    found = [Finding("node", "ok", text)]
    found += [finding_of("node", "fix", problem, otherwise="see shoal status") for problem in status.problems]
    if status.role == "trainer" and status.trainer not in ("running", "attached", "none"):
        found.append(Finding("node", "fix", f"the trainer: {status.trainer}", "see the log of the node"))
    return found


def check_rounds(status: Status | None, now: float) -> list[Finding]:
    """Look at how long ago a round ended; `now`: Unix seconds."""
    if status is None or not status.history or status.phase in ("finished", "stopping", "paused"):
        return []
    last = status.history[-1]
    ago = max(0.0, now - last.finished_at)
    longest = max(each.work_seconds + each.exchange_seconds for each in status.history[-20:])
    text = f"round {last.round} ended {duration(ago)} ago: {last.outcome}"
    if ago > max(LEAST_QUIET, QUIET * longest) and status.alone is None:
        return [Finding("rounds", "fix", f"{text}; the longest of the last took {duration(longest)}",
                        "see what the node waits for: shoal status")]  # fmt: skip
    failed = [each for each in status.history[-20:] if each.outcome == "failed"]
    if len(failed) > 10:
        return [Finding("rounds", "fix", f"{len(failed)} of the last 20 rounds failed, the last one with:"
                        f" {failed[-1].reason or 'no reason'}", "see docs/troubleshooting.md")]  # fmt: skip
    return [Finding("rounds", "ok", text)]
