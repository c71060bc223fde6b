"""The proxy of a testnet: every connection to a node passes through it, late, slowly, or not at all.

    python -P -m shoal.node.testnet.network.proxy TESTNET_FOLDER

    dialler --connect--> announced port --> whose is it? --> course there --> listening port of the node
                                                        <-- course back <--

Nodes announce the proxy's ports instead of their own, so that nobody knows another way. The dialler is
found by the port the connection comes from: the system knows which process owns it. A connection between
two sides of a split stands still, and so do new ones, until the split is healed: as on a cut cable, nobody
is told.

It reads the folder's wires.json again whenever that changes, and writes what it has moved into
shaper.json. It ends when told to, or with the folder. Started as root or not; it binds loopback alone.
"""

import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import psutil
import trio

from shoal.node.testnet.network.link_model import Course, Egress, ShaperReport, write_report
from shoal.node.testnet.network.links import WIRES_NAME, Uncut, Wires, load_wires
from shoal.node.testnet.processes import NoTestnet, read_record

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
REPORT_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 5.0
WHOLE_BYTES: Final = 1 << 16
SLOW_BYTES: Final = 1 << 13
"""What is moved at once over a line of limited bandwidth: 3 ms at 20 Mbit/s."""
SLOW_BUFFER: Final = 1 << 16
"""What the system may take from a sender with such a line before it is held back. By itself it takes
megabytes, which no line does, and what is urgent would wait behind them."""
MAX_PIECES: Final = 256
"""On their way in one direction of a connection; then its sender waits."""
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Diallers:
    """Tells which node opened a connection."""

    def __init__(self, directory: Path, scan: "Callable[[Path], dict[int, int]] | None" = None) -> None:
        """`scan` returns node by local port; tests bring another."""
        self._directory = directory
        self._scan = scan or ports_of_nodes
        self._lock = trio.Lock()
        self._begun = self._done = 0
        self._found: dict[int, int] = {}

    async def of(self, port: int) -> int:
        """Return the node that owns this local port, 0 for none."""
        # A look that began before the connection came may have missed it; those who wait share the next.
        wanted = self._begun + 1
        while self._done < wanted:
            async with self._lock:
                if self._done < wanted:
                    self._begun += 1
                    self._found = await trio.to_thread.run_sync(self._scan, self._directory)
                    self._done = self._begun
        return self._found.get(port, 0)


def ports_of_nodes(directory: Path) -> dict[int, int]:
    """Return which node owns which local port, from what the system tells of the nodes' processes."""
    found: dict[int, int] = {}
    try:
        record = read_record(directory)
    except NoTestnet:
        return found
    for node in record.nodes:
        with suppress(psutil.Error):
            for connection in psutil.Process(node.pid).net_connections("tcp"):
                if connection.laddr:
                    found[connection.laddr.port] = node.index
    return found


