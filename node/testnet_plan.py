"""The plan of a testnet: what is started, in which order, and with which command lines.

Everything here is a pure function of the plan. No node is special once it runs: the first is merely the
address that others are told, as a user would tell a second device how to reach the first.

    full, star    everyone is told node 1; they learn of each other from there (star) or at once (full)
    line          node i is told node i-1
    ring          as line, and node 1 is told the last node once that runs
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from gossip.runspec import Scalar
from methods.errors import MethodsError
from methods.registry import load_method
from node.errors import UserError

Topology: TypeAlias = Literal["full", "line", "ring", "star"]
BUILT_IN_SHARES: Final[Mapping[str, tuple[str, ...]]] = {
    "digits": ("share", "alpha", "seed"),
    "digits_body": ("share", "alpha", "seed"),
    "digits_compressible": ("share", "alpha", "seed"),
    "digits_few_labels": ("share", "seed"),
    "digits_noisy": ("share", "seed"),
    "tones": ("share", "seed"),
}
"""Tasks that split their data into private shares, and by which of the plan's options."""


class BadPlan(UserError):
    """The testnet cannot be run as asked; the message says what to change."""

    exit_code = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One testnet. What is equal on all nodes becomes their run spec."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 5
    """Node processes on this machine."""
    method: str = "fedavg"
    """The training method."""
    options: dict[str, Scalar] = {}
    """Its hyperparameters that differ from the defaults."""
    task: str = "digits"
    """What is learned."""
    task_options: dict[str, Scalar] = {}
    """Options of the task; ``{i}`` and ``{n}`` in a text stand for a node's number and how many there are."""
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1e5)] = 0.1
    """How unlike the private shares are: 0.1 very, 100 hardly."""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 30
    """Rounds until the run ends."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """Of the split of the data and of the initial model."""
    topology: Topology = "full"
    """Who is told whose address; see the module's docstring."""
    group_size: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16
    """At most this many nodes average in one group."""
    quorum: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """A round with fewer contributors keeps the old state; 0: more than half of a group."""
    patience: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """Seconds that bound every wait for peers; 0: the node's default."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """Seconds until a testnet that has not finished is judged as it stands."""

    @property
    def shares(self) -> bool:
        """Whether the method makes nodes agree on a state."""
        return self.method != "local"

    @property
    def one_group(self) -> bool:
        """Whether all nodes average together in every round."""
        return self.group_size >= self.nodes

    @property
    def effective_quorum(self) -> int:
        """The quorum the nodes are started with.

        Groups can be about half of `group_size` when the nodes do not divide evenly, hence the halving.
        """
        if self.quorum or not self.shares:
            return self.quorum or 1
        return self.nodes // 2 + 1 if self.one_group else max(1, self.group_size // 2)


class ShareAlone(msgspec.Struct, frozen=True):
    """What a share reached without the others, as node/baseline.py prints it."""

    share: int
    accuracy: float


def check(plan: Plan) -> None:
    """Refuse what the nodes would refuse one by one.

    Raises:
        BadPlan: no such method, it has no such option, or a round asks for more nodes than there are.
    """
    try:
        load_method(plan.method, plan.options)
    except MethodsError as error:
        raise BadPlan(str(error)) from None
    if plan.effective_quorum > min(plan.nodes, plan.group_size):
        raise BadPlan(
            f"a quorum of {plan.quorum} can never be met by {plan.nodes} nodes in groups of at most "
            f"{plan.group_size}: lower --quorum"
        )


def name_of(index: int) -> str:
    """Return the name of the node with this number, counted from 1."""
    return f"node-{index}"


def index_of(plan: Plan, name: str) -> int:
    """Return a node's number from ``node-3`` or ``3``.

    Raises:
        BadPlan: there is no such node.
    """
    number = name.removeprefix("node-")
    if not number.isdecimal() or not 1 <= int(number) <= plan.nodes:
        raise BadPlan(f"no node {name} here: choose one from {name_of(1)} to {name_of(plan.nodes)}")
    return int(number)


def told(plan: Plan, index: int) -> tuple[int, ...]:
    """Return the nodes whose addresses a node is started with; they are all started before it."""
    if index == 1:
        return ()
    return (index - 1,) if plan.topology in ("line", "ring") else (1,)


def told_later(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Return (who, whom): addresses that can only be told once all run."""
    return ((1, plan.nodes),) if plan.topology == "ring" and plan.nodes > 2 else ()


def task_options(plan: Plan, index: int) -> dict[str, Scalar]:
    """Return the task's options of one node: built-in tasks get their share, others what the plan says."""
    of_plan: dict[str, Scalar] = {"share": f"{index}/{plan.nodes}", "alpha": plan.alpha, "seed": plan.seed}
    chosen = {key: of_plan[key] for key in BUILT_IN_SHARES.get(plan.task, ())}
    for key, value in plan.task_options.items():
        if isinstance(value, str):
            value = value.replace("{i}", str(index)).replace("{n}", str(plan.nodes))
        chosen[key] = value
    return chosen


def start_command(plan: Plan, index: int, home: Path, joins: Sequence[str]) -> list[str]:
    """Return the command line of a node, the same that a person would type."""
    command = [sys.executable, "-m", "node", "start", "--home", str(home), "--name", name_of(index)]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--http-port", "0", "--no-mdns"]
    command += ["--task", plan.task, *_pairs("--task-option", task_options(plan, index))]
    command += ["--method", plan.method, *_pairs("--option", plan.options)]
    command += ["--rounds", str(plan.rounds), "--seed", str(plan.seed)]
    command += ["--group-size", str(plan.group_size), "--quorum", str(plan.effective_quorum)]
    if plan.shares:
        command += ["--wait-for", str(min(plan.nodes, 64))]
    if plan.patience:
        command += ["--patience", str(plan.patience)]
    for address in joins:
        command += ["--join", address]
    return command


def _pairs(flag: str, options: Mapping[str, Scalar]) -> list[str]:
    words: list[str] = []
    for key, value in options.items():
        words += [flag, f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return words
