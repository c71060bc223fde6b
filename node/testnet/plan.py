"""The plan of a testnet: what is started, in which order, and with which command lines.

Everything here is a pure function of the plan. No node is special once it runs: the first is merely the
address that others are told, as a user would tell a second device how to reach the first.

    full, star    everyone is told node 1; they learn of each other from there (star) or at once (full)
    line          node i is told node i-1
    ring          as line, and node 1 is told the last node once that runs

Scenario files: a plan in TOML, for real processes (`shoal testnet up --scenario FILE`) and simulated ones.

    about = "A node is killed every 15 s; the others lose no round."
    nodes = 6
    seconds = 600

    [link]
    latency = "80ms"

    [[faults]]
    kind = "kill"
    at = 10
    every = 15

    [holds]
    lost_rounds = 0

The keys are those of `Plan` (node/testnet/plan.py) and of the structs in it; unknown ones are refused.
Durations, shares and rates may be written with their unit.
"""

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from shoal.gossip.admission.charter import Mode
from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE, RunSettings, Scalar
from shoal.methods.errors import MethodsError
from shoal.methods.registry import load_method
from shoal.node.config.engine_preflight import check_engine
from shoal.node.config.preflight import check_run
from shoal.node.config.run_flags import option_words, run_words
from shoal.node.errors import BadConfig, UserError
from shoal.node.testnet.faults import BadQuantity, Fault, Holds, Link, quantity
from shoal.node.testnet.lies.catalogue import NoSuchLie, lie_of_node
from shoal.node.trainer.spec import TrainerSpec, settings_of

Topology: TypeAlias = Literal["full", "line", "ring", "star"]
BUILT_IN_SHARES: Final[Mapping[str, tuple[str, ...]]] = {
    "digit_tasks": ("share", "seed"),
    "digits": ("share", "alpha", "seed"),
    "digits_body": ("share", "alpha", "seed"),
    "digits_captions": ("share", "alpha", "seed"),
    "digits_compressible": ("share", "alpha", "seed"),
    "digits_few_labels": ("share", "seed"),
    "digits_noisy": ("share", "seed"),
    "digits_tones": ("share", "alpha", "seed"),
    "shapes": ("share", "alpha", "seed"),
    "shifted": ("share", "alpha", "seed"),
    "tables": ("share", "alpha", "seed"),
    "tones": ("share", "seed"),
}
"""Tasks that split their data into private shares, and by which of the plan's options."""


BARS: Final[Mapping[str, float]] = {"digits": 0.90}
"""What every node reaches of a task, where that is known."""
BAR_ROUNDS: Final = 30
"""Rounds from which on it holds: five nodes reach it in 30 (`make testnet`)."""
BAR_ROUNDS_PER_NODE: Final = 6
"""And for more nodes, of which each has less of the data. A guess: as many as for five."""
START_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 10.0
"""For which the first round waits for each node to load, all on one machine."""
EACH_ALONE: Final = "each alone"
"""What the shares reach without each other, as a system beside others."""


class BadPlan(UserError):
    """The testnet cannot be run as asked; the message says what to change."""

    exit_code = 2