class Proxy:
    """Moves bytes between nodes as the wires say."""

    def __init__(self, directory: Path, wires: Wires, diallers: Diallers, seed: int = 0) -> None:
        """`seed`: of jitter and losses."""
        self.wires = wires
        self._directory = directory
        self._diallers = diallers
        self._dice = Random(f"shaper {seed}")
        self._egress = {i: Egress(wires.link_of(i)) for i in range(len(wires.listen) + 1)}
        self._changed = trio.Event()
        self._sent: Counter[int] = Counter()
        self._connections = self._open = self._strangers = self._stalls = 0

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until the folder is gone.

        Raises:
            OSError: a port has been taken by somebody else.
        """
        async with trio.open_nursery() as nursery:
            for index, port in enumerate(self.wires.announce, 1):
                serve = partial(trio.serve_tcp, partial(self._serve, index), port, host="127.0.0.1")
                await nursery.start(serve)
            nursery.start_soon(self._report_often)
            task_status.started()
            await self._follow_wires()
            nursery.cancel_scope.cancel()

    def rewire(self, wires: Wires) -> None:
        """Go by other wires from now on."""
        self.wires = wires
        for index, egress in self._egress.items():
            egress.link = wires.link_of(index)
        self._changed.set()
        self._changed = trio.Event()

    async def _follow_wires(self) -> None:
        seen = 0
        while True:
            try:
                written = (self._directory / WIRES_NAME).stat().st_mtime_ns
                if written != seen:
                    seen = written
                    self.rewire(load_wires(self._directory))
            except (FileNotFoundError, Uncut):
                log.info("the testnet is gone")
                return
            await trio.sleep(POLL_SECONDS)

    # --- a connection -----------------------------------------------------------------------------

    async def _serve(self, index: int, near: trio.SocketStream) -> None:
        self._connections += 1
        self._open += 1
        try:
            await self._carry(index, near)
        finally:
            self._open -= 1

    async def _carry(self, index: int, near: trio.SocketStream) -> None:
        dialler = await self._diallers.of(near.socket.getpeername()[1])
        self._strangers += dialler == 0
        there = Course(self._egress[dialler], self._egress[index], self._dice)
        back = Course(self._egress[index], self._egress[dialler], self._dice)
        await self._wait_linked(dialler, index)
        # A connection takes a round trip to open; this one opened at once.
        await trio.sleep(there.round_trip())
        try:
            with trio.fail_after(CONNECT_SECONDS):
                far = await trio.open_tcp_stream("127.0.0.1", self.wires.listen[index - 1])
        except (OSError, trio.TooSlowError):
            return
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self._move, near, far, there, dialler, index)
            nursery.start_soon(self._move, far, near, back, index, dialler)
        self._stalls += there.stalls + back.stalls

    async def _move(
        self, source: trio.SocketStream, target: trio.SocketStream, course: Course, sender: int, receiver: int
    ) -> None:
        """Move what comes one way until it ends, then end it there too."""
        to_deliver, pieces = trio.open_memory_channel[tuple[float, bytes]](MAX_PIECES)
        is_slow = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, pieces, target, sender, receiver)
            async with to_deliver:
                while True:
                    egress = self._egress[sender]
                    if egress.link.bandwidth_mbit and not is_slow:
                        is_slow = True
                        source.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, SLOW_BUFFER)
                    await trio.sleep_until(egress.has_room_at(trio.current_time()))
                    piece = b""
                    with suppress(*_BROKEN):
                        piece = await source.receive_some(
                            SLOW_BYTES if egress.link.bandwidth_mbit else WHOLE_BYTES
                        )
                    self._sent[sender] += len(piece)
                    await to_deliver.send((course.arrival(len(piece), trio.current_time()), piece))
                    if not piece:
                        return

    async def _deliver(
        self,
        pieces: "trio.MemoryReceiveChannel[tuple[float, bytes]]",
        target: trio.SocketStream,
        sender: int,
        receiver: int,
    ) -> None:
        gone = False
        async for at, piece in pieces:
            await trio.sleep_until(at)
            await self._wait_linked(sender, receiver)
            if gone:
                continue  # the sender does not know yet, and must not be held up
            try:
                await (target.send_all(piece) if piece else target.send_eof())
            except _BROKEN:
                gone = True

    async def _wait_linked(self, one: int, other: int) -> None:
        while one and other and not self.wires.reaches(one, other):
            await self._changed.wait()

    # --- the report -------------------------------------------------------------------------------

    async def _report_often(self) -> None:
        while True:
            self.report()
            await trio.sleep(REPORT_SECONDS)

    def report(self) -> None:
        """Write what was moved so far."""
        report = ShaperReport(
            pid=psutil.Process().pid,
            connections=self._connections,
            open=self._open,
            strangers=self._strangers,
            stalls=self._stalls,
            sent_bytes=dict(sorted(self._sent.items())),
        )
        with suppress(FileNotFoundError):  # the testnet has been removed
            write_report(self._directory, report)


async def serve(directory: Path) -> None:
    """Be the proxy of a testnet until SIGTERM.

    Raises:
        Uncut: the folder holds no testnet.
        OSError: a port has been taken by somebody else.
    """
    wires = load_wires(directory)
    proxy = Proxy(directory, wires, Diallers(directory))
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as told:
            nursery.start_soon(_run_to_end, proxy, nursery.cancel_scope)
            async for _ in told:
                nursery.cancel_scope.cancel()
    proxy.report()


async def _run_to_end(proxy: Proxy, scope: trio.CancelScope) -> None:
    await proxy.run()
    scope.cancel()


def main() -> None:
    """Run the proxy of the folder that is named."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    trio.run(serve, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
