"""The daemon: starts the parts of a node in one nursery, and ends them in reverse.

    host (libp2p) --> driver (the member core) <--> rounds <--> trainer line --> trainer process
                                   '--> status page and control socket, peer book, checkpoints

It never imports torch. The first SIGTERM, SIGINT or SIGHUP says goodbye to the peers, saves and ends; another
SIGTERM or SIGINT ends at once.
"""

import logging
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import trio

from shoal.crypto.keys import PeerId, public_key_of, short
from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.charter import parse
from shoal.gossip.admission.roster import Word
from shoal.gossip.admission.tokens import Token
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.events import PeerFound, Vector
from shoal.gossip.member import commands
from shoal.gossip.member.commands import (
    AddAddress,
    Goodbye,
    PeerAddresses,
    Refused,
    RemoveAddress,
    RosterChanged,
    SetAddresses,
)
from shoal.gossip.member.member import Member, MemberConfig
from shoal.gossip.membership.company import Alone, InCompany
from shoal.gossip.net.driver import Driver
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.run_spec import NATIVE, RunSpec
from shoal.gossip.state.serve import ServingConfig
from shoal.gossip.wire import Codec
from shoal.methods.base import Array
from shoal.node.config.settings import LogConfig, NodeConfig
from shoal.node.daemon.base_keeper import BaseKeeper
from shoal.node.daemon.engine_choice import Owned, ask_of, engine_of
from shoal.node.daemon.journal import Event, Journal
from shoal.node.daemon.roster_keeper import RosterKeeper, invite_of
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.saver import Saver
from shoal.node.daemon.status_report import MAX_MET, Reporter
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.daemon.terminal import Terminal, TerminalHandler
from shoal.node.errors import Refused as RefusedByNode
from shoal.node.errors import UserError
from shoal.node.failpoints import Failpoint
from shoal.node.hivemind_engine.engine import Engine
from shoal.node.hivemind_engine.ipc import prefix_of
from shoal.node.roster_status import RosterStatus
from shoal.node.status import RoundStatus, Status
from shoal.node.storage.checkpoint import KEPT, KEPT_LARGE, LARGE, Checkpoint, DiskFull, save
from shoal.node.storage.database import KnownPeer, Store
from shoal.node.storage.home import Home, default_home, typed
from shoal.node.storage.model_file import remember_spec
from shoal.node.storage.network_key import read_network_key
from shoal.node.storage.partial_fetch import ChunkKeeper
from shoal.node.storage.private_state import PrivateState
from shoal.node.storage.run_trust import RunTrust, save_trust, trust_path
from shoal.node.text import LineFormatter, alone_for, duration, printable
from shoal.node.trainer import ipc
from shoal.node.trainer.daemon_end import TrainerLine
from shoal.node.trainer.memory import advice, machine_bytes
from shoal.node.trainer.supervisor import Supervisor, trainer_command, why
from shoal.node.web.server import make_app, serve_http

log = logging.getLogger(__name__)

T = TypeVar("T")

GOODBYE_SECONDS = 0.3
"""How long a leaving node waits for its last words to be sent."""
ADDRESSES_EVERY = 0.5
"""Seconds between two looks at where a hidden node is reached."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the status for the person at the terminal."""
PEERS_PER_SECOND = 64
"""Of which the status tells at most for that: in a large swarm looks are rarer."""
UNREACHED = "nobody can reach this node yet; this is said again once a relay carries it"
Show = Callable[[Sequence[Event], Status | None], None]
AT_ONCE = 130
"""The exit code after a second signal."""
INLINE_BYTES = 2 << 20
"""States below this are hashed and copied at once: half a millisecond, and less than a thread costs on a busy
machine."""
SEQUENCE_MARGIN = 1_000_000
"""Messages since the last round at most: a restart goes on above them, even where the clock was set back."""


