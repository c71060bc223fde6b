"""Metrics: a `Status` in the text format that Prometheus reads.

Everything is read off one status when it is asked for, into a registry of its own, so two nodes in one
process share nothing. Names end in their unit, counters in ``_total``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from shoal.node.status import (
    BOOTSTRAP_STATES,
    LINKS,
    OUTCOMES,
    PHASES,
    MachineStatus,
    PrivacyStatus,
    RoundStatus,
    RoundTotals,
    Status,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def counted(found: Iterable[str], labels: Iterable[str]) -> dict[str, int]:
    """Count what was found; what there might be and is not is 0, since an alarm needs a number."""
    return dict.fromkeys(labels, 0) | Counter(found)


def render(status: Status) -> bytes:
    """Return the metrics page of a status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Collector(Collector):
    status: Status

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield from _about(self.status)
        yield from _progress(self.status)
        yield from _network(self.status)
        if self.status.machine is not None:
            yield from _machine(self.status.machine, self.status.rss_bytes)
        yield from _rounds(self.status.history)
        yield from _totals(self.status.totals)
        if self.status.privacy is not None:
            yield from _privacy(self.status.privacy)


def _about(status: Status) -> Iterator[Metric]:
    about = {
        "peer_id": status.peer_id,
        "version": status.version,
        "swarm": status.swarm,
        "role": status.role,
    }
    if status.name:
        about["name"] = status.name
    if status.run is not None:
        about |= {"run_id": status.run.run_id, "method": status.run.method, "task": status.run.task}
    yield InfoMetricFamily("shoal_node", "What names this node.", value=about)
    yield GaugeMetricFamily("shoal_uptime_seconds", "Since the start.", value=status.uptime_seconds)
    yield GaugeMetricFamily("shoal_resident_memory_bytes", "Of the daemon.", value=status.rss_bytes)


def _progress(status: Status) -> Iterator[Metric]:
    yield GaugeMetricFamily("shoal_round", "Rounds that are done.", value=status.round)
    phase = GaugeMetricFamily("shoal_phase", "1 for what the node does now.", labels=["phase"])
    for name in dict.fromkeys((*PHASES, status.phase)):
        phase.add_metric([name], name == status.phase)
    yield phase
    found = status.alone
    text = "For which the node is without those it trained with; 0 in company, or where it never had any."
    yield GaugeMetricFamily("shoal_alone_seconds", text, value=found.seconds if found else 0.0)
    text = "Made without those it trained with, or missed while it waits for them."
    yield GaugeMetricFamily("shoal_alone_rounds", text, value=found.rounds + found.missed if found else 0)
    text = "What a person should see to; shoal status names each."
    yield GaugeMetricFamily("shoal_problems", text, value=len(status.problems))
    if status.loss is not None:
        yield GaugeMetricFamily("shoal_loss", "Training loss of the last round.", value=status.loss)
    if status.utilisation is not None:
        text = "Share of the time in which the trainer computes, since its first round ended."
        yield GaugeMetricFamily("shoal_utilisation_ratio", text, value=status.utilisation)
    work, training = status.work_seconds, status.training_seconds
    yield CounterMetricFamily("shoal_work_seconds", "The trainer computed for so long.", value=work)
    text = "The trainer computed or waited for so long."
    yield CounterMetricFamily("shoal_training_seconds", text, value=training)
    metric = GaugeMetricFamily(
        "shoal_metric", "What the task measured after the last round.", labels=["name"]
    )
    for name, value in status.metrics.items():
        metric.add_metric([name], value)
    yield metric


def _privacy(told: PrivacyStatus) -> Iterator[Metric]:
    text = "What this node's data has told at most, at the delta of its settings."
    yield GaugeMetricFamily("shoal_privacy_epsilon", text, value=told.epsilon)
    text = "At which the node gives nothing more; 0: no limit."
    yield GaugeMetricFamily("shoal_privacy_budget_epsilon", text, value=told.budget)
    yield GaugeMetricFamily("shoal_privacy_delta", "Of that epsilon.", value=told.delta)
    yield CounterMetricFamily("shoal_privacy_releases", "Noisy releases of its data.", value=told.releases)
    text = "1 where the budget is spent and the node only receives."
    yield GaugeMetricFamily("shoal_privacy_spent", text, value=int(told.is_spent))


