"""Placing: what `shoal testnet up --ray ADDRESS` may be asked for, and where its nodes start."""

import importlib.util
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shoal.node.errors import UserError
from shoal.node.testnet.plan import BadPlan, Plan, start_command

AUTO: Final = "auto"
"""The address of the cluster that this machine is part of."""
SECONDS: Final = 10.0
"""For a cluster to take a connection."""


class NoCluster(UserError):
    """The Ray cluster cannot be used; the message says why."""


def machine_for(index: int, machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the machine of a node, counted from 1: they take turns, in the order of their ids.

    Raises:
        NoCluster: none is alive.
    """
    alive = sorted((each for each in machines if each["Alive"]), key=lambda each: str(each["NodeID"]))
    if not alive:
        raise NoCluster("no machine of the Ray cluster is alive; look at it with: ray status")
    return alive[(index - 1) % len(alive)]


def check_cluster(address: str, plan: Plan, network: str) -> None:
    """Refuse what a launcher can do to nodes of its own machine only, and a cluster that does not answer.

    Raises:
        BadPlan: names what to leave out, or what to install.
        NoCluster: nobody listens at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise BadPlan("--ray: ray is not installed; type: pip install 'shoal[ray]'")
    if plan.is_shaken or plan.link.is_shaped or network not in ("auto", "bare"):
        raise BadPlan(
            "--ray: nodes on other machines are neither killed on time nor are their links shaped: leave out"
            " --churn, --latency, --jitter, --loss, --bandwidth, --network and the faults of a scenario"
        )
    if address != AUTO:
        _check_answers(address)


def _check_answers(address: str) -> None:
    """Look whether somebody listens; Ray itself tries for minutes, in every stand-in."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or ":" in host or not port.isdecimal():
        raise BadPlan(f"--ray {address}: write auto, or HOST:PORT, which ray start --head prints")
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NoCluster(
            f"no Ray cluster answers at {address} ({error}); start one: ray start --head"
        ) from None


class OnCluster:
    """Starts nodes by their stand-ins. See `shoal.node.testnet.cluster.stand_in`."""

    def __init__(self, address: str) -> None:
        """`address`: of the cluster, as `ray.init` takes it."""
        self._address = address

    def __call__(
        self, plan: Plan, index: int, home: Path, joins: Sequence[str], network: Sequence[str]
    ) -> list[str]:
        """Return the command line of a node's stand-in."""
        stand_in = "shoal.node.testnet.cluster.stand_in"
        bare = start_command(plan, index, home, joins, network)
        return [sys.executable, "-P", "-m", stand_in, self._address, str(index), str(home), *bare]
