"""The hivemind process of a node: takes orders from the daemon, and gives them to peer.py.

    python -P -m shoal.node.hivemind_engine.process --line FD --memory FD --spec JSON        (ipc.py)

A process of its own, because hivemind and py-libp2p cannot both be imported into one interpreter. It leads
a process group, in which hivemind's own processes are too: they end with it, however it ends. When the
daemon is gone, so is the line, and all of the group.
"""

import argparse
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final

import msgspec

from shoal.node.framing import Message, frame, read_frame
from shoal.node.hivemind_engine.ipc import (
    BEAT,
    Average,
    Beat,
    Broken,
    EngineSpec,
    Meet,
    Up,
    map_memory,
    to_engine,
)
from shoal.node.text import log_to_stderr

log = logging.getLogger(__name__)

FAILED: Final = 3
"""Exit code of a process that cannot go on."""
CLOSING: Final = 4.0
"""Seconds for hivemind's processes to end by themselves."""


def main(arguments: list[str] | None = None) -> int:
    """Serve one daemon; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -P -m shoal.node.hivemind_engine.process", description="A node's hivemind."
    )
    parser.add_argument("--line", type=int, required=True, help="the socket to the daemon")
    parser.add_argument("--memory", type=int, required=True, help="the shared memory")
    parser.add_argument("--spec", required=True, help="an EngineSpec as JSON")
    given = parser.parse_args(arguments)
    log_to_stderr(logging.INFO, "%(asctime)s hivemind %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = msgspec.json.decode(given.spec, type=EngineSpec)
    line = _Line(given.line)
    try:
        import torch

        from shoal.node.hivemind_engine.peer import HivemindPeer

        torch.set_num_threads(1)
        peer = HivemindPeer(spec, map_memory(given.memory, spec.numel))
    except Exception as error:  # noqa: BLE001  # a foreign library that does not load or start, and why
        line.send(Broken(text=_why(error)))
        return FAILED
    return _Server(line, peer).run()


def _why(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, ImportError):
        return f"cannot import hivemind ({text}): install it with pip install -e '.[hivemind]'"[:4000]
    return f"hivemind does not start: {text}"[:4000]


class _Line:
    """The engine's end of the line; several threads send."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        # hivemind's processes are forked off this one and must not keep the line open after its end.
        os.register_at_fork(after_in_child=self._socket.close)
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            self._socket.sendall(frame(message))

    def receive(self) -> Any:
        """Wait for an order.

        Raises:
            EOFError: the daemon is gone.
        """
        return to_engine.decode(read_frame(self._socket))


class _Server:
    """Orders in, answers out. Three threads: one averages, one listens, one looks whether all live."""

    def __init__(self, line: _Line, peer: Any) -> None:
        self._line, self._peer = line, peer
        self._orders: queue.SimpleQueue[Average] = queue.SimpleQueue()
        self._meetings: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> int:
        for work in (self._listen, self._beat, self._meet):
            threading.Thread(target=work, daemon=True).start()
        self._line.send(Up(addresses=self._peer.addresses()))
        while True:
            answer = self._peer.average(self._orders.get())
            with suppress(OSError):  # the listener sees the end of the line too, and ends the process
                self._line.send(answer)

    def _listen(self) -> None:
        try:
            while True:
                match self._line.receive():
                    case Average() as order:
                        self._orders.put(order)
                    case Meet(addresses=addresses):
                        for address in addresses:
                            self._meetings.put(address)
        except (OSError, EOFError, msgspec.MsgspecError):
            self._end(0)

    def _meet(self) -> None:
        while True:
            address = self._meetings.get()
            if not self._peer.meet(address):
                log.info("no hivemind peer answers at %s", address)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            failure = self._peer.failure()
            try:
                self._line.send(Broken(text=failure) if failure else Beat())
            except OSError:
                return
            if failure:
                self._end(FAILED)

    def _end(self, code: int) -> None:
        """End this process and all that hivemind has started, politely first."""
        closing = threading.Thread(target=self._peer.close, daemon=True)
        closing.start()
        closing.join(CLOSING)
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