def _totals(totals: RoundTotals) -> Iterator[Metric]:
    ended = CounterMetricFamily("shoal_rounds", "Rounds that ended since the start.", labels=["outcome"])
    for outcome in OUTCOMES:
        ended.add_metric([outcome], totals.outcomes.get(outcome, 0))
    yield ended
    spent = HistogramMetricFamily(
        "shoal_round_part_seconds", "Time per part of the rounds that made a state.", labels=["part"]
    )
    edges = [*(f"{bound:g}" for bound in totals.bounds), "+Inf"]
    for part, counts in totals.buckets.items():
        spent.add_metric([part], list(zip(edges, accumulate(counts), strict=True)), totals.seconds[part])
    yield spent


def _network(status: Status) -> Iterator[Metric]:
    peers = GaugeMetricFamily("shoal_peers", "Peers, by class of the link.", labels=["link"])
    for link, count in counted((peer.link for peer in status.peers), LINKS).items():
        peers.add_metric([link], count)
    yield peers
    moved = CounterMetricFamily("shoal_bytes", "Bytes on the wire, ciphertext and all.", labels=["direction"])
    moved.add_metric(["sent"], status.bytes_sent)
    moved.add_metric(["received"], status.bytes_received)
    yield moved
    text = "1 where nobody outside the local network can dial this node, as far as its router tells."
    is_unreachable = status.port_mapping is not None and status.port_mapping.is_unreachable
    yield GaugeMetricFamily("shoal_unreachable", text, value=int(is_unreachable))
    drops = CounterMetricFamily("shoal_drops", "What peers sent and we refused.", labels=["reason"])
    for reason, count in status.drops.items():
        drops.add_metric([reason], count)
    yield drops
    bootstrap = GaugeMetricFamily("shoal_bootstrap", "Bootstrap addresses, by state.", labels=["state"])
    for state, count in counted((address.state for address in status.bootstrap), BOOTSTRAP_STATES).items():
        bootstrap.add_metric([state], count)
    yield bootstrap


def _machine(found: MachineStatus, daemon: int) -> Iterator[Metric]:
    memory = GaugeMetricFamily("shoal_memory_bytes", "Of memory, by process.", labels=["process"])
    memory.add_metric(["daemon"], daemon)
    memory.add_metric(["trainer"], found.trainer_bytes)
    yield memory
    text = "Starts of the trainer since the node's start."
    yield CounterMetricFamily("shoal_trainer_starts", text, value=found.trainer_starts)
    text = "Free where states are kept."
    yield GaugeMetricFamily("shoal_disk_free_bytes", text, value=found.disk_free_bytes)
    text = "Of the last state that was saved since the start."
    yield GaugeMetricFamily("shoal_checkpoint_bytes", text, value=found.saved_bytes)
    if found.saved_seconds is not None:
        text = "Since a state was saved."
        yield GaugeMetricFamily("shoal_checkpoint_age_seconds", text, value=found.saved_seconds)


def _rounds(history: Sequence[RoundStatus]) -> Iterator[Metric]:
    outcomes = GaugeMetricFamily(
        "shoal_recent_rounds", "The last 200 rounds at most, by outcome.", labels=["outcome"]
    )
    for outcome, count in counted((done.outcome for done in history), OUTCOMES).items():
        outcomes.add_metric([outcome], count)
    yield outcomes
    if not history:
        return
    yield GaugeMetricFamily("shoal_contributors", "Peers in the last round.", value=history[-1].contributors)
    seconds = GaugeMetricFamily(
        "shoal_round_seconds",
        "Time per part of a round: of the last one, and median and maximum of the recent ones.",
        labels=["part", "of"],
    )
    for part in ("work", "matchmaking", "exchange"):
        spent = [float(getattr(done, f"{part}_seconds")) for done in history]
        seconds.add_metric([part, "last"], spent[-1])
        seconds.add_metric([part, "median"], median(spent))
        seconds.add_metric([part, "max"], max(spent))
    yield seconds
