"""A node that only shows and obeys: the web app over a status made up by the test.

`FakeNode` serves the control socket of a home from a thread, as the daemon does from its own process, so that
commands, which block, can be run against it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import trio

from shoal.node.errors import UserError
from shoal.node.status import BootstrapStatus, MachineStatus, PeerStatus, RoundStatus, RunStatus, Status
from shoal.node.storage.home import Home
from shoal.node.web.past import Past
from shoal.node.web.server import make_app, serve_http

ME = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
OTHER = "12D3KooWGzMFEaSbHz9D5xkS1aQb1Yp5mWvVZCiYkFmGc2NBnB1u"
HOSTILE = "\x1b[2J<script>alert(1)</script>"
"""What a peer might send in the place of a name."""


def make_status(**changes: Any) -> Status:
    """Return the status of a node in the middle of a run."""
    status = Status(
        peer_id=ME,
        version="0.1.0",
        swarm="shoal",
        pid=1,
        uptime_seconds=61.5,
        addresses=[f"/ip4/192.0.2.7/tcp/4710/p2p/{ME}"],
        join_command=f"shoal start --join /ip4/192.0.2.7/tcp/4710/p2p/{ME}",
        role="trainer",
        phase="working",
        round=2,
        state_hash="aabbccddeeff",
        run=RunStatus(
            name="run",
            run_id="7d" * 32,
            method="fedavg",
            task="digits",
            rounds=40,
            parameters=8970,
            options={"lr": 0.1},
            combine="clip",
        ),
        loss=0.5,
        metrics={"accuracy": 0.75},
        peers=[
            PeerStatus(
                peer=OTHER,
                address="/ip4/192.0.2.9/tcp/4710",
                link="direct",
                role="trainer",
                round=2,
                state_hash="aabbccddeeff",
                age_seconds=0.5,
                bytes_sent=1_500_000,
                bytes_received=2_500,
            )
        ],
        bootstrap=[
            BootstrapStatus(
                address="/dns/old.example/tcp/4710",
                state="failed",
                reason="refused",
                attempts=6,
                next_try_seconds=12.0,
            )
        ],
        refusals=["2NBnB1u: lr: 0.1 here, 0.2 there"],
        problems=[],
        drops={"bad signature": 3},
        bytes_sent=1_000,
        bytes_received=2_000,
        history=[a_round(0, loss=1.0), a_round(1, loss=0.5)],
        trainer="running",
        rss_bytes=90_000_000,
        utilisation=0.75,
        work_seconds=30.0,
        training_seconds=40.0,
        page="http://127.0.0.1:4711",
        machine=MachineStatus(
            trainer_bytes=500_000_000,
            trainer_starts=1,
            disk_free_bytes=10**10,
            saved_bytes=35_880,
            saved_seconds=2.5,
        ),
    )
    return msgspec.structs.replace(status, **changes)


def a_round(number: int, *, loss: float = 0.5, work: float = 1.0) -> RoundStatus:
    """Return a round that ended well."""
    return RoundStatus(
        round=number,
        outcome="averaged",
        contributors=2,
        loss=loss,
        metrics={"accuracy": 0.75},
        work_seconds=work,
        matchmaking_seconds=0.25,
        exchange_seconds=0.125,
        finished_at=1_700_000_000.0 + number,
        state_hash="aabbccddeeff",
    )


@dataclass
class Obedient:
    """A control that writes down what it is told."""

    told: list[str] = field(default_factory=list)
    on_stop: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """See `shoal.node.web.server.Control`."""
        self.told.append("stop")
        self.on_stop()

    def reset_trust(self) -> None:
        """See `shoal.node.web.server.Control`."""
        self.told.append("reset trust")

    def pause(self, seconds: float | None) -> None:
        """See `shoal.node.web.server.Control`."""
        self.told.append(f"pause {seconds}")

    def resume(self) -> None:
        """See `shoal.node.web.server.Control`."""
        self.told.append("resume")

    def add_bootstrap(self, address: str) -> None:
        """See `shoal.node.web.server.Control`."""
        self.told.append(f"add {address}")

    def remove_bootstrap(self, address: str) -> None:
        """See `shoal.node.web.server.Control`."""
        if "unknown" in address:
            raise UserError(f"{address} is not dialled; see: shoal bootstrap list")
        self.told.append(f"rm {address}")


class FakeNode:
    """Holds a home and serves its control socket until it is told to stop, or the block ends."""

    def __init__(
        self, home: Path, status: Callable[[], Status], runtime: Path, past: Past | None = None
    ) -> None:
        """`runtime`: a runtime directory of the test's own; `past`: what it tells of what happened."""
        self.control = Obedient()
        self._home = Home(home)
        self._status, self._past = status, past
        self._environ = {"XDG_RUNTIME_DIR": str(runtime)}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self._end: Callable[[], None] = lambda: None

    async def _serve(self) -> None:
        token, scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        self._end = lambda: token.run_sync_soon(scope.cancel)
        self.control.on_stop = self._end
        with self._home.locked(self._environ), scope:
            path = self._home.new_socket("control", self._environ)
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    serve_http, make_app(self._status, self.control, past=self._past), f"unix:{path}"
                )
                self._ready.set()

    def __enter__(self) -> "FakeNode":
        """Start it, and wait until it listens."""
        self._home.load_or_create_key()
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, and wait until it has ended."""
        if self._thread.is_alive():
            self._end()
        self._thread.join()
