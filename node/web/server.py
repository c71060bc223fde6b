"""Web: one node's status over HTTP, for people, scripts and Prometheus.

    GET  /              a page that follows the node
    GET  /status.json   the `Status`
    GET  /history.json  every round of the run, thinned to 2,000
    GET  /events        what happens, as it happens (server-sent events)
    GET  /metrics       the same for Prometheus
    GET  /healthz       200 while the node works
    GET  /readyz        200 while it can take part in a round, or help others with theirs
    POST /stop, /pause, /resume, /bootstrap, /roster, /refuse; GET /roster.msgpack, /invite.msgpack
                  only over the Unix socket, where `make_app` is given a `Control`

Over TCP the pages only show. Even so a web site could point a name of its own at 127.0.0.1 and read them
through a visitor's browser (DNS rebinding); so a request must name the node by address, as localhost, or
as it was configured. Reference: "Protecting Browsers from DNS Rebinding Attacks", Jackson et al., CCS 2007,
https://doi.org/10.1145/1315245.1315298.
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.roster import Word
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.admission.tokens import Token
from shoal.node.errors import BadConfig, BadHome, UserError
from shoal.node.roster_status import RosterStatus
from shoal.node.status import UNREADY, Status
from shoal.node.web import metrics
from shoal.node.web.past import Past, past_routes
from shoal.node.web.visitor import Visitor

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 64 << 10
IDLE: Final = 5.0
"""Seconds for which a connection may have no request."""
UNHEALTHY: Final = ("stopping",)
"""Phases in which /healthz says no."""

_PAGE_DIR: Final = Path(__file__).with_name("page")
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
_FILES: Final = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "dom.js": "text/javascript",
    "charts.js": "text/javascript",
    "swarm.js": "text/javascript",
    "events.js": "text/javascript",
    "vendor/uPlot.iife.min.js": "text/javascript",
    "vendor/uPlot.min.css": "text/css",
}
Endpoint = Callable[[Request], Awaitable[Response]]


class Control(Protocol):
    """What a node does when told. Nothing blocks; a `UserError` goes back to whoever asked."""

    def stop(self) -> None:
        """Begin to leave and end."""
        ...

    def reset_trust(self) -> None:
        """Forget whom the node knows in its run, and what it refused."""
        ...

    def pause(self, seconds: float | None) -> None:
        """Train no more for so long, and help on; None: until told to."""
        ...

    def resume(self) -> None:
        """Train again."""
        ...

    def add_bootstrap(self, address: str) -> None:
        """Dial an address, now and whenever the link is gone."""
        ...

    def remove_bootstrap(self, address: str) -> None:
        """Dial an address no more.

        Raises:
            UserError: it was not dialled.
        """
        ...


class Door(Protocol):
    """What a node does about who takes part in its run. Nothing blocks; a `UserError` goes back."""

    def roster(self) -> RosterStatus:
        """Return who takes part in the run."""
        ...

    def add_words(self, words: tuple[Word, ...]) -> None:
        """Put what founders signed on the roster, and tell the peers.

        Raises:
            UserError: they do not count.
        """
        ...

    def refuse(self, peer: str, until: float) -> None:
        """Have no link to a peer until a time."""
        ...

    def invite(self) -> Token:
        """Return an invite to the run, without a grant.

        Raises:
            UserError: there is no run yet, or nobody reaches this node.
        """
        ...


class RosterWords(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /roster."""

    edicts: Annotated[tuple[Edict, ...], msgspec.Meta(max_length=64)] = ()
    rotations: Annotated[tuple[Rotation, ...], msgspec.Meta(max_length=64)] = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /refuse."""

    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    until: float
    """By the wall clock; a time that is past ends the refusal."""


class Pause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /pause."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    """None: until POST /resume."""


class BootstrapChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /bootstrap."""

    add: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """A multiaddr to dial from now on."""
    rm: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """A multiaddr to dial no more."""


