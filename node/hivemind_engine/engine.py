"""The hivemind engine of a node: keeps its process running, and answers the trainer's all-reduces with it.

    Rounds --average--> Engine --Average--> node/hivemind_engine/process.py --> hivemind's own network
           <--Averaged | Failed--  <--Mean | Unmet | Unmade--

Meanwhile the member (gossip/member) is in `Phase.EXCHANGING`: it keeps presence, agreed rounds and states as
with our own all-reduce, and is not led away by peers that have the mean a moment earlier. Where hivemind's
other nodes are is told by their signed records.

A process that dies, or is silent for the node's patience, is replaced, after a pause; the ask that it had
fails, and the trainer's round begins anew.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.gossip.group import Exchanged
from shoal.gossip.member.commands import Averaged, Event, Failed, SetEngine
from shoal.node.children import Keeper, end_process
from shoal.node.errors import UserError
from shoal.node.framing import Message, receive_frame, send_frame
from shoal.node.hivemind_engine.ipc import (
    Average,
    Beat,
    Broken,
    EngineSpec,
    Mean,
    Meet,
    Unmade,
    Unmet,
    Up,
    create_memory,
    from_engine,
)

log = logging.getLogger(__name__)

STEADY: Final = 60.0
"""Seconds after which the end of a process has nothing to do with its start."""
STARTING: Final = 120.0
"""Seconds for hivemind to start: it loads torch, and starts three processes."""
LEAST_SILENCE: Final = 10.0
"""Seconds without a beat before a process is given up, however short the patience: a busy machine is slow."""
MEET_EVERY: Final = 0.5
"""Seconds between two looks at the records of others for addresses."""
MEET_AGAIN: Final = 30.0
"""Seconds until an address is told once more: who did not answer then may do so now."""
GRACE: Final = 6.0
"""Seconds for the process to end by itself when its node ends."""
INLINE_BYTES: Final = 2 << 20
"""Vectors above are copied in a thread."""


class NoEngine(UserError):
    """hivemind cannot be had: install it, or average with the native engine."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Ask:
    """A trainer's all-reduce."""

    round: int
    index: int
    vector: Vector
    weight: float
    expected: int
    """How many are worth waiting for, ourselves included."""
    seconds: float
    """For how long."""
    quorum: int
    """Fewest members of a mean that counts."""
    base: str = ""
    """What the other nodes must have started from too; empty where it does not matter."""
    waits: bool = False
    """Whether to wait so long for all that are expected, instead of for a window."""


class _Ended(Exception):
    """The process is gone or of no use; the message says why."""


class Owner(Protocol):
    """What an engine needs of its node. Nothing here waits."""

    def command(self, event: Event) -> None:
        """Tell the member."""

    def others(self) -> Iterable[str]:
        """Return the hivemind addresses of the run's other nodes."""
        ...

    def answer(self, result: Averaged | Failed) -> None:
        """Take what became of an ask."""

    def problem(self, text: str) -> None:
        """Show what a person should see to, until the text is empty."""


