"""Rounds: between the trainer, which computes, and the member, which agrees.

    trainer  --Attach-->  load the last state, Attached, Begin
             <--Begin---  working: flags in the shared page may interrupt or hurry it
             --Ask---->   Contribute --> member ... Averaged | Failed --> answer
             --Finished-> hash the new state, NewState --> member, save, next Begin
    member   --Behind-->  interrupt the work; --Synced--> put the state in place, Begin

No sockets and no waiting here: messages and notices come in, messages and commands go out. What takes long
with a large state (reading, hashing, copying it) is handed to `compute`, which may do it in a thread; until
then the trainer counts as still at work.
"""

import logging
from collections import deque
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from shoal.crypto.keys import PeerId, short
from shoal.gossip.calls.answering import HandedOut
from shoal.gossip.calls.asking import Ended
from shoal.gossip.calls.calls import RoleTaken
from shoal.gossip.events import Vector
from shoal.gossip.member import commands
from shoal.gossip.membership.company import Alone, InCompany
from shoal.gossip.run_spec import NATIVE, RunSpec, run_id
from shoal.gossip.state.movement import Movement, Movements, fault_of
from shoal.gossip.state.tree_hash import leaves, root
from shoal.node.daemon.roles import command_of, message_of, offer_of
from shoal.node.daemon.round_log import RoundLog
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.daemon.utilisation import Utilisation
from shoal.node.failpoints import Failpoint
from shoal.node.framing import Message
from shoal.node.private_asks import Given, PrivateAsks
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.storage.checkpoint import Checkpoint
from shoal.node.storage.run_trust import RunTrust
from shoal.node.trainer import ipc

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_LINES: Final = 20
MAX_GIVERS: Final = 8
"""Peers that are told by name where their state was not taken over."""
MAX_NOT_FINITE: Final = 2
"""Rounds in a row from one state without finite numbers, after which the node goes back to an earlier one."""


class Trainer(Enum):
    """What the trainer is doing, as far as we told it or it told us."""

    NONE = "none"
    IDLE = "idle"
    WORKING = "working"
    ASKING = "asking"
    STOPPED = "stopped"


