"""Report: the `Status` of a running node, put together from its parts' own statistics."""

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from statistics import median
from typing import Final

import psutil
import trio

from shoal.crypto.keys import PeerId, short
from shoal.gossip.addresses import beyond_this_machine, endpoint
from shoal.gossip.admission.charter import parse
from shoal.gossip.events import SAME_IDENTITY
from shoal.gossip.host import HostStatistics
from shoal.gossip.member.quorum import is_meaningful
from shoal.gossip.membership.foreign_lineages import NOT_FOLLOWED
from shoal.gossip.membership.heard_runs import HeardRuns
from shoal.gossip.membership.presence import Entry
from shoal.gossip.net.driver import Driver
from shoal.gossip.run_spec import RunSpec
from shoal.methods.errors import MethodsError
from shoal.methods.registry import load_method
from shoal.node.config.codec_ladder import TYPICAL_PEERS, codec_advice
from shoal.node.config.run_flags import run_words
from shoal.node.config.settings import NodeConfig
from shoal.node.daemon.roles import status_of
from shoal.node.daemon.roster_keeper import RosterKeeper
from shoal.node.daemon.rounds import Rounds
from shoal.node.hivemind_engine.engine import Engine
from shoal.node.service.machine import Machine
from shoal.node.service.router import mapping_status
from shoal.node.status import (
    AloneStatus,
    BootstrapStatus,
    EngineStatus,
    FaultStatus,
    HeardRunStatus,
    LineageStatus,
    PeerStatus,
    RoundStatus,
    RunStatus,
    Status,
)
from shoal.node.storage.home import default_home, typed
from shoal.node.text import escaped
from shoal.node.web.progress import exchange_status, fetch_status

MAX_MET: Final = 10_000
"""Peers that are counted as met; beyond that the number says enough."""
PACE_ROUNDS: Final = 20
"""Rounds by whose pace those are counted that a waiting node misses."""


def our_version() -> str:
    """Return the installed version."""
    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"


def best_address(addresses: Sequence[str]) -> str:
    """Return the address that most other devices can reach: one that is not loopback, if there is one."""
    if not addresses:
        return ""
    return beyond_this_machine(addresses)[0]


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of what several parts counted, by reason."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def runs_of(heard: HeardRuns, rounds: Rounds, last: RoundStatus | None) -> list[HeardRunStatus]:
    """Return the runs of the swarm as far as this node has heard of them; `last`: our last round."""
    ours = {} if rounds.spec is None else {rounds.run: rounds.spec}
    measured = last.metrics.get("accuracy") if last is not None else None
    return [
        HeardRunStatus(
            name=each.name,
            run_id=each.run.hex()[:12],
            peers=each.peers,
            linked=each.linked,
            round=rounds.round if each.run in ours else each.round,
            ours=each.run in ours,
            task=spec.task if (spec := each.spec) else "",
            method=spec.method if spec else "",
            mode=parse(spec.charter).mode if spec else "",
            rounds=spec.rounds if spec else 0,
            parameters=spec.params_numel if spec else 0,
            accuracy=measured if each.run in ours else None,
        )
        for each in heard.found(ours)
    ]


def dialled_at(peer: PeerId, told: Sequence[str], statistics: HostStatistics) -> str:
    """Return where a peer can be dialled; empty where nobody can say.

    `told`: what its record says. A link that it dialled has a port that it does not listen on: of its own
    addresses the one on the same host is taken then.
    """
    address, _ = statistics.links.get(peer, ("", "none"))
    if address and peer not in statistics.inbound:
        return address
    seen = endpoint(address)
    same = (each for each in told if seen and (at := endpoint(each)) and at.host == seen.host)
    return next(same, next(iter(told), ""))


def join_command(config: NodeConfig, addresses: Sequence[str]) -> str:
    """Return what to type on another device to take part in what this node does; empty without address."""
    if not addresses:
        return ""
    words = ["shoal", "start", "--join", best_address(addresses)]
    if config.network.swarm != type(config.network)().swarm:
        words += ["--swarm", config.network.swarm]
    if config.run.task:
        words += run_words(config.run)
    return shlex.join(words)


def alone_line(alone: AloneStatus, config: NodeConfig) -> str:
    """Say that a node lost its company, and what to type about it."""
    gone = f"alone in round {alone.round}: none of those that trained with this node is linked;"
    if not alone.waits:
        return f"{gone} it trains on alone, as it was told to"
    is_default = config.home == default_home(os.environ).absolute()
    home = "" if is_default else f" --home {typed(config.home)}"
    return (
        f"{gone} it keeps the model they agreed on and waits for them; to train on alone: shoal stop{home},"
        f" then shoal start{home} --alone go-on with the flags of before"
    )