def make_app(
    status: Callable[[], Status],
    control: Control | None,
    *,
    door: Door | None = None,
    past: Past | None = None,
    host: str = "127.0.0.1",
) -> Starlette:
    """Return the app: with `control` and `door` for the Unix socket, without them for TCP on `host`."""
    routes = [
        Route("/" if name == "page.html" else f"/{name}", _file(name, f"{media_type}; charset=utf-8"))
        for name, media_type in _FILES.items()
    ]
    routes += _showing(status)
    if past is not None:
        routes += past_routes(past)
    if control is not None:
        routes += _telling(control)
    if door is not None:
        routes += _admitting(door)
    app = Starlette(routes=routes)
    app.add_middleware(_Guard, host=None if control is not None else host)
    return app


def _file(name: str, media_type: str) -> Endpoint:
    content = (_PAGE_DIR / name).read_bytes()

    async def page(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return page


def _showing(status: Callable[[], Status]) -> list[Route]:
    async def status_json(request: Request) -> Response:
        return Response(msgspec.json.encode(status()), media_type="application/json")

    async def status_msgpack(request: Request) -> Response:
        # For our own commands: JSON has no NaN, and a diverged model's loss is one.
        return Response(msgspec.msgpack.encode(status()), media_type="application/vnd.msgpack")

    async def metrics_page(request: Request) -> Response:
        return Response(metrics.render(status()), media_type=metrics.CONTENT_TYPE)

    async def healthz(request: Request) -> Response:
        phase = status().phase
        return PlainTextResponse(phase + "\n", status_code=503 if phase in UNHEALTHY else 200)

    async def readyz(request: Request) -> Response:
        found = status()
        text = found.phase + "".join(f"\n{line}" for line in found.problems)
        return PlainTextResponse(text + "\n", status_code=503 if found.phase in UNREADY else 200)

    return [
        Route("/status.json", status_json),
        Route("/status.msgpack", status_msgpack),
        Route("/metrics", metrics_page),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]


def _telling(control: Control) -> list[Route]:
    async def begin_to_stop() -> None:
        control.stop()

    async def stop(request: Request) -> Response:
        # After the answer: the end of the node cuts every connection, this one too.
        return PlainTextResponse("stopping\n", status_code=202, background=BackgroundTask(begin_to_stop))

    async def bootstrap(request: Request) -> Response:
        try:
            change = msgspec.json.decode(await _body(request), type=BootstrapChange)
            if change.add:
                control.add_bootstrap(change.add)
            if change.rm:
                control.remove_bootstrap(change.rm)
        except msgspec.MsgspecError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", status_code=409)
        return PlainTextResponse("done\n")

    async def pause(request: Request) -> Response:
        try:
            control.pause(msgspec.json.decode(await _body(request), type=Pause).seconds)
        except msgspec.MsgspecError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        return PlainTextResponse("done\n")

    async def resume(request: Request) -> Response:
        control.resume()
        return PlainTextResponse("done\n")

    async def reset_trust(request: Request) -> Response:
        control.reset_trust()
        return PlainTextResponse("done\n")

    return [
        Route("/stop", stop, methods=["POST"]),
        Route("/bootstrap", bootstrap, methods=["POST"]),
        Route("/pause", pause, methods=["POST"]),
        Route("/resume", resume, methods=["POST"]),
        Route("/trust/reset", reset_trust, methods=["POST"]),
    ]


def _admitting(door: Door) -> list[Route]:
    async def roster(request: Request) -> Response:
        return Response(msgspec.msgpack.encode(door.roster()), media_type="application/vnd.msgpack")

    async def invite(request: Request) -> Response:
        try:
            return Response(msgspec.msgpack.encode(door.invite()), media_type="application/vnd.msgpack")
        except UserError as error:
            return PlainTextResponse(f"{error}\n", status_code=409)

    async def tell(request: Request, act: Callable[[bytes], None]) -> Response:
        try:
            act(await _body(request))
        except msgspec.MsgspecError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        except (UserError, OSError) as error:
            return PlainTextResponse(f"{error}\n", status_code=409)
        return PlainTextResponse("done\n")

    async def add(request: Request) -> Response:
        def act(body: bytes) -> None:
            told = msgspec.msgpack.decode(body, type=RosterWords)
            door.add_words((*told.edicts, *told.rotations))

        return await tell(request, act)

    async def refuse(request: Request) -> Response:
        def act(body: bytes) -> None:
            told = msgspec.msgpack.decode(body, type=Refusal)
            door.refuse(told.peer, told.until)

        return await tell(request, act)

    return [
        Route("/roster.msgpack", roster),
        Route("/invite.msgpack", invite),
        Route("/roster", add, methods=["POST"]),
        Route("/refuse", refuse, methods=["POST"]),
    ]


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise msgspec.DecodeError(f"a body of more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class _Guard:
    """Checks whom a request is meant for, and adds the headers that keep a browser strict."""

    def __init__(self, app: ASGIApp, host: str | None) -> None:
        """`host`: the configured address; None where only our user can connect."""
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.types.ASGIApp`."""

        async def send_strict(message: Mapping[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}  # type: ignore[misc]
            await send(dict(message))

        if scope["type"] == "http" and self._host is not None:
            named = dict(scope["headers"]).get(b"host", b"").decode("latin1")
            if not is_ours(named, self._host):
                refusal = PlainTextResponse(
                    "this node answers to its address or to localhost only\n", status_code=421
                )
                await refusal(scope, receive, send_strict)
                return
        await self._app(scope, receive, send_strict if scope["type"] == "http" else send)


def is_ours(header: str, host: str) -> bool:
    """Tell whether a Host header names this node in a way that no DNS answer can bend."""
    name = header.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def serve_http(
    app: Starlette, bind: str, *, task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve on ``unix:PATH`` or ``HOST:PORT`` until cancelled; started with the address to connect to.

    Raises:
        BadConfig: the port is in use, or the address is not ours.
        BadHome: the Unix socket cannot be made.
    """
    listener, address = _listen_unix(bind[5:]) if bind.startswith("unix:") else _listen_tcp(bind)
    config = Config()
    # A connection without a whole request ends after `keep_alive_timeout`. One that listens to events says
    # nothing for hours.
    config.read_timeout = None
    config.keep_alive_timeout = IDLE
    config.include_server_header = False
    config.errorlog = log
    wrapped = ASGIWrapper(app)  # type: ignore[arg-type]  # both mean ASGI, in types of their own
    visitors: set[trio.SocketStream] = set()

    async def serve(stream: trio.SocketStream) -> None:
        visitors.add(stream)
        try:
            await TCPServer(wrapped, config, WorkerContext(None), ConnectionState({}), Visitor(stream))  # type: ignore[arg-type]  # a plain stream is served too
        except Exception:  # the boundary: no visitor's bytes may end the node
            log.warning("a connection to the page failed", exc_info=True)
        finally:
            visitors.discard(stream)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_at_the_end, visitors)
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            task_status.started(address)
    finally:
        listener.close()
        if bind.startswith("unix:"):
            Path(bind[5:]).unlink(missing_ok=True)


async def _close_at_the_end(visitors: set[trio.SocketStream]) -> None:
    """Close every connection when cancelled.

    The server shields what it sends from cancellation: a visitor who asks and does not read would keep the
    node from ending.
    """
    try:
        await trio.sleep_forever()
    finally:
        for stream in visitors:
            stream.socket.close()


def _listen_unix(path: str) -> tuple[trio.socket.SocketType, str]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise BadHome(f"cannot listen on {path}: {error.strerror}; choose another --home") from None
    return trio.socket.from_stdlib_socket(listener), f"unix:{path}"


def _listen_tcp(bind: str) -> tuple[trio.socket.SocketType, str]:
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BadConfig(
                f"port {port} on {host} is in use; choose another with --http-port, or 0 for any free one"
            ) from None
        raise BadConfig(
            f"cannot serve on {bind}: {error.strerror or error}; set http.host to an address of this machine"
        ) from None
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return trio.socket.from_stdlib_socket(listener), f"http://{shown}:{listener.getsockname()[1]}"
