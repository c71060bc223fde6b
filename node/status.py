"""Status: what a node says about itself, as frozen types.

One `Status` serves the page, /status.json, /metrics, `shoal status` and the testnet's table.
"""

from typing import Final

import msgspec

LINKS: Final = ("direct", "relayed", "none")
"""Classes of links to peers."""
BOOTSTRAP_STATES: Final = ("dialling", "connected", "failed", "own")
OUTCOMES: Final = ("averaged", "alone", "synced", "failed")
"""Of rounds."""
PHASES: Final = (
    *("starting", "working", "matchmaking", "exchanging", "applying", "syncing", "finished"),
    *("helping", "paused", "stopping"),
)
"""Of a node."""
UNREADY: Final = ("starting", "syncing", "stopping")
"""Phases in which a node can take part in nothing: /readyz says no, and so does `shoal status --ready`."""


class PeerStatus(msgspec.Struct, frozen=True):
    """A peer as this node sees it."""

    peer: str
    address: str
    link: str
    """direct, relayed, or none where only its presence is known."""
    role: str
    """trainer or helper."""
    round: int
    state_hash: str
    """First 12 hex digits."""
    age_seconds: float
    """Since its last presence."""
    bytes_sent: int
    bytes_received: int
    phase: str = ""
    """What it says it does: working, syncing, finished or helping."""
    run: str = ""
    """The id of its run, its first 12 hex digits; empty for a helper."""
    run_name: str = ""
    """As it says."""


class BootstrapStatus(msgspec.Struct, frozen=True):
    """An address this node was told to dial."""

    address: str
    state: str
    """dialling, connected, failed, or own where it leads to this node itself and is not dialled."""
    reason: str
    """Why it failed: refused, timeout, unreachable, wrong key, wrong swarm."""
    attempts: int
    next_try_seconds: float


class FaultStatus(msgspec.Struct, frozen=True):
    """What a peer did that no correct node does."""

    peer: str
    reason: str
    count: int
    age_seconds: float
    """Since it last did so."""


class LineageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A later state that peers claim and this node does not go by."""

    round: int
    state_hash: str
    """First 12 hex digits."""
    n_peers: int
    peers: list[str]
    """At most 8 of them, linked ones first."""
    reason: str


class RoundStatus(msgspec.Struct, frozen=True):
    """A round that ended."""

    round: int
    outcome: str
    """averaged, alone, synced or failed."""
    contributors: int
    loss: float
    metrics: dict[str, float]
    work_seconds: float
    matchmaking_seconds: float
    exchange_seconds: float
    finished_at: float
    """Unix seconds."""
    state_hash: str
    """After the round; first 12 hex digits."""
    reason: str = ""
    """Why it failed, where it did; at most 200 characters."""
    bytes_sent: int = 0
    """By this node, on all links, since its round before ended."""
    bytes_received: int = 0
    members: list[str] = []
    """The ends of the peer ids that contributed, this node among them; at most 16."""


class RoundTotals(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds that ended since the node's start."""

    outcomes: dict[str, int] = {}
    """How many, by outcome."""
    bounds: list[float] = []
    """Seconds: the upper bounds of the buckets but the last, which has none."""
    buckets: dict[str, list[int]] = {}
    """By part of a round (work, matchmaking, exchange): how many took a time within each bucket."""
    seconds: dict[str, float] = {}
    """By part: the sum of all."""


class RunStatus(msgspec.Struct, frozen=True):
    """The run this node takes part in."""

    name: str
    run_id: str
    method: str
    task: str
    rounds: int
    parameters: int
    options: dict[str, bool | int | float | str]
    combine: str = "mean"
    """What a group makes of contributions: mean, clip, trimmed or median."""
    secure: bool = False
    """Whether they are summed under masks."""
    base: str = ""
    """The name of the frozen tensors, for ``--base`` of a newcomer without them; empty: nothing is frozen."""


