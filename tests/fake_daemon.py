"""A daemon without a network: trainers attach to its socket, and it averages whoever asks.

It runs in a thread of the test, speaks node/trainer/ipc.py, and keeps what it heard.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.node.framing import Message, frame, frame_length
from shoal.node.trainer import ipc

Vector = npt.NDArray[np.float32]
Answer = Callable[["Attached", ipc.AskAllReduce], Message]


@dataclass
class Attached:
    """A trainer, as the daemon sees it."""

    connection: socket.socket
    attach: ipc.Attach
    segment: ipc.Segment
    slot: int = 0
    round: int = 0
    heard: list[Any] = field(default_factory=list)

    @property
    def vector(self) -> Vector:
        """The shared state, now."""
        return self.segment.slots[self.slot]

    def send(self, message: Message) -> None:
        """Say something."""
        self.connection.sendall(frame(message))

    def receive(self) -> Any:
        """Wait for what the trainer says next, but for problems; None at the end of the line."""
        message = self._receive()
        while isinstance(message, ipc.Problem):
            message = self._receive()
        return message

    def _receive(self) -> Any:
        prefix = _read(self.connection, 4)
        if prefix is None:
            return None
        body = _read(self.connection, frame_length(prefix))
        assert body is not None
        message = ipc.from_trainer.decode(body)
        self.heard.append(message)
        return message

    def begin(self) -> None:
        """Begin a round, as the daemon does: flags first."""
        self.segment.flags[:] = 0
        self.send(ipc.Begin(round=self.round, slot=self.slot))


class FakeDaemon:
    """Listens for trainers."""

    def __init__(self, path: Path) -> None:
        """`path`: the trainer socket."""
        self.path = path
        self.trainers: list[Attached] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(250)

    def accept(self) -> socket.socket:
        """Wait for a trainer to connect."""
        connection, _ = self._listener.accept()
        connection.settimeout(250)
        return connection

    def attach(self, *, restored: Vector | None = None, round_: int = 0) -> Attached:
        """Take the next trainer on, from `restored` where given."""
        connection = self.accept()
        data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
        while len(data) < 4 or len(data) - 4 < frame_length(data[:4]):
            data += connection.recv(1 << 16)
        message = ipc.from_trainer.decode(data[4:])
        assert isinstance(message, ipc.Attach), message
        (fd,) = fds
        segment = ipc.Segment.attach(fd, message.spec.state_numel, message.exchange_numel)
        socket.close(fd)
        trainer = Attached(connection, message, segment, round=round_)
        if restored is not None:
            segment.slots[0][:] = restored
        trainer.send(ipc.Attached(round=round_, slot=0, restored=restored is not None))
        self.trainers.append(trainer)
        return trainer

    def run_rounds(self, trainers: Sequence[Attached], rounds: int) -> None:
        """Begin on all, average their asks, and take the new states, round after round."""
        for _ in range(rounds):
            for trainer in trainers:
                trainer.begin()
            waiting = list(trainers)
            while waiting:
                messages = [(trainer, trainer.receive()) for trainer in waiting]
                asks = [(t, m) for t, m in messages if isinstance(m, ipc.AskAllReduce)]
                for trainer, message in messages:
                    if isinstance(message, ipc.Finished):
                        trainer.slot, trainer.round = message.slot, trainer.round + 1
                _average(asks)
                waiting = [trainer for trainer, _ in asks]

    def close(self) -> None:
        """Close all lines."""
        for trainer in self.trainers:
            trainer.connection.close()
        self._listener.close()


def in_thread(work: Callable[[], None]) -> "Background":
    """Run the daemon's part beside the test."""
    return Background(work)


class Background:
    """A thread whose failure fails the test that joins it."""

    def __init__(self, work: Callable[[], None]) -> None:
        """`work` starts at once."""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(250)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # handed on by join
            self._error = error


class Beside:
    """A swarm of one: a fake daemon that runs rounds as long as it is asked."""

    def __init__(self, daemon: FakeDaemon) -> None:
        """Take the next trainer on."""
        self.trainer: Attached | None = None
        self._serving: Background = in_thread(lambda: self._serve(daemon))

    def _serve(self, daemon: FakeDaemon) -> None:
        one = self.trainer = daemon.attach()
        one.begin()
        while (message := one.receive()) is not None:
            if isinstance(message, ipc.AskAllReduce):
                one.send(ipc.Averaged(contributors=("me",)))
                continue
            if isinstance(message, ipc.Finished):
                one.slot, one.round = message.slot, one.round + 1
            one.begin()

    def end(self) -> list[Any]:
        """Return what was heard, once the loop has left."""
        self._serving.join()
        assert self.trainer is not None
        return self.trainer.heard

    def finished(self) -> list[ipc.Finished]:
        """Return the rounds that ended in a state."""
        return [message for message in self.end() if isinstance(message, ipc.Finished)]


def _average(asks: list[tuple[Attached, ipc.AskAllReduce]]) -> None:
    if not asks:
        return
    total = sum(ask.weight for _, ask in asks)
    mean = sum(ask.weight * t.segment.exchange[: ask.numel].astype(np.float64) for t, ask in asks) / total
    names = tuple(f"peer{i:03}" for i in range(len(asks)))
    for trainer, ask in asks:
        trainer.segment.exchange[: ask.numel] = mean
        trainer.send(ipc.Averaged(contributors=names))


def _read(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
