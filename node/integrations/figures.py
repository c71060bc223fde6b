"""Figures: what a framework's log and a node's page tell each other. Loads no framework."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from shoal.node.optimizer.swarm import Swarm

PREFIX: Final = "shoal/"
MAX_REPORTED: Final = 32
"""Metrics of one round; more are no help on a page."""
_NOT_LEARNED: Final = ("_runtime", "_per_second", "epoch", "total_flos", "num_input_tokens_seen")
"""Ends of names that say how fast the machine is, or where the loop stands."""


def of_swarm(swarm: "Swarm") -> dict[str, float]:
    """Return what a framework's log shows of the swarm; what the node does not answer is left out."""
    found: dict[str, float] = {"round": swarm.rounds}
    if swarm.last is not None:
        found["contributors"] = swarm.last.contributors
        found["wait_seconds"] = swarm.last.seconds
    status = swarm.status
    if status is not None:
        found["peers"] = sum(peer.role == "trainer" for peer in status.peers)
        found["bytes_up"] = status.bytes_sent
        found["bytes_down"] = status.bytes_received
        averaged = [each for each in status.history if each.outcome == "averaged"]
        if averaged:
            found["exchange_seconds"] = averaged[-1].exchange_seconds
        if status.utilisation is not None:
            found["utilisation"] = status.utilisation
    return {PREFIX + name: value for name, value in found.items()}


def to_report(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a framework's log the page shows: losses and metrics, not times."""
    wanted = [name for name in logs if not name.startswith(PREFIX) and not name.endswith(_NOT_LEARNED)]
    return {name: logs[name] for name in wanted[:MAX_REPORTED]}


def missing(extra: str, what: str) -> ImportError:
    """Return the error of a framework that is not there."""
    return ImportError(f"{what} is not installed; type: pip install 'shoal[{extra}]'")
