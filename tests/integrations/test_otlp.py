"""`shoal track --to otlp`: a node's rounds reach a collector of OpenTelemetry as spans and metrics."""

# what needs OpenTelemetry is imported once it is known to be there

import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

import msgspec
from fake_node import make_status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shoal.node.cli import main as cli
from shoal.node.errors import BadConfig
from shoal.node.status import CallPartStatus, CallsStatus, RoundStatus
from shoal.node.storage.database import KeptRound, Store
from shoal.node.storage.home import Home
from shoal.node.telemetry.otlp import OtlpTracker

RUN = "cd" * 32


class Collector:
    """Takes OTLP over HTTP, as the one of OpenTelemetry does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[Any] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(group.resource)
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
        else:
            assert path == "/v1/metrics"
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics |= {each.name: each for scope in group.scope_metrics for each in scope.metrics}

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def ended(number: int, **changes: object) -> RoundStatus:
    done = RoundStatus(number, "averaged", 5, 0.5, {"accuracy": 0.25}, 4.0, 2.0, 1.0, 1_000.0, "ab" * 6)
    return RoundStatus(**{name: getattr(done, name) for name in done.__struct_fields__} | changes)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "home")
    place.create()
    place.load_or_create_key()
    return place


def keep(place: Home, *rounds: RoundStatus) -> None:
    store = Store(place.database)
    for each in rounds:
        store.add_round(RUN, each)
    store.close()


def test_rounds_reach_a_collector_once(
    home: Home, collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()  # the store forgets what is older than its days
    failed = ended(1, outcome="failed", reason="too few", loss=math.nan, metrics={}, finished_at=now)
    keep(home, ended(0, finished_at=now, bytes_sent=30, bytes_received=40), failed)
    type_it = ["track", "--to", f"otlp:{collector.address}", "--once", "--home", str(home.path)]
    assert cli.main(type_it) == 0, capsys.readouterr()
    whole = [span for span in collector.spans if not span.parent_span_id]
    assert [span.name for span in whole] == ["round 0", "round 1"]
    assert [span.status.message for span in whole] == ["", "too few"]
    parts = [span for span in collector.spans if span.parent_span_id == whole[0].span_id]
    assert [span.name for span in parts] == ["work", "matchmaking", "exchange"]
    assert {span.trace_id for span in parts} == {whole[0].trace_id}
    assert whole[1].trace_id != whole[0].trace_id
    counted = {
        point.attributes[1].value.string_value: point.as_int
        for point in collector.metrics["shoal.bytes"].sum.data_points
    }
    assert counted == {"sent": 30, "received": 40}
    about = {each.key: each.value.string_value for each in collector.resources[0].attributes}
    assert about["service.name"] == "shoal"
    assert about["service.instance.id"] == home.peer_id()
    seen = len(collector.spans)
    assert cli.main(type_it) == 0
    assert len(collector.spans) == seen


def test_the_parts_of_a_round_follow_each_other_and_end_with_it(home: Home) -> None:
    spans = InMemorySpanExporter()
    tracker = OtlpTracker(home, spans, InMemoryMetricReader())
    tracker.write(KeptRound(1, RUN, ended(7)))
    tracker.flush()
    *parts, whole = spans.get_finished_spans()
    second = 1_000_000_000
    assert [(each.start_time // second, each.end_time // second) for each in parts] == [
        (993, 997),
        (997, 999),
        (999, 1000),
    ]
    assert (whole.start_time, whole.end_time) == (993 * second, 1000 * second)
    assert whole.attributes["shoal.metric.accuracy"] == 0.25
    tracker.close()


def test_the_spans_of_all_nodes_of_a_round_are_one_trace(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.create()
    other.load_or_create_key()
    traces = []
    for place in (home, other):
        spans = InMemorySpanExporter()
        tracker = OtlpTracker(place, spans, InMemoryMetricReader())
        tracker.write(KeptRound(1, RUN, ended(7)))
        tracker.flush()
        traces.append({each.context.trace_id for each in spans.get_finished_spans()})
        tracker.close()
    assert traces[0] == traces[1]
    assert len(traces[0]) == 1


def test_what_a_collector_does_not_take_is_sent_by_the_next_start(
    home: Home, monkeypatch: pytest.MonkeyPatch, collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refuses(InMemorySpanExporter):  # type: ignore[misc]  # OpenTelemetry's classes are unknown to mypy
        def export(self, spans: Any) -> Any:
            return SpanExportResult.FAILURE

    keep(home, ended(0, finished_at=time.time()))
    tracker = OtlpTracker(home, Refuses(), InMemoryMetricReader())
    type_it = ["track", "--to", f"otlp:{collector.address}", "--once", "--home", str(home.path)]
    with monkeypatch.context() as patched:
        patched.setattr("shoal.node.cli.trackers.tracker_of", lambda *_: tracker)
        assert cli.main(type_it) == 2
    assert "the collector took no spans" in capsys.readouterr().err
    assert cli.main(type_it) == 0
    assert [span.name for span in collector.spans if not span.parent_span_id] == ["round 0"]


def test_peers_and_calls_are_told_as_the_node_sees_them(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallsStatus(
        hosts={},
        per_second=1.0,
        waiting=2,
        unanswered=3,
        parts=[CallPartStatus("forward", "answer", 0.25), CallPartStatus("forward", "work", 0.125)],
    )
    told = msgspec.structs.replace(make_status(), calls=calls)
    monkeypatch.setattr("shoal.node.telemetry.otlp.fetch_status", lambda _: told)
    metrics = InMemoryMetricReader()
    tracker = OtlpTracker(home, InMemorySpanExporter(), metrics)
    tracker.flush()
    data = metrics.get_metrics_data()
    found = {
        each.name: {tuple(point.attributes.values()): point.value for point in each.data.data_points}
        for each in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert found["shoal.peers"][("direct",)] == sum(peer.link == "direct" for peer in told.peers) > 0
    assert found["shoal.call.duration"] == {("forward", "answer"): 0.25, ("forward", "work"): 0.125}
    assert (found["shoal.calls.waiting"], found["shoal.calls.unanswered"]) == ({(): 2.0}, {(): 3.0})
    tracker.close()


def test_a_collector_has_to_be_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.node.telemetry.otlp import VARIABLES, tracker_to

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadConfig, match=r"Write otlp:http://127\.0\.0\.1:4318"):
        tracker_to("", home)