class Engine:
    """See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        listen: tuple[str, ...],
        patience: float,
        owner: Owner,
        argv: tuple[str, ...] = (sys.executable, "-P", "-m", "shoal.node.hivemind_engine.process"),
    ) -> None:
        """`listen`: addresses for hivemind; `patience`: seconds; `argv`: what runs the process."""
        self.addresses: tuple[str, ...] = ()
        """Where hivemind is reached; empty while it is not up."""
        self.prefix = ""
        self.strangers = 0
        """Members of the last group that are no nodes."""
        self.pid = 0
        self._keeper = Keeper(STEADY)
        self._has_been_up = False
        self._me, self._listen, self._patience, self._argv = me, listen, patience, argv
        self._owner = owner
        self._numel, self._codec = 0, ""
        self._wanted = trio.Event()
        self._changed = trio.CancelScope()
        self._asks_in, self._asks = trio.open_memory_channel[tuple[int, Ask]](64)
        self._life = 0
        """Counts trainers: what one of them asked is not answered to the next."""
        self._number = 0

    # --- what the node tells it -------------------------------------------------------------------

    def attached(self, prefix: str, numel: int, codec: str) -> None:
        """A trainer is there, whose vectors have at most so many numbers."""
        self._life += 1
        if (prefix, numel, codec) != (self.prefix, self._numel, self._codec):
            self.prefix, self._numel, self._codec = prefix, numel, codec
            self._changed.cancel()
        self._wanted.set()

    def average(self, ask: Ask) -> None:
        """Average a vector in place; `answer` is told."""
        self._asks_in.send_nowait((self._life, ask))

    # --- its process ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a process running until cancelled.

        Raises:
            NoEngine: it did not even start once.
        """
        await self._wanted.wait()
        await self._keeper.run(self._life_of_one)

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._keeper.restarts

    async def _life_of_one(self) -> str:
        """Run one process; return why it ended, or nothing where another one is wanted at once."""
        with trio.CancelScope() as self._changed:
            try:
                await self._live()
            except _Ended as end:
                self._has_been_up = self._has_been_up or bool(self.addresses)
                if not self._has_been_up:
                    raise NoEngine(f"{end}; or leave out --engine hivemind") from None
                self._owner.problem(f"{end}; it is started again, and rounds wait for it")
                return str(end)
            finally:
                self.addresses, self.pid = (), 0
                self._owner.command(SetEngine(()))
        return ""

    async def _live(self) -> None:
        """Start one process, and serve with it until it ends.

        Raises:
            _Ended: always, at the end.
        """
        memory, memory_fd = create_memory(self._numel)
        ours, theirs = socket.socketpair()
        spec = EngineSpec(
            me=self._me,
            prefix=self.prefix,
            numel=self._numel,
            codec=self._codec,
            listen=self._listen,
            patience=self._patience,
        )
        try:
            process = await trio.lowlevel.open_process(
                [
                    *self._argv,
                    *("--line", str(theirs.fileno()), "--memory", str(memory_fd)),
                    *("--spec", msgspec.json.encode(spec).decode()),
                ],
                stdin=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "CRITICAL", **os.environ},
                pass_fds=(theirs.fileno(), memory_fd),
                # A group of its own: what hivemind starts ends with it, even where it was killed.
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(memory_fd)
        self.pid = process.pid
        line = _Line(trio.socket.from_stdlib_socket(ours))
        try:
            await self._talk(line, memory, process)
        except (OSError, EOFError, ValueError, msgspec.MsgspecError):
            with trio.move_on_after(1.0):
                await process.wait()
            raise _Ended(_why(process.returncode)) from None
        finally:
            line.close()
            await end_process(process, GRACE, partial(_kill_group, process.pid))

    async def _talk(self, line: "_Line", memory: Vector, process: trio.Process) -> None:
        up = await self._hear(line, STARTING)
        if not isinstance(up, Up):
            raise _Ended("the hivemind engine does not speak as it should: reinstall shoal")
        self.addresses = up.addresses
        self._owner.command(SetEngine(up.addresses[:4]))
        self._owner.problem("")
        log.info("hivemind is up at %s, prefix %s", ", ".join(up.addresses), self.prefix)
        results_in, results = trio.open_memory_channel[Mean | Unmet | Unmade](8)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, process)
                nursery.start_soon(self._introduce, line)
                nursery.start_soon(self._serve, line, memory, results)
                while True:
                    said = await self._hear(line, max(LEAST_SILENCE, self._patience))
                    if not isinstance(said, Beat):
                        with suppress(trio.WouldBlock):
                            results_in.send_nowait(said)
        except BaseExceptionGroup as group:
            ended, rest = group.split((_Ended, OSError, EOFError, ValueError, msgspec.MsgspecError))
            if rest is not None or ended is None:
                # Our own fault, or our end: that the process ended too adds nothing to it.
                raise (rest or group) from None
            raise _first(ended) from None

    async def _hear(self, line: "_Line", seconds: float) -> Any:
        with trio.move_on_after(seconds):
            message = from_engine.decode(await line.receive())
            if isinstance(message, Broken):
                raise _Ended(message.text)
            return message
        raise _Ended(f"the hivemind engine said nothing for {seconds:.0f} s")

    async def _introduce(self, line: "_Line") -> None:
        """Tell hivemind where the other nodes' are, as their records come to be known."""
        told: dict[str, float] = {}
        while True:
            now = trio.current_time()
            known = {address for address in self._owner.others() if address not in self.addresses}
            told = {address: at for address, at in told.items() if address in known and now < at + MEET_AGAIN}
            new = sorted(known - told.keys())[:16]
            if new:
                told |= dict.fromkeys(new, now)
                await line.send(Meet(addresses=tuple(new)))
            await trio.sleep(MEET_EVERY)

    # --- asks -------------------------------------------------------------------------------------

    async def _serve(self, line: "_Line", memory: Vector, results: Any) -> None:
        async for life, ask in self._asks:
            if life != self._life:
                continue
            answer: Averaged | Failed = Failed("GossipError", "the hivemind engine ended")
            try:
                answer = await self._average(line, memory, results, ask)
            finally:
                # Also where the process is gone: the trainer must not wait for a mean that was lost with it.
                if life == self._life:
                    self._owner.answer(answer)

    async def _average(self, line: "_Line", memory: Vector, results: Any, ask: Ask) -> Averaged | Failed:
        self._number += 1
        numel = ask.vector.size
        await _copy(ask.vector, memory[:numel])
        await line.send(
            Average(
                number=self._number,
                index=ask.index,
                numel=numel,
                weight=ask.weight,
                expected=ask.expected,
                quorum=ask.quorum,
                base=ask.base,
                seconds=ask.seconds,
                waits=ask.waits,
            )
        )
        async for said in results:
            match said:
                case Mean(number=self._number):
                    await _copy(memory[:numel], ask.vector)
                    self.strangers = said.strangers
                    return _mean(ask, said.members, said.matchmaking_seconds, said.exchange_seconds)
                case Unmet(number=self._number):
                    self.strangers = 0
                    return _mean(ask, (self._me,), 0.0, 0.0)
                case Unmade(number=self._number):
                    return Failed("GossipError", said.text)
        raise AssertionError("the channel of results is never closed")


