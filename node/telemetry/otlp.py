"""OTLP: a node's rounds as spans and metrics of OpenTelemetry, for `shoal track --to otlp:ADDRESS`.

    round 41                 one trace per round of a run, with a span of every node that is tracked
      work                   until the trainer asked
      matchmaking            until there was a group
      exchange               until there was a mean

The trace id is a hash of run and round, so the nodes of a swarm meet in one trace without a word. Metrics:
`shoal.rounds`, `shoal.round.part`, `shoal.bytes`, `shoal.loss`, `shoal.contributors` and `shoal.metric` by
round; `shoal.peers`, `shoal.memory` and those of calls (`shoal.call.duration`, `shoal.calls.waiting`,
`shoal.calls.unanswered`) as the node tells them at that time. It keeps no single call, so there is no span
of one. Specification: https://opentelemetry.io/docs/specs/otel/.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from importlib.metadata import version
from os import environ
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import StatusCode, set_span_in_context

from shoal.node.errors import BadConfig, NotRunning, Refused
from shoal.node.status import Status
from shoal.node.storage.database import KeptRound
from shoal.node.storage.home import Home
from shoal.node.web.client import fetch_status

VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""By which the collector is named where the command line does not."""
BATCH: Final = 512
"""Spans of one request."""
NANO: Final = 1_000_000_000
SECONDS: Final = {"unit": "s"}


def tracker_to(address: str, home: Home) -> "OtlpTracker":
    """Return a tracker that sends to a collector. `address`: its URL; empty: that of the environment.

    Raises:
        BadConfig: nobody says where the collector is.
    """
    if not address and not any(name in environ for name in VARIABLES):
        raise BadConfig(f"where is the collector? Write otlp:http://127.0.0.1:4318, or set {VARIABLES[0]}")
    base = address.rstrip("/")
    # None: they read the environment, where one may be named for each.
    spans = OTLPSpanExporter(f"{base}/v1/traces" if base else None)
    metrics = OTLPMetricExporter(f"{base}/v1/metrics" if base else None)
    # Without an interval it sends when it is told to.
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=math.inf)
    return OtlpTracker(home, spans, reader)


class OtlpTracker:
    """Takes rounds, oldest first. See `shoal.node.cli.trackers.Tracker`."""

    def __init__(self, home: Home, spans: SpanExporter, metrics: MetricReader) -> None:
        """`spans`, `metrics`: where they go."""
        self._home = home
        self._status: Status | None = None
        self._ids = _RoundIds()
        self._kept = _Kept(spans)
        about = Resource.create(
            {
                "service.name": "shoal",
                "service.version": version("shoal"),
                "service.instance.id": str(home.peer_id()),
            }
        )
        self._traces = TracerProvider(resource=about, id_generator=self._ids)
        self._traces.add_span_processor(self._kept)
        self._tracer = self._traces.get_tracer("shoal")
        self._meters = MeterProvider([metrics], resource=about)
        meter = self._meters.get_meter("shoal")
        self._rounds = meter.create_counter("shoal.rounds", description="Rounds that ended, by outcome.")
        self._parts = meter.create_histogram("shoal.round.part", **SECONDS, description="Time in a part.")
        self._bytes = meter.create_counter("shoal.bytes", "By", "Bytes on all links, by direction.")
        self._figures = {
            name: meter.create_gauge(f"shoal.{name}") for name in ("round", "contributors", "loss", "metric")
        }
        for name, look in _OF_STATUS.items():
            meter.create_observable_gauge(f"shoal.{name}", callbacks=[self._observe(look)])

    def write(self, kept: KeptRound) -> None:
        """Make spans of a round, and count it."""
        done = kept.round
        run = {"shoal.run": kept.run_id}
        parts = _parts(kept)
        end = int(done.finished_at * NANO)
        at = end - int(sum(parts.values()) * NANO)
        self._ids.trace = _hash(f"{kept.run_id} {done.round}", 16)
        span = self._tracer.start_span(f"round {done.round}", start_time=at, attributes=_attributes(kept))
        if done.outcome == "failed":
            span.set_status(StatusCode.ERROR, done.reason)
        inside = set_span_in_context(span)
        for part, seconds in parts.items():
            child = self._tracer.start_span(part, inside, start_time=at, attributes=run)
            at += int(seconds * NANO)
            child.end(at)
            self._parts.record(seconds, {**run, "part": part})
        span.end(end)
        self._rounds.add(1, {**run, "outcome": done.outcome})
        self._bytes.add(done.bytes_sent, {**run, "direction": "sent"})
        self._bytes.add(done.bytes_received, {**run, "direction": "received"})
        self._figures["round"].set(done.round, run)
        self._figures["contributors"].set(done.contributors, run)
        if math.isfinite(done.loss):
            self._figures["loss"].set(done.loss, run)
        for name, value in done.metrics.items():
            if math.isfinite(value):
                self._figures["metric"].set(value, {**run, "name": name})

    def flush(self) -> None:
        """Send what was made.

        Raises:
            BadConfig: the collector did not take it; the next start sends it again.
        """
        if not self._kept.send():
            raise BadConfig(
                "the collector took no spans: see that it listens, by OTLP over HTTP; nothing is lost, type"
                " the same again"
            )
        try:
            self._status = fetch_status(self._home.path)
        except (NotRunning, Refused):
            self._status = None  # its rounds may be read when it does not run
        self._meters.force_flush()

    def close(self) -> None:
        """See `shoal.node.cli.trackers.Tracker`."""
        self._traces.shutdown()
        self._meters.shutdown()

    def _observe(
        self, look: "Callable[[Status], Iterable[tuple[float, Mapping[str, str]]]]"
    ) -> "Callable[[CallbackOptions], list[Observation]]":
        def observed(_: CallbackOptions) -> list[Observation]:
            status = self._status
            return [Observation(*each) for each in look(status)] if status is not None else []

        return observed