def slow_line(spec: RunSpec | None, mbit: float, history: Sequence[RoundStatus]) -> str:
    """Say which codec fits a line of so many Mbit per second, where the run's own does not."""
    if spec is None:
        return ""
    try:
        method = load_method(spec.method, spec.options)
    except MethodsError:
        # The process that trains knows it, and this one does not.
        return ""
    averaged = [row for row in history if row.outcome == "averaged"][-PACE_ROUNDS:]
    return codec_advice(
        spec,
        method,
        spec.params_numel,
        mbit,
        peers=averaged[-1].contributors if averaged else TYPICAL_PEERS,
        work_seconds=median([row.work_seconds for row in averaged]) if averaged else 0.0,
    )


NO_QUORUM: Final = "the quorum is not yet meaningful: until this node has colleagues any linked peer counts"


class Problems:
    """What a person should see to, by what it is about."""

    def __init__(self) -> None:
        """There is none yet."""
        self._texts: dict[str, str] = {}

    def tell(self, source: str, text: str) -> None:
        """Say it in place of an earlier one of this source; an empty text ends it."""
        if text:
            self._texts[source] = text
        else:
            self._texts.pop(source, None)

    def all(self) -> list[str]:
        """Return those that have not ended, the oldest first."""
        return list(self._texts.values())