def _mean(ask: Ask, members: tuple[str, ...], searched: float, exchanging: float) -> Averaged | Failed:
    if len(members) < ask.quorum:
        return Failed("TooFew", f"{len(members)} of at least {ask.quorum} peers were there")
    exchanged = Exchanged((), tuple(PeerId(member) for member in members), 0)
    return Averaged(ask.round, ask.index, exchanged, searched, exchanging)


async def _copy(source: Vector, target: Vector) -> None:
    if source.nbytes < INLINE_BYTES:
        np.copyto(target, source)
    else:
        await trio.to_thread.run_sync(np.copyto, target, source)


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the hivemind engine was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"the hivemind engine ended with exit code {code}; its last lines in the log say why"


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    # The one with a reason, where there is one.
    found: BaseException = group.subgroup(_Ended) or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _watch(process: trio.Process) -> None:
    """See the end of a process whose own children hold its end of the line open.

    Raises:
        _Ended: it has ended.
    """
    raise _Ended(_why(await process.wait()))


def _kill_group(pid: int) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Line:
    """The daemon's end of the line."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sending = trio.Lock()

    async def send(self, message: Message) -> None:
        async with self._sending:
            await send_frame(self._connection, message)

    async def receive(self) -> bytes:
        return await receive_frame(self._connection.recv)

    def close(self) -> None:
        self._connection.close()
