"""The daemon: builds the parts of a node, starts them in one nursery, and tells each what concerns it.

    host (libp2p) --> driver (the member core) <--> rounds <--> trainer line --> trainer process
                                   '--> status page and control socket, disk

What it stands on is opened before it (process.py): the host, the keys and the store. It never imports torch.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from nacl.signing import SigningKey

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
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.company import Alone, InCompany
from shoal.gossip.net.driver import Driver
from shoal.gossip.net.libp2p_host import Libp2pHost
from shoal.gossip.run_spec import NATIVE, RunSpec
from shoal.gossip.state.serve import ServingConfig
from shoal.gossip.wire import Codec
from shoal.node.config.settings import NodeConfig
from shoal.node.daemon.base_keeper import BaseKeeper
from shoal.node.daemon.disk import Disk, disk_advice, first_sequence
from shoal.node.daemon.engine_choice import Owned, ask_of, engine_of
from shoal.node.daemon.journal import Event, Journal, company, greeting
from shoal.node.daemon.roster_keeper import RosterKeeper, RunDoor
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.status_report import MAX_MET, Problems, Reporter
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.errors import UserError
from shoal.node.failpoints import Failpoint
from shoal.node.hivemind_engine.engine import Engine
from shoal.node.hivemind_engine.ipc import prefix_of
from shoal.node.private_asks import Budget
from shoal.node.retraining.kept_states import StateKeeper
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.retraining.start_file import StartFile, read_start
from shoal.node.service.machine import Machine, Memory
from shoal.node.service.notify import tell_manager
from shoal.node.service.pauses import Pauses
from shoal.node.service.schedule import Rules, parse_hours
from shoal.node.status import RoundStatus, Status
from shoal.node.storage.checkpoint import Checkpoint
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home, default_home, typed
from shoal.node.storage.run_trust import RunTrust
from shoal.node.trainer import ipc
from shoal.node.trainer.daemon_end import TrainerLine
from shoal.node.trainer.memory import advice, machine_bytes
from shoal.node.trainer.supervisor import Supervisor, trainer_command, why
from shoal.node.web.events import kind_of
from shoal.node.web.past import Past
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
Show = Callable[[Sequence[Event], Status | None], None]
INLINE_BYTES = 2 << 20
"""States below this are hashed and copied at once: half a millisecond, and less than a thread costs on a busy
machine."""


@dataclass(frozen=True)
class Ground:
    """What is opened before a daemon is built, and closed after its end."""

    home: Home
    """Locked."""
    key: SigningKey
    network_key: bytes
    """Of the private network, or none."""
    store: Store
    host: Libp2pHost
    nursery: trio.Nursery
    """In which everything runs."""
    is_stopping: trio.Event
    """Set when the node is to end."""


class Daemon(Surroundings):
    """One running node, and what its loop of rounds (rounds.py) needs of it."""

    member_type: type[Member] = Member
    """What decides; only the lying nodes of a testnet bring another."""

    def __init__(self, config: NodeConfig, ground: Ground, show: Show) -> None:
        """`show` gets what happens, and the status, for the person at the terminal; it returns at once."""
        home, host, admission = ground.home, ground.host, ground.host.admission
        self.config, self._home = config, home
        self.has_engine = config.run.engine != NATIVE
        self.failure: UserError | None = None
        """What ends the node that the person at the terminal can mend."""
        self._on_show, self._journal = show, Journal()
        self._nursery, self._is_stopping, self._store = ground.nursery, ground.is_stopping, ground.store
        failpoint = Failpoint(config.testing.die_at, freezes=config.testing.freezes, pid=config.testing.pid)
        sequence = first_sequence(ground.store)
        member = self.member_type(
            host.me, member_config(config), random.Random(), sequence, admission=admission
        )
        codec = Codec(ground.key, config.network.swarm, sequence)
        self.driver = Driver(host, member, codec, self._notice)
        self.privacy_budget = Budget(config.privacy.budget, config.privacy.delta)
        self.rounds = Rounds(host.me, home.state_dir, failpoint, self, config.run.role)
        self.past = Past(ground.store, self.rounds)
        self.driver.on_effect = lambda effect: failpoint.effect(effect, self.rounds.round)
        self.driver.on_found = self._found
        self.roster_keeper = RosterKeeper(home, ground.key, admission, self, host, ground.network_key)
        self._door = RunDoor(self.roster_keeper, self.rounds, host, config.network.swarm)
        self.engine = engine_of(config, Owned(self, member, self.rounds), host.me)
        self._problems = Problems()
        self.reporter = Reporter(
            config,
            self.driver,
            self.rounds,
            self.roster_keeper,
            self.engine,
            self._problems,
            ground.is_stopping,
        )
        seconds = config.run.checkpoint_seconds
        memory = int(config.run.memory_gb * 1e9)
        schedule = Rules(parse_hours(config.schedule.hours), config.schedule.on_battery, memory)
        most = config.run.keep_states
        keeper = StateKeeper(home.state_dir, ground.store, ground.key, most) if most else None
        self.disk = Disk(
            home, ground.store, self.driver, self._problems, failpoint, seconds=seconds, keeper=keeper
        )
        self._began_from: StartFile | None = None
        self.bases = BaseKeeper(home.state_dir, self)
        self.line = TrainerLine(home.new_socket("trainer", os.environ), self.rounds, self.bases)
        self.machine = self.reporter.machine = Machine(self.line, self.disk, home.state_dir)
        watched = Memory(self.line) if memory else None
        self.pauses = Pauses(schedule, self.rounds, ground.store, watched)
        self.roster_keeper.use(config.run.charter)
        self.roster_keeper.join(config.invite)

    async def run(self) -> None:
        """Run until stopped, and say goodbye to the peers."""
        await self._start(self._nursery)
        self._nursery.start_soon(tell_manager, self.status, self._is_stopping, os.environ)
        await self._is_stopping.wait()
        self._tell()
        self.rounds.stop()
        self.driver.command(Goodbye())
        with trio.move_on_after(GOODBYE_SECONDS):
            await self.driver.host.flush()

    def close(self) -> None:
        """Write what is still to be kept; this blocks.

        Raises:
            UserError: what ended the node.
        """
        try:
            self.roster_keeper.save()
        except OSError as error:
            log.error("%s", disk_advice(self._home.path, error))
        self.disk.close()
        if self.failure is not None:
            raise self.failure

    async def _start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.disk.run)
        nursery.start_soon(self.bases.run)
        if self.engine is not None:
            nursery.start_soon(self._run_engine, self.engine)
        await nursery.start(self.line.run)
        app = partial(make_app, self.status)
        await nursery.start(
            serve_http,
            app(self, door=self._door, past=self.past),
            f"unix:{self._home.new_socket('control', os.environ)}",
        )
        http = self.config.http
        if http.enabled:
            shown = f"[{http.host}]" if ":" in http.host else http.host
            self.reporter.page = await nursery.start(
                serve_http,
                make_app(self.status, None, past=self.past, host=http.host),
                f"{shown}:{http.port}",
            )
        await nursery.start(self.driver.run)
        self._tell_addresses()
        for address in self.config.join:
            self.driver.command(AddAddress(address, "bootstrap"))
        for known in self._store.peers(64):
            for address in known.addresses[:2]:
                self.driver.command(AddAddress(address, "book"))
        self._greet()
        nursery.start_soon(self._follow)
        nursery.start_soon(self._watch_addresses)
        if self.config.run.task and self.config.run.trainer == "spawn":
            nursery.start_soon(self._run_trainer)

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
        self._show([greeting(self.status(), self.config, time.time())], None)

    async def _follow(self) -> None:
        """Tell what happens, as it is seen in the status."""
        while True:
            self.roster_keeper.set_clock()
            self.roster_keeper.see_to_keys()
            self._keep_roster()
            self.pauses.look()
            self._tell()
            await trio.sleep(max(LOOK_EVERY, len(self.driver.member.table) / PEERS_PER_SECOND))

    def _tell(self) -> None:
        status = self.status()
        self._show(self._journal.look(status, time.time()), status)

    def _show(self, events: Sequence[Event], status: Status | None) -> None:
        """Tell the person at the terminal, and whoever listens to events."""
        for event in events:
            self.past.events.publish(kind_of(event.event), msgspec.json.encode(event))
        self._on_show(events, status)

    def _notice(self, notice: object) -> None:
        if isinstance(notice, PeerAddresses):
            self.disk.remember_peer(notice.peer, notice.addresses)
        elif isinstance(notice, Refused) and notice.peer == self.driver.member.me:
            self._problems.tell(
                "identity",
                "another node runs with this node's identity, and peers confuse the two; stop one and give it"
                " its own with: shoal init --force",
            )
        elif isinstance(notice, Alone | InCompany):
            self.rounds.notice(notice)
            told = company(notice, self.reporter.alone(trio.current_time()), time.time())
            if told is not None:
                self._show([told], None)
        elif isinstance(notice, RosterChanged):
            # At once: a node that is killed now may find nobody to hear it from again.
            self._keep_roster()
            self.roster_keeper.see_to_keys()
        else:
            self.disk.fetching.notice(notice)
            self.bases.notice(notice)
            self.rounds.notice(notice)

    def moved(self) -> tuple[int, int]:
        """Return the bytes that this node sent and received since it began."""
        statistics = self.driver.host.statistics()
        return statistics.bytes_sent, statistics.bytes_received

    def command(self, event: commands.Event) -> None:
        """Tell the member."""
        self.driver.command(event)

    def problem(self, source: str, text: str) -> None:
        """Say what the rounds have found that a person should see to."""
        if source == "trust" and text:
            text += f"; if it was away for long, and you trust its peers: shoal trust reset{self._home_flag}"
        self._problems.tell(source, text)

    @property
    def _home_flag(self) -> str:
        is_default = self.config.home == default_home(os.environ).absolute()
        return "" if is_default else f" --home {typed(self.config.home)}"

    # --- control ----------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what the node says about itself."""
        if self.config.run.trainer == "external":
            self.reporter.trainer_state = "attached" if self.line.pid > 0 else "none"
        self.reporter.pause = self.pauses.reason
        return self.reporter.status(trio.current_time())

    def stop(self) -> None:
        """Leave the swarm and end."""
        self._is_stopping.set()

    def pause(self, seconds: float | None) -> None:
        """Train no more for so long; None: until told to."""
        self.disk.job(self.pauses.pause(seconds))

    def resume(self) -> None:
        """Train again, unless hours or battery say otherwise."""
        self.disk.job(self.pauses.resume())

    def reset_trust(self) -> None:
        """Begin anew with whom this node knows in its run."""
        self.rounds.reset_trust()

    def add_bootstrap(self, address: str) -> None:
        """Dial this address now and keep trying."""
        self.driver.command(AddAddress(address, "bootstrap"))

    def remove_bootstrap(self, address: str) -> None:
        """Stop dialling this address."""
        self.driver.command(RemoveAddress(address))

    def _keep_roster(self) -> None:
        if self.roster_keeper.is_unsaved:
            self.disk.job(self.roster_keeper.snapshot())

    # --- the trainer ------------------------------------------------------------------------------

    async def _run_trainer(self) -> None:
        module = self.config.testing.trainer
        command = trainer_command(
            self.config.run,
            self._home.find_socket("trainer"),
            self._home.state_dir,
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
        return not self.rounds.is_finished and not self._is_stopping.is_set()

    def trainer_is(self, state: str) -> None:
        """Show what the trainer does, or why it ended."""
        self.reporter.trainer_state = state
        self.machine.trainer_is(state)
        if state != "running":
            # The next trainer brings memory of its own; that of this one is free once its state is saved.
            self.disk.hurry()

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
        self.disk.save(checkpoint, spec, is_urgent=is_urgent)

    def set_run(self, run: bytes) -> None:
        """Tell all parts which run the trainer is in."""
        spec = self.rounds.spec
        assert spec is not None
        self.driver.codec.run = run
        self.roster_keeper.use(spec.charter)
        self.bases.hold(spec)
        if self.engine is not None:
            self.engine.attached(prefix_of(run), self.rounds.exchange_numel, spec.codec)
        self.disk.set_run(run, spec)
        if self._began_from is not None:
            self.disk.note_members(self._began_from.record(run))
            self._began_from = None

    def load(
        self, directory: Path, run: bytes, *, numel: int, before: int | None = None
    ) -> Checkpoint | None:
        """Return the newest state that was kept; of a run that begins from a file, the file's."""
        found = super().load(directory, run, numel=numel, before=before)
        if found is not None or before is not None or not self.config.run.start_from:
            return found
        self._began_from = start = read_start(Path(self.config.run.start_from), numel)
        return start.of_run(run)

    def note_members(self, record: RoundRecord) -> None:
        """Keep whose contributions made a state, where states are kept."""
        self.disk.note_members(record)

    def remember(self, trust: RunTrust) -> None:
        """Keep what is known of peers in the run."""
        self.disk.remember_trust(trust, self.rounds.run)

    def record(self, run: bytes, status: RoundStatus) -> None:
        """Keep what became of a round."""
        self.disk.record(run, status)

    def _found(self, event: PeerFound) -> None:
        if len(self.reporter.met) < MAX_MET:
            self.reporter.met.add(event.peer)
        entry = self.driver.member.table.get(event.peer)
        addresses = entry.presence.addresses if entry is not None else ()
        self.disk.remember_peer(event.peer, addresses or ((event.address,) if event.address else ()))


def member_config(config: NodeConfig) -> MemberConfig:
    """Return what a node's settings say to its member."""
    gossip, run, trust = config.gossip, config.run, config.trust
    return MemberConfig(
        patience=gossip.patience,
        wait_for=run.wait_for,
        wait_seconds=run.wait_seconds,
        alone=run.alone,
        max_links=config.network.max_links,
        serving=ServingConfig(
            rate=gossip.state_upload_mbit * 125_000 or float("inf"), fetchers=gossip.state_fetchers
        ),
        awaits_trainer=run.has_trainer,
        colleague_rounds=trust.colleague_rounds,
        colleague_seconds=60.0 * trust.colleague_minutes,
    )