def _hash(text: str, n_bytes: int) -> int:
    """Return an id that is not 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=n_bytes, person=b"shoal/otlp").digest()) or 1


def _parts(kept: KeptRound) -> dict[str, float]:
    """Return the seconds of the parts of a round, in their order."""
    done = kept.round
    found = {
        "work": done.work_seconds,
        "matchmaking": done.matchmaking_seconds,
        "exchange": done.exchange_seconds,
    }
    return {name: max(0.0, value) for name, value in found.items() if math.isfinite(value)}


def _attributes(kept: KeptRound) -> dict[str, Any]:
    done = kept.round
    found: dict[str, Any] = {
        "shoal.run": kept.run_id,
        "shoal.round": done.round,
        "shoal.outcome": done.outcome,
        "shoal.contributors": done.contributors,
        "shoal.state_hash": done.state_hash,
        "shoal.bytes_sent": done.bytes_sent,
        "shoal.bytes_received": done.bytes_received,
        "shoal.members": done.members,
    }
    numbers = {"loss": done.loss, **{f"metric.{name}": value for name, value in done.metrics.items()}}
    return found | {f"shoal.{name}": value for name, value in numbers.items() if math.isfinite(value)}


def _peers(status: Status) -> Iterator[tuple[float, Mapping[str, str]]]:
    for link in ("direct", "relayed"):
        yield float(sum(peer.link == link for peer in status.peers)), {"link": link}


def _memory(status: Status) -> Iterator[tuple[float, Mapping[str, str]]]:
    yield float(status.rss_bytes), {"process": "daemon"}


def _waiting(status: Status) -> Iterator[tuple[float, Mapping[str, str]]]:
    if status.calls is not None:
        yield float(status.calls.waiting), {}


def _unanswered(status: Status) -> Iterator[tuple[float, Mapping[str, str]]]:
    if status.calls is not None:
        yield float(status.calls.unanswered), {}


def _durations(status: Status) -> Iterator[tuple[float, Mapping[str, str]]]:
    for each in status.calls.parts if status.calls is not None else ():
        yield each.seconds, {"verb": each.verb, "part": each.part}


_OF_STATUS: Final[Mapping[str, Callable[[Status], Iterator[tuple[float, Mapping[str, str]]]]]] = {
    "peers": _peers,
    "memory": _memory,
    "calls.waiting": _waiting,
    "calls.unanswered": _unanswered,
    "call.duration": _durations,
}


class _RoundIds(RandomIdGenerator):  # type: ignore[misc]  # OpenTelemetry's classes are unknown to mypy
    """Gives the spans of a round of a run the same trace on all nodes."""

    trace = 1

    def generate_trace_id(self) -> int:
        """Return that of the round at hand."""
        return self.trace


class _Kept(SpanProcessor):  # type: ignore[misc]  # OpenTelemetry's classes are unknown to mypy
    """Keeps spans until they are sent, and knows whether they were taken; the batching one does not tell."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        self._spans.append(span)

    def send(self) -> bool:
        """Send what is kept; returns whether all was taken."""
        while self._spans:
            if self._exporter.export(self._spans[:BATCH]) is not SpanExportResult.SUCCESS:
                return False
            del self._spans[:BATCH]
        return True

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()