class PrivacyStatus(msgspec.Struct, frozen=True):
    """How much this node's data has told, where a run adds noise."""

    kind: str
    """local, distributed or examples."""
    clip_norm: float
    noise_multiplier: float
    epsilon: float
    """Of all releases of this node, in any run."""
    delta: float
    budget: float
    """Epsilon at which the node gives nothing more; 0: no limit."""
    releases: int
    is_spent: bool
    """Whether the last round gave nothing for lack of budget."""


class HeardRunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the swarm, which a newcomer may join."""

    name: str
    run_id: str
    """First 12 hex digits."""
    peers: int
    """That say they are in it, this node not counted."""
    linked: int
    """Of these, linked to this node."""
    round: int
    """That half of them have reached."""
    ours: bool
    """Whether this node is in it."""
    task: str = ""
    """This and what follows: empty or 0 until a linked peer has shown the run's settings."""
    method: str = ""
    mode: str = ""
    """open, invite or closed."""
    rounds: int = 0
    """Of the whole run; 0: without an end, where the method is known."""
    parameters: int = 0
    """Numbers that travel."""
    accuracy: float | None = None
    """As this node measured it last; of its own run alone."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that makes the means, where that is not the node itself."""

    name: str
    """hivemind."""
    addresses: list[str]
    """Where it is reached: what a hivemind script takes for its `initial_peers`. Empty while it is not up."""
    prefix: str
    """Of the run's groups, which such a script takes for its own."""
    strangers: int
    """Members of the last group that are no nodes."""
    restarts: int
    """How often its process was started again."""
    pid: int
    """Of its process; 0 while there is none."""


class AloneStatus(msgspec.Struct, frozen=True):
    """A node that has trained with others, and is linked with none of them."""

    round: int
    """The round it stands in."""
    seconds: float
    """For so long."""
    rounds: int
    """Made alone since."""
    waits: bool
    """Whether it waits for company, and makes no round."""
    missed: int
    """While it waits: rounds that would have passed, at the pace of the last ones."""


class AttendeeStatus(msgspec.Struct, frozen=True):
    """A member of the exchange that is under way."""

    peer: str
    is_lost: bool
    """Whether the others went on without it."""
    is_done: bool
    """Whether it says that it has all."""
    bytes_received: int
    """Of bulk that came from it."""
    bytes_taken: int
    """Of bulk that came to it, from all, as it says."""


class ExchangeStatus(msgspec.Struct, frozen=True):
    """The exchange that is under way."""

    members: list[AttendeeStatus]
    """This node among them; at most 64."""
    share_done: float | None
    """Of the mean; nothing where it cannot be told."""


class DonorStatus(msgspec.Struct, frozen=True):
    """A peer that serves the state which this node fetches."""

    peer: str
    chunks: int
    """That came from it and were right."""
    seconds_per_chunk: float
    """Of late ones; 0 while nothing is known."""


class FetchStatus(msgspec.Struct, frozen=True):
    """The state of another that this node fetches."""

    round: int
    share_done: float
    bytes_total: int
    """0 while nobody has said it."""
    donors: list[DonorStatus]
    """At most 16."""


class CallPartStatus(msgspec.Struct, frozen=True):
    """How long a part of a call takes."""

    verb: str
    part: str
    """answer: from this node's call to its answer; queue: a peer's call until the trainer has it; work: of
    the trainer."""
    seconds: float
    """Median of the last 12."""


class HandoverStatus(msgspec.Struct, frozen=True):
    """Calls of this node went on with another peer."""

    verb: str
    left: str
    """The peer that did not answer."""
    to: str
    """The one that did."""
    why: str
    """silent, lost, gone, or what it said; at most 100 characters."""
    seconds: float
    """From the call that was not answered to the other one's answer."""
    age_seconds: float


class CallsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Who hosts what, and the calls of this node, where the method has roles."""

    hosts: dict[str, list[str]]
    """Role -> who holds it, the quickest first; this node among them. Empty: nobody."""
    per_second: float
    """Calls of this node that were answered, and others' that it took, in the last 10 s."""
    waiting: int
    """Of peers, which the trainer was not given yet."""
    unanswered: int
    """Of this node, so far."""
    parts: list[CallPartStatus]
    handovers: list[HandoverStatus] = []
    """The last 16, the oldest first."""


class PortMappingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the router before this node does for it."""

    state: str
    """off, not needed, ready, looking, mapped, refused, silent, garbled or in vain."""
    text: str
    """In one line."""
    fix: str
    """What its owner may do; empty where there is nothing."""
    is_unreachable: bool
    """Whether nobody outside can dial this node, as far as its router tells."""


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the node takes of its machine, as of a few seconds ago."""

    trainer_bytes: int
    """Of memory; 0 without a trainer."""
    trainer_starts: int
    """Since the node's start; a trainer of the user's own is not counted."""
    disk_free_bytes: int
    """Where states are kept."""
    saved_bytes: int
    """Of the params and what goes with them, in the last state that was saved."""
    saved_seconds: float | None
    """Since then; nothing before the first since the start."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment."""

    peer_id: str
    version: str
    swarm: str
    pid: int
    uptime_seconds: float
    addresses: list[str]
    join_command: str
    """What to type on another device; empty while nobody can reach this node."""
    role: str
    phase: str
    """One of `PHASES`."""
    round: int
    state_hash: str
    run: RunStatus | None
    loss: float | None
    metrics: dict[str, float]
    peers: list[PeerStatus]
    bootstrap: list[BootstrapStatus]
    refusals: list[str]
    """Why peers and we did not average, newest last; at most 20 lines."""
    problems: list[str]
    """What a person should see to, each with its fix, such as a full disk; at most 20 lines."""
    drops: dict[str, int]
    """What peers sent and we refused, by reason."""
    bytes_sent: int
    bytes_received: int
    history: list[RoundStatus]
    """At most the last 200 rounds, oldest first."""
    trainer: str
    """running, none, attached (a process of yours), or why it stopped."""
    rss_bytes: int
    utilisation: float | None = None
    """Share of the time in which the trainer computes instead of waiting, since its first round ended."""
    work_seconds: float = 0.0
    """Of computing, since then."""
    training_seconds: float = 0.0
    """Of computing and waiting, since then."""
    engine: EngineStatus | None = None
    """What makes the means, if not this node itself."""
    alone: AloneStatus | None = None
    """Whether it lost its company; not where it never had any."""
    unanchored: bool = False
    """Whether it goes by the most of its peers, having no colleagues, and nobody that its user named."""
    page: str = ""
    """Where the page of this node is, such as http://127.0.0.1:4711; empty: not served."""
    name: str = ""
    """What its owner calls this node."""
    named_faults: list[FaultStatus] = []
    """What peers did that no correct node does, the last one first; at most 64 lines."""
    refused_lineages: list[LineageStatus] = []
    """What others claim, as of a few seconds ago; at most 8 lines."""
    quorum: str = ""
    """Why the quorum says little yet; empty where it is of peers that this node knows."""
    totals: RoundTotals = RoundTotals()
    """Rounds since the start, which the history holds the last ones of."""
    peers_met: int = 0
    """How many peers were linked since the start, those that have left included; counted up to 10,000."""
    mode: str = "open"
    """Of the run: open, invite or closed."""
    charter: str = ""
    """As it stands in the run's settings; empty: nobody governs."""
    pause: str = ""
    """Why it does not train, where its owner, the hours or the battery say so; empty: nothing does."""
    runs: list[HeardRunStatus] = []
    """What there is in the swarm: our run first, then those with the most peers; at most 32."""
    uplink_mbit: float = 0.0
    """Mbit per second up, as the last rounds measured; 0 before there was anything to measure."""
    privacy: PrivacyStatus | None = None
    """What the node's data has told, where the run adds noise."""
    exchange: ExchangeStatus | None = None
    """What is exchanged now, if anything is."""
    fetch: FetchStatus | None = None
    """What is fetched now, if anything is."""
    home: str = ""
    """What to add to a command so that it means this node: `` --home DIR``; empty: nothing."""
    calls: CallsStatus | None = None
    """Where the method has roles."""
    machine: MachineStatus | None = None
    """Memory, disk and trainer."""
    port_mapping: PortMappingStatus | None = None
    """What came of asking the router for a port."""