class Plan(RunSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One testnet. The settings of the run are those of all nodes; here some have other defaults."""

    task: Annotated[str, msgspec.Meta(max_length=200)] = "digits"
    """What is learned: a built-in name such as digits, or package.module:Class."""
    rounds: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 30
    """Rounds until the run ends, 60 with churn; 0: the run goes on until `seconds` are over."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """Seed of the split of the data and of the initial model."""
    quorum: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """A round with fewer contributors keeps the old state; 0: more than half of a group."""
    about: str = ""
    """What the scenario shows, in a sentence."""
    nodes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 5
    """Node processes on this machine."""
    task_options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Options of the task; ``{i}`` and ``{n}`` in a text stand for a node's number and how many there are."""
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1e5)] = 0.1
    """How unlike the private shares are: 0.1 very, 100 hardly; for built-in tasks that split by labels."""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Where the run has no end of its own: how long it is watched, from its first round on."""
    seeds: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    """Seeds over which what the method's paper compares it with is run, in lockstep; 0: it is not."""
    topology: Topology = "full"
    """Which node is told whose address; see the module's docstring."""
    patience: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """Seconds that bound every wait for peers; 0: the node's default."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """Seconds until a testnet that has not finished is judged as it stands."""
    link: Link = Link()
    """The line of every node."""
    churn: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    """Share of the nodes that is killed and started again per minute."""
    faults: tuple[Fault, ...] = ()
    """What else happens to them."""
    mode: Mode = "closed"
    """closed and invite let in the testnet's own nodes alone, open lets in anyone."""
    liars: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    """As many of the nodes, the last ones, lie as `lie` says."""
    lie: str = ""
    """What they lie about: a name of `shoal testnet lies`."""
    quiet_end: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """No fault that is repeated begins in this many last seconds of a run without end of its own."""
    holds: Holds = Holds()
    """What must hold all the same."""
    bar: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The accuracy that every node must reach; without one `accuracy_bar` follows from the rest."""

    @property
    def shares(self) -> bool:
        """Whether the method makes nodes agree on a state."""
        return self.method != "local"

    @property
    def honest(self) -> int:
        """How many nodes do not lie: the first ones."""
        return self.nodes - self.liars

    def lie_of(self, index: int) -> str:
        """Return what the node with this number, counted from 1, lies about; empty: it is honest."""
        return self.lie if index > self.honest else ""

    @property
    def is_shaken(self) -> bool:
        """Whether anything is done to nodes or links."""
        return bool(self.churn or self.faults or self.link.is_shaped)

    @property
    def calm(self) -> "Plan":
        """The same, left in peace, and nobody lies."""
        return msgspec.structs.replace(self, link=Link(), churn=0.0, faults=(), liars=0, lie="")

    @property
    def one_group(self) -> bool:
        """Whether all nodes average together in every round."""
        return self.group_size >= self.nodes and self.exchange == "group"

    @property
    def accuracy_bar(self) -> float | None:
        """What every node must reach; None: more than the shares reach alone, in as many rounds.

        A task has a bar where enough rounds are run: `BAR_ROUNDS`, and more the more nodes share the data.
        Among liars there is only the bar that somebody sets.
        """
        if self.bar is not None or self.liars:
            return self.bar
        is_long = not self.rounds or self.rounds >= max(BAR_ROUNDS, BAR_ROUNDS_PER_NODE * self.nodes)
        return BARS.get(self.task) if is_long else None

    @property
    def effective_quorum(self) -> int:
        """The quorum the nodes are started with.

        Groups can be about half of `group_size` when the nodes do not divide evenly, hence the halving.
        """
        if self.quorum or not self.shares or PATTERNS[self.exchange].has_own_states:
            return self.quorum or 1
        return self.nodes // 2 + 1 if self.one_group else max(1, self.group_size // 2)


class ShareAlone(msgspec.Struct, frozen=True):
    """What a share reached alone, as node/testnet/baseline.py prints it."""

    share: int
    accuracy: float


class SystemReached(msgspec.Struct, frozen=True):
    """What all shares reached in another way, as node/testnet/baseline.py prints it."""

    system: str
    seed: int
    accuracy: float
    sent_bytes: float
    """Of a node per round, before any framing."""


def check(plan: Plan) -> None:
    """Refuse what the nodes would refuse one by one.

    Raises:
        BadPlan: no such method, it has no such option, or a round asks for more nodes than there are.
    """
    try:
        method = load_method(plan.method, plan.options)
        check_run(plan, method, plan.mode)
        check_engine(plan.engine, method, plan.method, plan.codec)
        if plan.engine != NATIVE and plan.exchange != "group":
            raise BadPlan(f"engine {plan.engine} averages in groups: leave out --exchange or --engine")
    except (MethodsError, BadConfig) as error:
        raise BadPlan(str(error)) from None
    if not plan.rounds and not plan.seconds:
        raise BadPlan("a run without --rounds needs an end: say how long with --seconds")
    if plan.engine != NATIVE and plan.link.is_shaped:
        raise BadPlan(
            f"engine {plan.engine} has a network of its own, whose links are not shaped: leave out --latency,"
            f" --jitter, --loss and --bandwidth, or --engine {plan.engine}"
        )
    for fault in plan.faults:
        if max(fault.nodes, default=1) > plan.nodes or fault.pick > plan.nodes:
            raise BadPlan(f"a {fault.kind} at {fault.at:g} s names a node above {plan.nodes}: raise nodes")
    _check_liars(plan)
    if plan.effective_quorum > min(plan.nodes, plan.group_size):
        raise BadPlan(
            f"a quorum of {plan.quorum} can never be met by {plan.nodes} nodes in groups of at most "
            f"{plan.group_size}: lower --quorum"
        )


def _check_liars(plan: Plan) -> None:
    if bool(plan.liars) != bool(plan.lie):
        missing = "--lie NAME, which shoal testnet lies names" if plan.liars else "--liars K"
        raise BadPlan(f"liars need a number and a lie: add {missing}")
    if plan.liars >= plan.nodes:
        raise BadPlan(f"{plan.liars} of {plan.nodes} nodes would leave nobody honest: lower --liars")
    if plan.lie:
        try:
            lie_of_node(plan.lie)
        except NoSuchLie as error:
            raise BadPlan(str(error)) from None


def check_alpha(plan: Plan) -> None:
    """Refuse an alpha that somebody wrote down for a task that it does not reach.

    Raises:
        BadPlan: the task has shares of its own.
    """
    if "alpha" in BUILT_IN_SHARES.get(plan.task, ()):
        return
    if plan.task in BUILT_IN_SHARES:
        why = f"{plan.task} shares its examples out at random"
    else:
        why = f"{plan.task} decides itself what a node has; an option of that name is --task-option alpha=X"
    raise BadPlan(f"alpha does not reach this task: {why}; leave out alpha")


def alpha_of(plan: Plan) -> float | None:
    """Return the alpha that the nodes' task is given, if it is given one."""
    found = task_options(plan, 1).get("alpha")
    return float(found) if isinstance(found, int | float) else None


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