class Daemon(Surroundings):
    """One running node, and what its loop of rounds (rounds.py) needs of it."""

    member_type: type[Member] = Member
    """What decides; only the lying nodes of a testnet bring another."""

    def __init__(self, config: NodeConfig, home: Home, show: Show) -> None:
        """`show` gets what happens, and the status, for the person at the terminal; it returns at once."""
        self.config, self.home = config, home
        self.has_engine = config.run.engine != NATIVE
        self._show = show
        self._journal = Journal()
        self.store = Store(home.database)
        self.failpoint = Failpoint(
            config.testing.die_at, freezes=config.testing.freezes, pid=config.testing.pid
        )
        self.is_stopping = trio.Event()
        self.failure: UserError | None = None
        self._saver = Saver(self._save_state, config.run.checkpoint_seconds)
        self._feedback: PrivateState | None = None
        self._jobs_in, self._jobs = trio.open_memory_channel[Callable[[], None]](1000)

    async def run(self) -> int:
        """Run until stopped; returns the exit code."""
        self._catch_signals()
        key = self.home.load_or_create_key()
        sequence = self._first_sequence()
        codec = Codec(key, self.config.network.swarm, sequence)
        admission = Admission(self.config.network.max_links)
        network_key = read_network_key(self.config.network.key_file)
        async with open_host(key, self.config.network, admission, network_key) as host:
            gossip = self.config.gossip
            limits = MemberConfig(
                patience=gossip.patience,
                wait_for=self.config.run.wait_for,
                wait_seconds=self.config.run.wait_seconds,
                alone=self.config.run.alone,
                max_links=self.config.network.max_links,
                serving=ServingConfig(
                    rate=gossip.state_upload_mbit * 125_000 or float("inf"), fetchers=gossip.state_fetchers
                ),
                awaits_trainer=self.config.run.has_trainer,
                colleague_rounds=self.config.trust.colleague_rounds,
                colleague_seconds=60.0 * self.config.trust.colleague_minutes,
            )
            member = self.member_type(host.me, limits, random.Random(), sequence, admission=admission)
            self.driver = Driver(host, member, codec, self._notice)
            self.roster_keeper = RosterKeeper(self.home, key, admission, self)
            self.roster_keeper.on_own = partial(setattr, host.links, "invite")
            self.roster_keeper.on_keys = host.use_network_keys
            self.roster_keeper.network_key = network_key
            self.roster_keeper.use(self.config.run.charter)
            self.roster_keeper.join(self.config.invite)
            self.rounds = Rounds(host.me, self.home.state_dir, self.failpoint, self, self.config.run.role)
            self.keeper = ChunkKeeper(self.home.state_dir / "fetching", self.driver.command)
            self.bases = BaseKeeper(self.home.state_dir, self)
            self.driver.on_effect = lambda effect: self.failpoint.effect(effect, self.rounds.round)
            self.driver.on_found = self._found
            self.reporter = Reporter(self.config, self.driver, self.rounds, self.failpoint)
            self.reporter.roster = self.roster_keeper
            self.reporter.engine = self.engine = engine_of(
                self.config, Owned(self, member, self.rounds), host.me
            )
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._start(nursery)
                await self.is_stopping.wait()
                self._tell()
                await self._leave()
                nursery.cancel_scope.cancel()
        self._save_last()
        self._save_roster()
        self._close_store()
        if self.failure is not None:
            raise self.failure
        return 0

    async def _start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._do_jobs)
        nursery.start_soon(self._saver.run)
        nursery.start_soon(self.keeper.run)
        nursery.start_soon(self.bases.run)
        if self.engine is not None:
            nursery.start_soon(self._run_engine, self.engine)
        line = TrainerLine(self.home.new_socket("trainer", os.environ), self.rounds, self.bases)
        self.line = line
        await nursery.start(line.run)
        app = partial(make_app, self.status)
        await nursery.start(
            serve_http, app(self, door=self), f"unix:{self.home.new_socket('control', os.environ)}"
        )
        page = ""
        http = self.config.http
        if http.enabled:
            shown = f"[{http.host}]" if ":" in http.host else http.host
            page = await nursery.start(
                serve_http, make_app(self.status, None, host=http.host), f"{shown}:{http.port}"
            )
        self.reporter.page = page
        await nursery.start(self.driver.run)
        self._tell_addresses()
        for address in self.config.join:
            self.driver.command(AddAddress(address, "bootstrap"))
        for known in self.store.peers(64):
            for address in known.addresses[:2]:
                self.driver.command(AddAddress(address, "book"))
        self._greet()
        nursery.start_soon(self._follow)
        nursery.start_soon(self._watch_addresses)
        if self.config.run.task and self.config.run.trainer == "spawn":
            nursery.start_soon(self._run_trainer, line)

    async def _watch_addresses(self) -> None:
        """Tell the swarm, and who started us, where we are reached as relays take us and networks change."""
        host = self.driver.host
        told = host.addresses(), host.here()
        while True:
            await trio.sleep(ADDRESSES_EVERY)
            now = host.addresses(), host.here()
            if now != told:
                self._tell_addresses()
                if now[0] and now[0] != told[0]:
                    self._greet()
                told = now

    def _tell_addresses(self) -> None:
        host = self.driver.host
        self.driver.command(SetAddresses(tuple(host.addresses()), host.here()))

    def _greet(self) -> None:
        """Say who is up, where it is reached, and what to type on another device."""
        status = self.status()
        name = (
            f"{status.name} ({short(self.driver.member.me)})" if status.name else short(self.driver.member.me)
        )
        lines = [f"node {name} of swarm {self.config.network.swarm!r} is up"]
        lines += [f"  reached at  {address}" for address in status.addresses]
        if status.page:
            lines.append(f"  status page {status.page}/")
        lines.append(f"  join with   {status.join_command or UNREACHED}")
        lines.append(f"  {door_line(self.config)}")
        if not self.config.run.has_trainer:
            lines.append("  no --task: this node helps others (relays, DHT, records) and does not train")
        fields: dict[str, bool | int | float | str] = {
            "peer": status.peer_id,
            "name": status.name,
            "addresses": " ".join(status.addresses),
            "page": status.page,
            "join": status.join_command,
        }
        text = "\n".join(map(printable, lines))
        self._show([Event(time=time.time(), event="up", text=text, fields=fields)], None)

    async def _follow(self) -> None:
        """Tell what happens, as it is seen in the status."""
        while True:
            self.roster_keeper.set_clock()
            self.roster_keeper.see_to_keys()
            self._keep_roster()
            self._tell()
            await trio.sleep(max(LOOK_EVERY, len(self.driver.member.table) / PEERS_PER_SECOND))

    def _tell(self) -> None:
        status = self.status()
        self._show(self._journal.look(status, time.time()), status)

    def _notice(self, notice: object) -> None:
        if isinstance(notice, PeerAddresses):
            self._remember(notice.peer, notice.addresses)
        elif isinstance(notice, Refused) and notice.peer == self.driver.member.me:
            self._problem(
                "identity",
                "another node runs with this node's identity, and peers confuse the two; stop one and give it"
                " its own with: shoal init --force",
            )
        elif isinstance(notice, Alone | InCompany):
            self.rounds.notice(notice)
            self._say_company(notice)
        elif isinstance(notice, RosterChanged):
            # At once: a node that is killed now may find nobody to hear it from again.
            self._keep_roster()
            self.roster_keeper.see_to_keys()
        else:
            self.keeper.notice(notice)
            self.bases.notice(notice)
            self.rounds.notice(notice)

    def _say_company(self, notice: Alone | InCompany) -> None:
        """Tell for how long; that it is so is a problem of the status, which is told anyway."""
        found = self.reporter.alone(trio.current_time())
        if isinstance(notice, InCompany):
            text = f"no longer alone, after {duration(notice.seconds)} and {notice.rounds} rounds alone"
        elif found is not None and notice.seconds:
            text = f"still alone, for {alone_for(found)}"
        else:
            return
        fields: dict[str, bool | int | float | str] = {"seconds": notice.seconds, "rounds": notice.rounds}
        self._show(
            [Event(time=time.time(), event="company", level="warning", text=text, fields=fields)], None
        )

    def command(self, event: commands.Event) -> None:
        """Tell the member."""
        self.driver.command(event)

    def problem(self, source: str, text: str) -> None:
        """Say what the rounds have found that a person should see to."""
        if source == "trust" and text:
            text += f"; if it was away for long, and you trust its peers: shoal trust reset{self._home_flag}"
        self._problem(source, text)

    @property
    def _home_flag(self) -> str:
        is_default = self.config.home == default_home(os.environ).absolute()
        return "" if is_default else f" --home {typed(self.config.home)}"

    def _problem(self, source: str, text: str) -> None:
        """Say what a person should see to; an empty text ends it."""
        if not text:
            self.reporter.problems.pop(source, None)
            return
        self.reporter.problems[source] = text

    # --- control ----------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what the node says about itself."""
        if self.config.run.trainer == "external":
            self.reporter.trainer_state = "attached" if self.line.pid > 0 else "none"
        return self.reporter.status(trio.current_time())

    def stop(self) -> None:
        """Leave the swarm and end."""
        self.reporter.is_stopping = True
        self.is_stopping.set()

    def reset_trust(self) -> None:
        """Begin anew with whom this node knows in its run."""
        self.rounds.reset_trust()

    def add_bootstrap(self, address: str) -> None:
        """Dial this address now and keep trying."""
        self.driver.command(AddAddress(address, "bootstrap"))

    def remove_bootstrap(self, address: str) -> None:
        """Stop dialling this address."""
        self.driver.command(RemoveAddress(address))

    def roster(self) -> RosterStatus:
        """Return who takes part in the run."""
        return self.roster_keeper.status(trio.current_time())

    def add_words(self, words: tuple[Word, ...]) -> None:
        """Put what founders signed on the roster, and tell the peers."""
        self.roster_keeper.submit(words)

    def refuse(self, peer: str, until: float) -> None:
        """Have no link to a peer until a time."""
        self.roster_keeper.refuse(PeerId(peer), until)

    def invite(self) -> Token:
        """Return an invite to the run, without a grant."""
        spec, addresses = self.rounds.spec, self.driver.host.addresses()
        if spec is None:
            raise RefusedByNode("this node knows no run yet: wait until its trainer has started")
        if not addresses:
            raise RefusedByNode(UNREACHED)
        me = public_key_of(self.driver.member.me)
        return invite_of(spec, self.rounds.run, self.config.network.swarm, me, addresses)

    def _keep_roster(self) -> None:
        if self.roster_keeper.is_unsaved:
            self._job(self.roster_keeper.snapshot())

    def _save_roster(self) -> None:
        try:
            self.roster_keeper.save()
        except OSError as error:
            log.error("%s", _advice(self.home.path, error))

    def _catch_signals(self) -> None:
        """Leave at the first signal, end at once at the second; the end of the terminal is never a second.

        The handlers stay: what follows a run is the end of the process, in which a second Ctrl-C would
        otherwise cut off the last state or print a traceback.
        """
        token = trio.lowlevel.current_trio_token()
        signals = 0

        def handle(number: int, frame: object) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                os._exit(AT_ONCE)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self.stop)

        def hang_up(number: int, frame: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self.stop)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
        # Ignored is what nohup makes of it, for a node that is to outlive its terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hang_up)

    async def _leave(self) -> None:
        self.rounds.stop()
        self.driver.command(Goodbye())
        with trio.move_on_after(GOODBYE_SECONDS):
            await self.driver.host.flush()

    # --- the trainer ------------------------------------------------------------------------------

    async def _run_trainer(self, line: TrainerLine) -> None:
        module = self.config.testing.trainer
        command = trainer_command(
            self.config.run,
            self.home.find_socket("trainer"),
            self.home.state_dir,
            module,
        )
        try:
            await Supervisor(command, self).run()
        except UserError as error:
            self.failure = error
            self.stop()

    def why_gone(self, code: int) -> str:
        """Say why the trainer ended with this exit code."""
        rounds = self.rounds
        return rounds.failure or why(code, advice(rounds.spec, rounds.exchange_numel, machine_bytes()))

    def is_attached(self) -> bool:
        """Tell whether a trainer has ever been attached."""
        return self.rounds.spec is not None

    def is_wanted(self) -> bool:
        """Tell whether there are rounds left for a trainer."""
        return not self.rounds.is_finished and not self.is_stopping.is_set()

    def trainer_is(self, state: str) -> None:
        """Show what the trainer does, or why it ended."""
        self.reporter.trainer_state = state
        if state != "running":
            # The next trainer brings memory of its own; that of this one is free once its state is saved.
            self._saver.hurry()

    async def _run_engine(self, engine: Engine) -> None:
        try:
            await engine.run()
        except UserError as error:
            self.failure = error
            self.stop()

    def average(self, message: ipc.AskAllReduce, vector: Vector) -> None:
        """Have the engine make a mean."""
        assert self.engine is not None
        member, strangers = self.driver.member, self.engine.strangers
        self.engine.average(ask_of(message, vector, member, self.config, strangers, trio.current_time()))

    def compute(self, work: Callable[[], T], then: Callable[[T], None], n_bytes: int) -> None:
        """Go through many bytes in a thread, so that the network is answered meanwhile."""

        async def run() -> None:
            then(await trio.to_thread.run_sync(work))

        if n_bytes < INLINE_BYTES:
            then(work())
        else:
            self._nursery.start_soon(run)

    # --- disk -------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        """Save a state when the disk is free."""
        is_urgent = self.rounds.needs_every_state or self.rounds.is_finished
        self._saver.soon(checkpoint, spec, is_urgent=is_urgent)

    async def _save_state(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        owed = self._owed()
        await trio.to_thread.run_sync(self._save, checkpoint, spec)
        self.keeper.saved(checkpoint.state_hash)
        if owed and self._feedback is not None:
            await trio.to_thread.run_sync(self._feedback.save, owed)

    def _save_last(self) -> None:
        if (last := self._saver.take()) is not None:
            self._save(*last)
        if self._feedback is not None:
            self._feedback.save(self._owed())

    def _owed(self) -> dict[str, Vector]:
        """Return copies of what lossy codecs owe, by ask and direction."""
        return {
            f"{index}.{side}": getattr(feedback, side).copy()
            for index, feedback in self.driver.member.feedback.items()
            for side in ("sent", "made")
        }

    def set_run(self, run: bytes) -> None:
        """Tell the codec of messages the run, and find what lossy codecs owe from before a restart."""
        self.driver.codec.run = run
        assert self.rounds.spec is not None
        self.roster_keeper.use(self.rounds.spec.charter)
        self.bases.hold(self.rounds.spec)
        self._job(partial(remember_spec, self.store, run, self.rounds.spec))
        if self.engine is not None:
            self.engine.attached(prefix_of(run), self.rounds.exchange_numel, self.rounds.spec.codec)
        self._feedback = PrivateState(self.home.state_dir, self.rounds.spec, "feedback")
        found = self._feedback.load() or {}
        if reason := next((name for name, vector in found.items() if not _is_owed(name, vector)), ""):
            self._feedback.set_aside(f"is of no use: {reason} is nothing that a codec owes")
            found = {}
        for name, vector in found.items():
            index, _, side = name.partition(".")
            feedback = self.driver.member.feedback.setdefault(int(index), Feedback(vector.size))
            if feedback.sent.size == vector.size:
                setattr(feedback, side, vector)

    def _save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        shared = [(tensor.name, tensor.numel) for tensor in spec.shared]
        try:
            before_rename = partial(self.failpoint.hit, "save", checkpoint.round)
            keep = KEPT_LARGE if checkpoint.vector.nbytes >= LARGE else KEPT
            save(self.home.state_dir, checkpoint, shared=shared, keep=keep, before_rename=before_rename)
        except (DiskFull, OSError) as error:
            self._problem("state", _advice(self.home.state_dir, error))
        else:
            self.reporter.problems.pop("state", None)

    def remember(self, trust: RunTrust) -> None:
        """Keep what is known of peers in the run."""
        self._job(partial(self._save_trust, trust))

    def _save_trust(self, trust: RunTrust) -> None:
        try:
            save_trust(self.home.state_dir, trust)
        except OSError as error:
            self._problem("trust", _advice(trust_path(self.home.state_dir, self.rounds.run), error))
        else:
            self.reporter.problems.pop("trust", None)

    def record(self, run: bytes, status: RoundStatus) -> None:
        """Keep what became of a round."""
        self._job(partial(self.store.add_round, run.hex(), status))
        self._job(partial(self._keep_sequence, self._last_sequence()))

    def _found(self, event: PeerFound) -> None:
        if len(self.reporter.met) < MAX_MET:
            self.reporter.met.add(event.peer)
        entry = self.driver.member.table.get(event.peer)
        addresses = entry.presence.addresses if entry is not None else ()
        self._remember(event.peer, addresses or ((event.address,) if event.address else ()))

    def _remember(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        if addresses:
            known = KnownPeer(peer, tuple(addresses), "exchange", time.time())
            self._job(partial(self.store.remember_peer, known))

    def _job(self, job: Callable[[], None]) -> None:
        with suppress(trio.WouldBlock):  # a disk that hangs must not hold up the network
            self._jobs_in.send_nowait(job)

    async def _do_jobs(self) -> None:
        async for job in self._jobs:
            try:
                await trio.to_thread.run_sync(job)
            except (UserError, OSError, sqlite3.Error) as error:
                # Records of rounds and peers; a node that lacks them still trains.
                self._problem("database", _advice(self.home.database, error))
            else:
                self.reporter.problems.pop("database", None)

    def _close_store(self) -> None:
        try:
            self._keep_sequence(self._last_sequence())
        except (UserError, sqlite3.Error) as error:
            # Missed only by a node whose clock is set back before its next start.
            log.error("%s", _advice(self.home.database, error))
        self.store.close()

    def _first_sequence(self) -> int:
        stored = self.store.get("sequence")
        last = int(stored) if stored is not None and stored.isdigit() else 0
        first = max(time.time_ns() // 1000, last + SEQUENCE_MARGIN)
        self._job(partial(self._keep_sequence, first))  # whoever is killed before its first round counts too
        return first

    def _last_sequence(self) -> int:
        return max(self.driver.member.sequence, self.driver.codec.sequence)

    def _keep_sequence(self, sequence: int) -> None:
        self.store.put("sequence", str(sequence).encode())


def _is_owed(name: str, vector: Array) -> bool:
    """Tell whether this may be what lossy codecs owe, as `Feedback` holds it."""
    index, _, side = name.partition(".")
    is_known = index.isdigit() and len(index) < 4 and side in ("sent", "made")
    return is_known and vector.dtype == np.float32 and vector.ndim == 1 and bool(np.isfinite(vector).all())


def _advice(path: Path, error: Exception) -> str:
    """Say what is wrong with the disk, and what to do."""
    if isinstance(error, UserError):
        return str(error)
    return f"cannot write {path}: {error}; see to the disk, or start with --home on another one"


def door_line(config: NodeConfig) -> str:
    """Say in one line who may take part."""
    charter = parse(config.run.charter)
    if charter.founders:
        return f"{charter.mode} run: who takes part is told by shoal members"
    how = f", and combines by {config.run.combine}" if config.run.task else ""
    return f"open run: anyone may take part{how}; for one with a door that can be locked: shoal found"


async def run(config: NodeConfig, show: Show) -> int:
    """Run a node in its locked home."""
    return await Daemon(config, Home(config.home), show).run()


def _only_user_error(group: BaseExceptionGroup[BaseException]) -> UserError | None:
    """Return the user's error inside a nursery's group, if there is nothing else in it."""
    _, rest = group.split(UserError)
    found = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]  # type: ignore[assignment]
    return found if rest is None and isinstance(found, UserError) else None


def main(config: NodeConfig) -> int:
    """Run a node until it is stopped; returns the exit code.

    Raises:
        UserError: something that the person at the terminal can mend.
    """
    home = Home(config.home)
    home.load_or_create_key()
    with home.locked(os.environ), Terminal(config.log, sys.stdout, sys.stderr) as terminal:
        _log_to(terminal, config.log)
        try:
            start: Callable[..., Awaitable[int]] = run
            return trio.run(start, config, terminal.show)
        except BaseExceptionGroup as group:
            error = _only_user_error(group)
            if error is None:
                raise
            raise error from None
        finally:
            home.remove_sockets()


def _log_to(terminal: Terminal, config: LogConfig) -> None:
    level = config.level.upper()
    line = "%(message)s" if config.format == "json" else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = TerminalHandler(terminal)
    handler.setFormatter(LineFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])
    # Both log every byte of an address or a served request, and what a peer does wrong at full length.
    # What matters of them we log ourselves; without a handler Python would print theirs as they are.
    network = logging.getLogger("libp2p")
    network.addHandler(logging.NullHandler())
    network.propagate = level == "DEBUG"
    logging.getLogger("multiaddr").setLevel(logging.WARNING)
