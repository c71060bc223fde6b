"""The web app, served for real on a Unix socket and on loopback."""

import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
import trio.testing
from fake_node import HOSTILE, Obedient, make_status
from prometheus_client.parser import text_string_to_metric_families

from shoal.node.daemon.round_log import RoundCounts
from shoal.node.errors import BadConfig, BadHome
from shoal.node.status import AloneStatus, PrivacyStatus, Status
from shoal.node.web.metrics import render
from shoal.node.web.server import is_ours, make_app, serve_http

Visit = Callable[[httpx.AsyncClient], Awaitable[None]]


def visiting(
    visit: Visit,
    status: Callable[[], Status] = make_status,
    control: Obedient | None = None,
    socket_: str = "",
) -> None:
    """Serve the app, let the test visit it, and end the server while connections are open."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            app = make_app(status, control)
            bind = f"unix:{socket_}" if socket_ else "127.0.0.1:0"
            address = await nursery.start(serve_http, app, bind)
            transport = httpx.AsyncHTTPTransport(uds=socket_ or None)
            base = "http://localhost" if socket_ else address
            async with httpx.AsyncClient(transport=transport, base_url=base, timeout=60) as client:
                await visit(client)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_status_travels_as_json_and_as_msgpack() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        as_json = await client.get("/status.json")
        as_msgpack = await client.get("/status.msgpack")
        assert msgspec.json.decode(as_json.content, type=Status) == make_status()
        assert msgspec.msgpack.decode(as_msgpack.content, type=Status) == make_status()
        assert as_json.headers["cache-control"] == "no-store"

    visiting(visit)


def test_a_loss_that_is_no_number_breaks_nothing() -> None:
    status = make_status(loss=float("nan"), metrics={"accuracy": float("inf")})

    async def visit(client: httpx.AsyncClient) -> None:
        assert (await client.get("/status.json")).json()["loss"] is None
        found = msgspec.msgpack.decode((await client.get("/status.msgpack")).content, type=Status)
        assert found.loss != found.loss
        assert "shoal_loss NaN" in (await client.get("/metrics")).text

    visiting(visit, lambda: status)


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_of_a_peer() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert (await client.get("/page.css")).headers["content-type"].startswith("text/css")
        assert re.findall("<script[^>]*>", page.text) == [
            '<script src="/vendor/uPlot.iife.min.js" defer>',
            '<script src="/page.js" type="module">',
        ]
        for name in ("vendor/uPlot.iife.min", "page", "dom", "charts", "swarm", "events"):
            script = await client.get(f"/{name}.js")
            assert script.headers["content-type"].startswith("text/javascript")
            # Text nodes only: no way from a peer's text to markup.
            assert not any(
                word in script.text for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(")
            )
            assert "http://" not in page.text + script.text.replace("http://www.w3.org/2000/svg", "")

    visiting(visit)


def test_health_follows_the_phase() -> None:
    phases = iter(["working", "stopping"])

    async def visit(client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/healthz")).status_code == 503

    visiting(visit, lambda: make_status(phase=next(phases)))


def test_over_tcp_nothing_can_be_commanded() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        for path in ("/stop", "/bootstrap"):
            assert (await client.post(path, content=b'{"add":"/ip4/192.0.2.1/tcp/1"}')).status_code == 404
        for path in ("/", "/status.json", "/metrics", "/healthz"):
            assert (await client.post(path)).status_code == 405

    visiting(visit)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4711", "", "127.0.0.1.evil.example", "localhost.evil"]
)
def test_a_page_that_points_its_own_name_at_us_reads_nothing(host: str) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        for path in ("/", "/status.json", "/history.json", "/events", "/metrics", "/nowhere"):
            answer = await client.get(path, headers={"host": host})
            assert answer.status_code == 421
            assert "peer_id" not in answer.text

    visiting(visit)


@pytest.mark.parametrize(
    ("header", "host", "ours"),
    [
        ("127.0.0.1:4711", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:1", "127.0.0.1", True),
        ("[::1]:4711", "::1", True),
        ("192.0.2.7:4711", "0.0.0.0", True),
        ("node.example:80", "node.example", True),
        ("node.example:80", "127.0.0.1", False),
        ("[evil]:80", "127.0.0.1", False),
    ],
)
def test_a_host_header_is_ours_where_no_dns_answer_can_bend_it(header: str, host: str, ours: bool) -> None:
    assert is_ours(header, host) is ours


def test_over_the_unix_socket_the_node_obeys(tmp_path: Path) -> None:
    control = Obedient()

    async def visit(client: httpx.AsyncClient) -> None:
        assert (await client.post("/bootstrap", json={"add": "/ip4/192.0.2.1/tcp/1"})).status_code == 200
        assert (await client.post("/bootstrap", json={"rm": "/ip4/192.0.2.1/tcp/1"})).status_code == 200
        refused = await client.post("/bootstrap", json={"rm": "unknown"})
        assert (refused.status_code, refused.text) == (
            409,
            "unknown is not dialled; see: shoal bootstrap list\n",
        )
        assert (await client.post("/stop")).status_code == 202
        assert (await client.get("/stop")).status_code == 405
        assert control.told == ["add /ip4/192.0.2.1/tcp/1", "rm /ip4/192.0.2.1/tcp/1", "stop"]

    visiting(visit, control=control, socket_=str(tmp_path / "control.sock"))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"add":1}', b'{"push":"x"}', b'{"add":"' + b"x" * 2000 + b'"}', b" " * 5000]
)
def test_a_malformed_command_is_refused_and_does_nothing(tmp_path: Path, body: bytes) -> None:
    control = Obedient()

    async def visit(client: httpx.AsyncClient) -> None:
        assert (await client.post("/bootstrap", content=body)).status_code == 400

    visiting(visit, control=control, socket_=str(tmp_path / "control.sock"))
    assert control.told == []


def test_the_unix_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def visit(client: httpx.AsyncClient) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    visiting(visit, socket_=str(path))
    assert not path.exists()


def test_a_port_in_use_is_one_line_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            BadConfig, match=f"port {port} on 127.0.0.1 is in use; choose another with --http-port"
        ):
            trio.run(serve_http, make_app(make_status, None), f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(BadConfig, match=r"set http\.host to an address of this machine"):
        trio.run(serve_http, make_app(make_status, None), f"{host}:0")


def test_a_socket_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadHome, match="cannot listen on"):
        trio.run(serve_http, make_app(make_status, None), f"unix:{tmp_path}/none/control.sock")


def test_the_end_waits_for_no_visitor_however_rude() -> None:
    async def main() -> None:
        huge = make_status(refusals=["x" * 30_000_000])
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            address = await nursery.start(serve_http, make_app(lambda: huge, None), "127.0.0.1:0")
            port = int(address.rsplit(":", 1)[1])
            for said in (b"", b"GET / HT", b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                await stream.send_all(said)
            # The greedy one: more than the buffers hold is on its way, and nobody reads on.
            received = 0
            while received < 1_000_000:
                received += len(await stream.receive_some(65536))
            nursery.cancel_scope.cancel()

    # Time stands still: if the end waited for a visitor, or for a timer, it would never come.
    trio.run(main, clock=trio.testing.MockClock())


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff" * 500,
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000,
        b"GET //..//..//etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
    ],
)
def test_no_bytes_of_a_visitor_end_the_server(said: bytes) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0)
        async with stream:
            # A connection that changed its protocol stays open until it has idled.
            with suppress(trio.BrokenResourceError), trio.move_on_after(0.2):
                await stream.send_all(said)
                await stream.send_eof()
                while await stream.receive_some(65536):
                    pass
        assert (await client.get("/healthz")).status_code == 200

    visiting(visit)


def test_prometheus_reads_every_metric() -> None:
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(render(make_status()).decode())
        for sample in family.samples
    }
    assert found["shoal_round",] == 2
    assert found["shoal_loss",] == 0.5
    assert found["shoal_metric", "accuracy"] == 0.75
    assert found["shoal_phase", "working"] == 1
    assert found["shoal_peers", "direct"] == 1
    assert found["shoal_bytes_total", "sent"] == 1_000
    assert found["shoal_bytes_total", "received"] == 2_000
    assert found["shoal_drops_total", "bad signature"] == 3
    assert found["shoal_bootstrap", "failed"] == 1
    assert found["shoal_recent_rounds", "averaged"] == 2
    assert found["shoal_round_seconds", "exchange", "last"] == 0.125
    assert found["shoal_round_seconds", "max", "work"] == 1.0
    assert found["shoal_contributors",] == 2
    assert found["shoal_utilisation_ratio",] == 0.75
    assert found["shoal_work_seconds_total",] == 30.0
    assert found["shoal_training_seconds_total",] == 40.0


@pytest.mark.parametrize(
    ("phase", "code"), [("working", 200), ("helping", 200), ("syncing", 503), ("starting", 503)]
)
def test_a_node_says_whether_it_is_ready(phase: str, code: int) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        answer = await client.get("/readyz")
        assert answer.status_code == code
        assert answer.text == f"{phase}\na full disk\n"

    visiting(visit, lambda: make_status(phase=phase, problems=["a full disk"]))


def test_the_parts_of_rounds_are_a_histogram() -> None:
    counts = RoundCounts()
    done = make_status().history[-1]
    for seconds in (0.05, 0.3, 3000.0):
        counts.add(msgspec.structs.replace(done, exchange_seconds=seconds))
    counts.add(msgspec.structs.replace(done, outcome="failed", exchange_seconds=1.0))
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(render(make_status(totals=counts.totals)).decode())
        for sample in family.samples
    }
    bucket = "shoal_round_part_seconds_bucket"
    assert [found[bucket, edge, "exchange"] for edge in ("0.05", "0.25", "0.5", "1800", "+Inf")] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert found["shoal_round_part_seconds_sum", "exchange"] == pytest.approx(3000.35)
    assert found["shoal_rounds_total", "averaged"] == 3
    assert found["shoal_rounds_total", "failed"] == 1
    assert found["shoal_rounds_total", "alone"] == 0


def test_metrics_of_a_helper_have_no_rounds_and_no_loss() -> None:
    status = make_status(run=None, loss=None, metrics={}, history=[], role="helper", utilisation=None)
    text = render(status).decode()
    assert "shoal_loss" not in text
    assert "shoal_utilisation" not in text
    assert "shoal_round_seconds" not in text
    assert 'role="helper"' in text


def test_what_there_is_none_of_is_a_zero_that_an_alarm_can_compare() -> None:
    status = make_status(peers=[], bootstrap=[], history=[])
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(render(status).decode())
        for sample in family.samples
    }
    assert found["shoal_peers", "direct"] == found["shoal_peers", "relayed"] == 0
    assert found["shoal_bootstrap", "connected"] == found["shoal_bootstrap", "failed"] == 0
    assert found["shoal_recent_rounds", "averaged"] == found["shoal_recent_rounds", "failed"] == 0
    assert (found["shoal_phase", "working"], found["shoal_phase", "finished"]) == (1, 0)


def test_a_hostile_reason_stays_one_label_of_one_line() -> None:
    status = make_status(drops={f'{HOSTILE}"}} 1\nshoal_round 99': 1})
    families = {family.name: family for family in text_string_to_metric_families(render(status).decode())}
    assert [sample.value for sample in families["shoal_round"].samples] == [2]
    assert len(families["shoal_drops"].samples) == 1


@pytest.mark.parametrize(
    ("alone", "rounds", "seconds"),
    [(None, 0, 0), (AloneStatus(31, 80.0, 0, True, 20), 20, 80), (AloneStatus(31, 80.0, 7, False, 0), 7, 80)],
)
def test_a_metric_tells_for_how_many_rounds_a_node_is_alone(
    alone: AloneStatus | None, rounds: int, seconds: int
) -> None:
    text = render(make_status(alone=alone)).decode()
    assert f"\nshoal_alone_rounds {rounds}.0\n" in text
    assert f"\nshoal_alone_seconds {seconds}.0\n" in text


def test_metrics_say_how_much_the_nodes_data_has_told() -> None:
    assert "shoal_privacy" not in render(make_status()).decode()
    text = render(make_status(privacy=PrivacyStatus("local", 1.0, 2.0, 2.6, 1e-5, 3.0, 12, True))).decode()
    for line in ("epsilon 2.6", "budget_epsilon 3.0", "delta 1e-05", "releases_total 12.0", "spent 1.0"):
        assert f"\nshoal_privacy_{line}\n" in text