def trainer_spec(plan: Plan) -> TrainerSpec:
    """Return what the trainer of the first node is told, as far as it decides what fits."""
    run = settings_of(plan) | {"quorum": plan.effective_quorum}
    return TrainerSpec(**run, task_options=task_options(plan, 1))


def start_command(
    plan: Plan, index: int, home: Path, joins: Sequence[str], network: Sequence[str]
) -> list[str]:
    """Return the command line of a node, the same that a person would type; `network`: where it listens."""
    lie = plan.lie_of(index)
    command = [
        sys.executable,
        "-P",
        "-m",
        *(["shoal.node.testnet.lies.process", lie] if lie else ["shoal.node"]),
        "start",
        "--home",
        str(home),
        "--name",
        name_of(index),
    ]
    command += [*network, "--http-port", "0", "--no-mdns", "--log-level", "info", "--no-check"]
    command += option_words("--task-option", task_options(plan, index))
    command += run_words(replace(plan, quorum=plan.effective_quorum))
    if plan.shares:
        command += ["--wait-for", str(min(plan.nodes, 64))]
        command += ["--wait-seconds", str(max(START_SECONDS, plan.nodes * LOAD_SECONDS))]
    if plan.patience:
        command += ["--patience", str(plan.patience)]
    for address in joins:
        command += ["--join", address]
    return command


_QUANTITIES: Final[dict[str, Literal["seconds", "share", "mbit"]]] = {
    "latency": "seconds",
    "jitter": "seconds",
    "loss": "share",
    "bandwidth_mbit": "mbit",
}


def load(path: Path, **changes: object) -> Plan:
    """Read a scenario; `changes` take the place of what the file says.

    Raises:
        BadPlan: the file cannot be read, is no TOML, or says what a plan cannot.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise BadPlan(f"cannot read {path}: {error.strerror}; see what is there with: ls scenarios") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadPlan(f"{path} is no TOML: {error}") from None
    try:
        plan = plan_of(_with_numbers(document) | changes)
        if "alpha" in document:
            check_alpha(plan)
        return plan
    except BadQuantity as error:
        raise BadPlan(f"{path}: {error}") from None
    except BadPlan as error:
        raise BadPlan(f"{path}: {error}") from None


def plan_of(values: object, name: Callable[[str], str] = str) -> Plan:
    """Return the plan of plain values; `name` says how a wrong one is called.

    Raises:
        BadPlan: a value is unknown, of the wrong type or out of range.
    """
    try:
        return msgspec.convert(values, Plan)
    except msgspec.ValidationError as error:
        text, _, where = str(error).replace("`", "").partition(" - at $.")
        raise BadPlan(f"{name(where)}: {text[:1].lower()}{text[1:]}".removeprefix(": ")) from None


def _with_numbers(value: Any, key: str = "") -> Any:
    """Turn texts such as 80ms into numbers where a number is meant."""
    if isinstance(value, dict):
        return {name: _with_numbers(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_numbers(each) for each in value]
    if isinstance(value, str) and key in _QUANTITIES:
        return quantity(value, _QUANTITIES[key])
    return value