class Rounds:
    """The loop of rounds of one node. See the module's docstring."""

    run_id = staticmethod(run_id)
    """How a run is named; the simulator keeps the names of its runs as settings are added."""

    def __init__(
        self,
        me: PeerId,
        state_dir: Path,
        failpoint: Failpoint,
        surroundings: Surroundings,
        role: str = "auto",
    ) -> None:
        """Wait for a trainer. `role`: as `RunConfig.role` has it."""
        self.me, self.role = me, role
        self.trainer = Trainer.NONE
        self.spec: RunSpec | None = None
        self.run = b""
        self.needs_every_state = False
        """Whether the trainer keeps something that makes sense only beside one state."""
        self.round = 0
        self.state = self.previous = b""
        self.past = RoundLog(surroundings)
        self.utilisation = Utilisation()
        self.refusals: deque[str] = deque(maxlen=MAX_LINES)
        self.failure = ""
        """Why the trainer said it cannot go on."""
        self._state_dir, self._failpoint = state_dir, failpoint
        self._around = surroundings
        self.privacy = PrivateAsks(state_dir, surroundings.privacy_budget)
        self._answered = 0
        """Asks so far that were answered."""
        self._problems = set[str]()
        self._trust = RunTrust(run="")
        self._movements: Movements | None = None
        self._not_finite = 0
        """Rounds in a row that came to no finite numbers."""
        self._leaves = b""
        self._had_company = False
        """Whether the state was made with others, now or before it was fetched."""
        self._waits_alone = False
        self.is_paused = self.is_held = False
        """Whether no further round is to begin; and whether the trainer stands still for it."""
        self._attach: ipc.Attach | None = None
        """How the trainer attached."""
        self._life = 0
        """Counts trainers that went or were stopped: what was computed for an earlier one is dropped."""
        self._reply: Callable[[Message], None] | None = None
        self._segment: ipc.Segment | None = None
        self._slot = self._replaced = 0
        self._syncing = False
        self._synced: commands.Synced | None = None

    # --- the trainer ------------------------------------------------------------------------------

    def attached(self, message: ipc.Attach, segment: ipc.Segment, reply: Callable[[Message], None]) -> None:
        """Take a trainer on, from the state on disk if there is one."""
        run = self.run_id(message.spec)
        if not message.asks:
            # It never averages: a run of its own keeps others from taking its state for the swarm's.
            run = blake2b(run + self.me.encode(), digest_size=32).digest()

        def load() -> tuple[Checkpoint | None, RunTrust, bytes]:
            found = self._around.load(self._state_dir, run, numel=message.spec.state_numel)
            if found is not None:
                segment.slots[0][:] = found.vector
            return found, self._around.recall(self._state_dir, run), leaves(segment.slots[0].data)

        def loaded(result: tuple[Checkpoint | None, RunTrust, bytes]) -> None:
            self._segment, self._reply, self._slot = segment, reply, 0
            self.spec, self.run, self.needs_every_state = message.spec, run, message.needs_every_state
            self._loaded(message, *result)

        self._later(load, loaded, segment.slots[0].nbytes)

    def _loaded(self, message: ipc.Attach, found: Checkpoint | None, trust: RunTrust, hashes: bytes) -> None:
        assert self._reply is not None
        self._trust, self._not_finite = trust, 0
        self._movements = Movements(message.spec, trust.movements)
        self._around.set_run(self.run)
        self.round, self.previous, self._had_company = 0, b"", False
        if found is not None:
            self.round, self.previous = found.round, found.previous_hash
            self._had_company = found.had_company
            log.info("going on from round %d, found on disk", found.round)
        self._name_state(hashes)
        self._syncing, self._synced = False, None
        self._waits_alone = False
        reply = self._reply
        restored = found is not None
        reply(ipc.Attached(round=self.round, slot=0, restored=restored, me=self.me, role=self.role))
        self.trainer = Trainer.IDLE
        self._attach_to_member(message)

    def _attach_to_member(self, message: ipc.Attach) -> None:
        self._attach, self.is_held = message, False
        kept = (self._had_company, self._trust.known, self._trust.is_unanchored)
        self._around.command(commands.Attach(self.run, message.spec, message.mergeable, *kept))
        if message.roles:
            self._around.command(offer_of(message, self.role))
        self._state_is_new()

    def detached(self) -> None:
        """The trainer is gone."""
        self._life += 1
        # One that was told to stop leaves nothing to tell: the run is over, or the peers know that we go.
        if self.trainer not in (Trainer.NONE, Trainer.STOPPED):
            self._around.command(commands.Detach())
        self.trainer, self._reply, self.is_held = Trainer.NONE, None, False
        for source in self._problems:
            self._around.problem(f"training: {source}", "")
        self._problems.clear()
        self.utilisation.pause()

    def from_trainer(self, message: Any) -> None:
        """Handle what the trainer says."""
        if self.trainer is Trainer.STOPPED and not isinstance(message, ipc.TrainerFailed):
            return  # said before it read that it is to stop
        match message:
            case ipc.AskAllReduce():
                self._ask(message)
            case ipc.AskGather():
                self.trainer = Trainer.ASKING
                self._around.command(commands.ContributeBody(message.index, message.body, message.tag))
            case ipc.Finished():
                self._finished(message)
            case ipc.Idle():
                self._idle(message)
            case ipc.Problem(source=source, text=text):
                self._problems.add(source)
                self._around.problem(f"training: {source}", text)
            case ipc.TrainerFailed():
                self.failure = message.text
            case _ if (command := command_of(message)) is not None:
                self._around.command(command)

    def _ask(self, message: ipc.AskAllReduce) -> None:
        assert self._segment is not None
        self.trainer = Trainer.ASKING
        if message.numel > self._segment.exchange.size:
            self._answer(ipc.AskFailed(kind="GossipError", text="the vector is larger than its region"))
            return
        vector = self._segment.exchange[: message.numel]
        if self.spec is not None and self.spec.engine != NATIVE:
            self._ask_engine(message, vector)
            return
        if self.spec is not None and self.spec.privacy != "none":
            self._ask_privately(self.spec, message, vector)
            return
        among = tuple(PeerId(peer) for peer in message.among)
        given = (message.weight, message.kind, message.tag, message.discount, among, message.masking)
        self._around.command(commands.Contribute(message.index, vector, *given))

    def _ask_privately(self, spec: RunSpec, message: ipc.AskAllReduce, vector: Vector) -> None:
        """Let the member see what may leave this node, once that is noted on the disk."""
        if refusal := self.privacy.refusal(spec, message):
            self._around.problem("privacy", refusal)
            self._answer(ipc.AskFailed(kind="GossipError", text=refusal))
            return
        state, answered = self._vector()[: message.numel], self._answered

        def go_on(given: Given) -> None:
            self._around.problem("privacy", given.problem)
            if self._answered != answered or self.trainer is not Trainer.ASKING:
                return  # the swarm went on meanwhile
            if given.failure:
                self._answer(ipc.AskFailed(kind="GossipError", text=given.failure))
                return
            if given.vector is not None:
                vector[:] = given.vector
            asked = commands.Contribute(message.index, vector, given.weight, message.kind, message.tag)
            self._around.command(asked)

        self._later(lambda: self.privacy.give(spec, message, vector, state), go_on, vector.nbytes)

    def _ask_engine(self, message: ipc.AskAllReduce, vector: Vector) -> None:
        assert self.spec is not None
        if not self._around.has_engine:
            text = f"this node runs without engine {self.spec.engine}: start it with --engine"
            self._answer(ipc.AskFailed(kind="GossipError", text=text))
            return
        self._around.command(commands.BeginExternalExchange())
        # Unless the swarm went on without us, which has been answered.
        if self.trainer is Trainer.ASKING:
            self._around.average(message, vector)

    def _finished(self, message: ipc.Finished) -> None:
        if message.slot != 1 - self._slot or message.round != self.round:
            log.error(
                "trainer finished round %d in slot %d; expected %d", message.round, message.slot, self.round
            )
            return
        assert self._segment is not None
        assert self._movements is not None
        made, former, movements = self._segment.slots[message.slot], self._vector(), self._movements

        def work() -> tuple[bytes, Movement | None]:
            return leaves(made.data), movements.between(former, made)

        self._later(work, lambda result: self._made_state(message, *result), made.nbytes)

    def _made_state(self, message: ipc.Finished, hashes: bytes, moved: Movement | None) -> None:
        self.trainer = Trainer.IDLE
        self.utilisation.round_ended(message.work_seconds, self._around.now())
        if self._syncing:
            # The swarm moved on while it worked, and it asked for nothing: its work is in vain.
            self._go_on_synced()
            return
        if moved is None:
            self._not_finite += 1
            self._made_nothing(message.round, "the new state has numbers that are not finite")
            return
        self._not_finite = 0
        self._around.problem("numbers", "")
        self._around.problem("asks", "")
        if len(self.past.contributors) > 1:
            self._around.problem("trust", "")
        self._note_movement(moved)
        self._slot = message.slot
        self.previous = self.state
        self._name_state(hashes)
        self.round += 1
        self._around.note_members(self._record())
        self.past.note(self.run, message, self.state)
        self._state_is_new(self.past.contributors)

    def _idle(self, message: ipc.Idle) -> None:
        self.trainer = Trainer.IDLE
        self.utilisation.round_ended(message.work_seconds, self._around.now())
        if self._syncing:
            self._go_on_synced()
            return
        self._made_nothing(message.round, message.reason)

    def _made_nothing(self, round_: int, reason: str) -> None:
        """Run the round again from the old state, or from an earlier one if that gives no finite numbers."""
        log.info("round %d ended without a new state: %s", round_, reason)
        self.past.note_stateless(self.run, round_, "failed", self.state, reason)
        self._around.command(commands.AbortRound())
        if self._syncing:
            return
        if self._not_finite < MAX_NOT_FINITE:
            self._begin()
        else:
            self._go_back()

    def _go_back(self) -> None:
        """Put the last state in place from which a round had finite numbers: it is on the disk."""
        self._not_finite = 0
        slot = self._other_slot()
        run, round_, numel = self.run, self.round, slot.size

        def load() -> tuple[Checkpoint | None, bytes]:
            found = self._around.load(self._state_dir, run, numel=numel, before=round_)
            if found is not None:
                slot[:] = found.vector
            return found, leaves(slot.data)

        self._later(load, lambda result: self._went_back(*result), slot.nbytes)

    def _went_back(self, found: Checkpoint | None, hashes: bytes) -> None:
        if self._syncing:
            self._go_on_synced()
            return
        lost = f"{MAX_NOT_FINITE} rounds in a row from the state of round {self.round} had no finite numbers"
        if found is None:
            advice = "lower the learning rate, or start anew with another --home"
            self._around.problem("numbers", f"{lost}, and there is no earlier state to go back to: {advice}")
            self._begin()
            return
        log.info("%s: going back to the state of round %d", lost, found.round)
        self._around.problem("numbers", f"{lost}: this node went back to round {found.round}")
        self._around.command(commands.RefuseState(self.state))
        self._slot, self._replaced = 1 - self._slot, self._replaced + 1
        self.round, self.previous = found.round, found.previous_hash
        self._name_state(hashes)
        self._state_is_new()

    def _answer(self, message: Message) -> None:
        if self.trainer is Trainer.ASKING and self._reply is not None:
            self.trainer = Trainer.WORKING
            self._answered += 1
            self._reply(message)

    # --- the member -------------------------------------------------------------------------------

    def notice(self, notice: Any) -> None:
        """Handle what the member says."""
        match notice:
            case commands.Averaged():
                self.past.take_answer(notice)
                contributors = notice.exchanged.contributors
                self._answer(ipc.Averaged(contributors=tuple(contributors)))
            case commands.Gathered():
                self.past.take_answer(notice)
                self._answer(ipc.Gathered(bodies=tuple(notice.bodies), me=self.me))
            case commands.Failed():
                self._not_finite += notice.kind == "NotFinite"
                if notice.kind == "Mismatch":
                    self._around.problem("asks", notice.text)
                self._answer(ipc.AskFailed(kind=notice.kind, text=notice.text))
            case commands.Behind():
                self._syncing, self._synced = True, None
                self._set_flag(ipc.INTERRUPT)
                log.info(
                    "the swarm is at round %d, this node at %d: fetching its state", notice.round, self.round
                )
            case commands.Synced():
                self._synced = notice
                if self.trainer not in (Trainer.WORKING, Trainer.ASKING):
                    self._go_on_synced()
            case HandedOut() | Ended() | RoleTaken() | commands.RoleFound():
                if self.trainer is not Trainer.STOPPED and self._reply is not None:
                    self._reply(message_of(notice))
            case commands.FinishEarly():
                self._set_flag(ipc.HURRY)
            case commands.Acquainted():
                self._trust = msgspec.structs.replace(
                    self._trust, known=notice.known, is_unanchored=notice.is_unanchored
                )
                self._around.remember(self._trust)
            case Alone(waits=waits):
                self._waits_alone = waits
                self._set_flag(ipc.ALONE, waits)
            case InCompany():
                self._waits_alone = False
                self._set_flag(ipc.ALONE, False)
            case commands.Refused():
                line = f"{short(notice.peer)}: {notice.reason}"
                if line not in self.refusals:
                    self.refusals.append(line)

    def _go_on_synced(self) -> None:
        """The trainer stands still; if the state has come too, put it in place."""
        synced = self._synced
        if synced is None or self._segment is None:
            return
        self._syncing, self._synced = False, None
        if synced.vector.size == 0:
            self._go_on()
            return
        assert self._movements is not None
        slot, ours, movements = self._other_slot(), self._vector(), self._movements

        def copy() -> str:
            objection = movements.objection(ours, synced.vector, synced.rounds_apart)
            if not objection:
                slot[:] = synced.vector
            return objection

        def copied(objection: str) -> None:
            if objection:
                self._refuse(synced, objection)
            else:
                self._take_over(synced)

        self._later(copy, copied, slot.nbytes)

    def _refuse(self, synced: commands.Synced, objection: str) -> None:
        """Stay at our own state, and say so: the swarm's is not within what its rounds account for."""
        givers = [short(peer) for peer in sorted(synced.donors)]
        some = ", ".join(givers[:MAX_GIVERS]) + (" and others" if len(givers) > MAX_GIVERS else "")
        given = f" (given by {some})" if some else ""
        text = f"the state that others hold at round {synced.round}{given} was not taken over: {objection}"
        log.info("%s", text)
        self._around.problem("trust", text)
        self.past.note_stateless(self.run, self.round, "failed", self.state, text)
        self._around.command(commands.RefuseState(synced.state, fault_of(objection, synced.rounds_apart)))
        if not self._syncing:
            self._go_on()

    def reset_trust(self) -> None:
        """Begin anew with whom this node knows, and with how far its rounds move the state."""
        if self.spec is None:
            return
        self._trust = RunTrust(run=self.run.hex())
        self._movements = Movements(self.spec)
        self._around.remember(self._trust)
        self._around.problem("trust", "")
        self._around.command(commands.ResetTrust())

    def _take_over(self, synced: commands.Synced) -> None:
        self._slot, self._replaced = 1 - self._slot, self._replaced + 1
        self.round, self.state, self.previous = synced.round, synced.state, synced.previous
        self._leaves = synced.leaves
        chunks = [f"{short(peer)} {count}" for peer, count in sorted(synced.donors.items())]
        if synced.reused:
            chunks.append(f"known already {synced.reused}")
        log.info("took over the swarm's state at round %d (chunks: %s)", synced.round, ", ".join(chunks))
        self.past.note_stateless(self.run, synced.round - 1, "synced", self.state)
        self._around.problem("trust", "")
        self._had_company, self._not_finite = True, 0
        self._state_is_new()

    # --- inside -----------------------------------------------------------------------------------

    def _state_is_new(self, contributors: tuple[PeerId, ...] = ()) -> None:
        assert self._segment is not None
        assert self.spec is not None
        data = self._segment.slots[self._slot].data
        self._had_company = self._had_company or len(contributors) > 1
        names = (self.run, self.round, self.state, self.previous)
        self._around.save(Checkpoint(*names, self._vector(), self._had_company, self._leaves), self.spec)
        self._around.command(
            commands.NewState(self.round, self.state, self.previous, data, self._leaves, contributors)
        )
        if not self._syncing:
            self._go_on()

    def _go_on(self) -> None:
        """Begin the next round, or end the run; its last state may still turn out to be another's."""
        if self._is_over():
            self._stop_trainer()
            self._around.command(commands.Finish())
        else:
            self._begin()

    def _begin(self) -> None:
        if self.is_paused:
            self._hold()
            return
        assert self._segment is not None
        self._failpoint.hit("work", self.round)
        self._segment.flags[:] = 0
        self._set_flag(ipc.ALONE, self._waits_alone)
        self.past.begin()
        self.trainer = Trainer.WORKING
        if self._reply is not None:
            self._reply(ipc.Begin(round=self.round, slot=self._slot, replaced=self._replaced))

    def _stop_trainer(self) -> None:
        self.trainer = Trainer.STOPPED
        if self._reply is not None:
            self._reply(ipc.Stop())

    def pause(self) -> None:
        """Begin no further round. Local work is broken off; an ask in which peers count on us is finished."""
        self.is_paused = True
        if self.trainer is Trainer.WORKING:
            self._set_flag(ipc.INTERRUPT)
        elif self._waits_alone:
            # Nobody counts on us, and nothing else would end it.
            self._answer(ipc.AskFailed(kind="LeftOut", text="the node pauses"))

    def resume(self) -> None:
        """Go on from the state that we hold, or from the swarm's if that is a later one."""
        self.is_paused = False
        if self.is_held and self._attach is not None:
            self._attach_to_member(self._attach)

    def _hold(self) -> None:
        """Have the trainer stand still between two rounds, and say that we do not train."""
        self.is_held = True
        self._around.command(commands.Detach())
        self.utilisation.pause()

    def stop(self) -> None:
        """Interrupt the trainer and tell it to end."""
        self._set_flag(ipc.INTERRUPT)
        self._answer(ipc.AskFailed(kind="LeftOut", text="the node stops"))
        if self.trainer not in (Trainer.NONE, Trainer.STOPPED):
            self._stop_trainer()
        self._life += 1

    @property
    def exchange_numel(self) -> int:
        """How many numbers the trainer's largest vector has."""
        return self._segment.exchange.size if self._segment is not None else 0

    @property
    def is_finished(self) -> bool:
        """Whether the run is over."""
        return self.spec is not None and self._is_over()

    def _is_over(self) -> bool:
        return self.spec is not None and 0 < self.spec.rounds <= self.round

    def _vector(self) -> Vector:
        assert self._segment is not None
        return self._segment.slots[self._slot]

    def _other_slot(self) -> Vector:
        """Return where the next state goes."""
        assert self._segment is not None
        return self._segment.slots[1 - self._slot]

    def _record(self) -> RoundRecord:
        """Return who was in the round that was just finished."""
        return RoundRecord(
            run=self.run.hex(),
            round=self.round - 1,
            before=self.previous.hex(),
            after=self.state.hex(),
            members=tuple(sorted({*self.past.members, self.me})),
            is_whole=not self.past.mixes,
        )

    def _note_movement(self, moved: Movement) -> None:
        assert self._movements is not None
        self._movements.note(moved)
        self._trust = msgspec.structs.replace(self._trust, movements=self._movements.past)

    def _name_state(self, hashes: bytes) -> None:
        """Take the hashes of the current state's chunks for its own."""
        self._leaves, self.state = hashes, root(hashes, self._vector().nbytes)

    def _later(self, work: Callable[[], T], then: Callable[[T], None], n_bytes: int) -> None:
        """Compute, and go on if the trainer is still the same by then."""
        life = self._life

        def go_on(result: T) -> None:
            if self._life == life:
                then(result)

        self._around.compute(work, go_on, n_bytes)

    def _set_flag(self, flag: int, value: bool = True) -> None:
        if self._segment is not None:
            self._segment.flags[flag] = int(value)