class Reporter:
    """Makes the status of one node."""

    def __init__(
        self,
        config: NodeConfig,
        driver: Driver,
        rounds: Rounds,
        roster: RosterKeeper,
        engine: Engine | None,
        problems: Problems,
        is_stopping: trio.Event,
    ) -> None:
        """All are asked each time. `engine`: what makes the means, if not this node itself."""
        self.trainer_state: str = "none"
        self.met: set[PeerId] = set()
        """Whom this node was linked with, at most `MAX_MET`."""
        self.pause = ""
        """Why the node is not to train now."""
        self.machine: Machine | None = None
        self.page = ""
        """Where the page is served."""
        self._config, self._driver, self._rounds = config, driver, rounds
        self._roster, self._engine, self._problems = roster, engine, problems
        self._is_stopping = is_stopping
        self._started = time.monotonic()
        self._process = psutil.Process()

    def status(self, now: float) -> Status:
        """Return everything at this moment, with peers' words escaped; `now` is the driver's clock."""
        return escaped(self._status(now))

    def _status(self, now: float) -> Status:
        member, rounds, config = self._driver.member, self._rounds, self._config
        host = self._driver.host
        statistics = host.statistics()
        addresses = host.addresses()
        last = next(
            (row for row in reversed(rounds.past.history) if row.outcome in ("averaged", "alone")), None
        )
        return Status(
            peer_id=member.me,
            version=our_version(),
            swarm=config.network.swarm,
            pid=os.getpid(),
            uptime_seconds=time.monotonic() - self._started,
            addresses=addresses,
            join_command=join_command(config, addresses),
            unanchored=member.view.follows_the_most(now),
            page=self.page,
            alone=self.alone(now),
            engine=self._engine_status(),
            role="trainer" if rounds.spec is not None else "helper",
            phase="stopping" if self._is_stopping.is_set() else self._phase(),
            round=rounds.round,
            state_hash=rounds.state.hex()[:12],
            run=self._run(),
            loss=last.loss if last is not None else None,
            metrics=dict(last.metrics) if last is not None else {},
            peers=[self._peer(peer, entry, statistics, now) for peer, entry in sorted(member.table)],
            bootstrap=self._bootstrap(now),
            refusals=list(rounds.refusals),
            problems=[
                *self._problems.all(),
                *self._lonely(now),
                *self._twins(),
                *self._slow_line(),
                *self._outside(now),
            ],
            runs=runs_of(member.run_mismatch.heard, rounds, last),
            mode=parse(self._charter()).mode,
            charter=self._charter(),
            privacy=rounds.privacy.status(rounds.spec),
            pause=self.pause,
            uplink_mbit=self._measured_mbit(),
            drops=added(self._driver.admission.counts, rounds.past.refused),
            bytes_sent=statistics.bytes_sent,
            bytes_received=statistics.bytes_received,
            history=list(rounds.past.history),
            totals=rounds.past.counts.totals,
            trainer=self.trainer_state,
            rss_bytes=self._process.memory_info().rss,
            utilisation=rounds.utilisation.share,
            work_seconds=rounds.utilisation.work_seconds,
            training_seconds=rounds.utilisation.wall_seconds,
            name=config.name,
            peers_met=len(self.met),
            refused_lineages=[
                LineageStatus(
                    round=each.round,
                    state_hash=each.state.hex()[:12],
                    n_peers=each.n_peers,
                    peers=list(each.peers),
                    reason=NOT_FOLLOWED,
                )
                for each in member.foreign_lineages.found(now)
            ],
            exchange=exchange_status(member.exchange),
            fetch=fetch_status(member.fetching),
            home=self._home_words(),
            machine=self.machine.status() if self.machine is not None else None,
            port_mapping=mapping_status(statistics.port_mapping),
            quorum="" if is_meaningful(member.view) else NO_QUORUM,
            calls=status_of(member.calls, now),
            named_faults=[
                FaultStatus(fault.peer, fault.reason, fault.count, max(0.0, now - fault.last))
                for fault in self._driver.admission.named_faults.newest_first()
            ],
        )

    def alone(self, now: float) -> AloneStatus | None:
        """Return for how long this node is without those it trained with, if it is."""
        together, rounds = self._driver.member.view.together, self._rounds
        if together.since is None:
            return None
        seconds, waits = max(0.0, now - together.since), together.is_awaited
        ends = [row.finished_at for row in rounds.past.history if row.outcome == "averaged"][-PACE_ROUNDS:]
        pace = median([after - before for before, after in pairwise(ends)]) if len(ends) > 1 else 0.0
        missed = int(seconds / pace) if waits and pace > 0 else 0
        return AloneStatus(together.round, seconds, together.rounds, waits, missed)

    def _lonely(self, now: float) -> list[str]:
        found = self.alone(now)
        return [] if found is None else [alone_line(found, self._config)]

    def _charter(self) -> str:
        spec = self._rounds.spec
        return spec.charter if spec is not None else self._config.run.charter

    def _outside(self, now: float) -> list[str]:
        """Say so where the run has a roster and this node is not on it, or it contradicts itself."""
        return self._roster.problems(self._rounds.run, now)

    def _twins(self) -> list[str]:
        """Say so where a peer refuses us because it is linked with another node of our identity."""
        return [
            f"{short(target.peer)} is linked with another node of this identity; give this one its own with:"
            f" shoal init --force --home {typed(self._config.home)}"
            for target in self._driver.member.dial_plan.targets.values()
            if target.peer and target.state != "connected" and target.reason == SAME_IDENTITY
        ][:1]

    def _slow_line(self) -> list[str]:
        mbit = self._config.gossip.uplink_mbit or self._measured_mbit()
        advice = slow_line(self._rounds.spec, mbit, list(self._rounds.past.history))
        return [advice] if advice else []

    def _measured_mbit(self) -> float:
        return self._driver.member.group_search.uplink.rate * 8 / 1000

    def _engine_status(self) -> EngineStatus | None:
        engine = self._engine
        if engine is None:
            return None
        return EngineStatus(
            name=self._config.run.engine,
            addresses=list(engine.addresses),
            prefix=engine.prefix,
            strangers=engine.strangers,
            restarts=engine.restarts,
            pid=engine.pid,
        )

    def _phase(self) -> str:
        if self._rounds.is_held:
            return "paused"
        if self._config.run.task and self._rounds.spec is None:
            return "starting"
        return self._driver.member.phase.value

    def _run(self) -> RunStatus | None:
        spec = self._rounds.spec
        if spec is None:
            return None
        return RunStatus(
            spec.name,
            self._rounds.run.hex(),
            spec.method,
            spec.task,
            spec.rounds,
            spec.params_numel,
            dict(spec.options),
            spec.combine,
            spec.secure,
            spec.pinned_hash.hex(),
        )

    def _peer(self, peer: str, entry: Entry, statistics: HostStatistics, now: float) -> PeerStatus:
        _, link = statistics.links.get(entry.record.author, ("", "none"))
        sent, received = statistics.peer_bytes.get(entry.record.author, (0, 0))
        presence, near = entry.presence, self._driver.member.nearby.said_by(entry.record.author)
        return PeerStatus(
            peer=peer,
            address=dialled_at(entry.record.author, (*presence.addresses, *near), statistics),
            link=link,
            role="trainer" if presence.run else "helper",
            round=presence.round,
            state_hash=presence.state.hex()[:12],
            age_seconds=max(0.0, now - entry.heard),
            bytes_sent=sent,
            bytes_received=received,
            phase=presence.phase,
            run=presence.run.hex()[:12],
            run_name=presence.run_name,
        )

    def _home_words(self) -> str:
        """Return what a command needs so that it means this node."""
        is_default = self._config.home == default_home(os.environ).absolute()
        return "" if is_default else f" --home {typed(self._config.home)}"

    def _bootstrap(self, now: float) -> list[BootstrapStatus]:
        return [
            BootstrapStatus(
                target.address,
                target.state if target.state != "known" else "dialling",
                target.reason,
                target.attempts,
                max(0.0, target.due - now) if target.state == "failed" else 0.0,
            )
            for target in self._driver.member.dial_plan.targets.values()
            if target.source == "bootstrap"
        ]
