"""Rounds: what the trainer and the member say to each other, one message at a time."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.crypto.keys import PeerId, short
from shoal.gossip.events import Vector
from shoal.gossip.group import Exchanged
from shoal.gossip.member import commands
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.movement import GAVE_NOT_FINITE, GAVE_TOO_FAR, MAX_APART
from shoal.gossip.state.tree_hash import state_hash
from shoal.node.daemon.round_log import MAX_HISTORY
from shoal.node.daemon.rounds import MAX_LINES, Rounds, Trainer
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.failpoints import Failpoint
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.status import RoundStatus
from shoal.node.storage.checkpoint import Checkpoint
from shoal.node.storage.run_trust import RunTrust
from shoal.node.trainer import ipc

ME, PEER = PeerId("12D3KooWme"), PeerId("12D3KooWpeer")
NUMEL = 6


def spec(**changes: Any) -> RunSpec:
    tensors = (TensorSpec("w", "float32", (NUMEL,)),)
    return RunSpec(**{"method": "fedavg", "task": "digits", "tensors": tensors, **changes})


class Around(Surroundings):
    """What the rounds of a table do to their node."""

    def __init__(self, table: "Table") -> None:
        self._table = table
        self.time = 0.0
        self.later: Deferred | None = None
        """Takes computations, to do them when the test says so."""
        self.trust: RunTrust | None = None
        """What is known from before."""
        self.kept: list[RunTrust] = []

    def now(self) -> float:
        return self.time

    def compute(self, work: Callable[[], Any], then: Callable[[Any], None], n_bytes: int) -> None:
        if self.later is not None:
            self.later(work, then, n_bytes)
        else:
            then(work())

    def recall(self, directory: Path, run: bytes) -> RunTrust:
        known = self.trust or RunTrust(run="")
        return msgspec.structs.replace(known, run=run.hex())

    def remember(self, trust: RunTrust) -> None:
        self.kept.append(trust)

    def command(self, event: Any) -> None:
        self._table.commands.append(event)

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        self._table.saved.append(checkpoint)

    def record(self, run: bytes, status: RoundStatus) -> None:
        self._table.recorded.append(status)

    def note_members(self, record: RoundRecord) -> None:
        self._table.records.append(record)

    def set_run(self, run: bytes) -> None:
        self._table.runs.append(run)

    def load(
        self, directory: Path, run: bytes, *, numel: int, before: int | None = None
    ) -> Checkpoint | None:
        return self._table.earlier if before is not None else self._table.found

    def problem(self, source: str, text: str) -> None:
        self._table.problems[source] = text

    def moved(self) -> tuple[int, int]:
        return self._table.moved


class Table:
    """A `Rounds` between a trainer and a member that the test plays."""

    def __init__(
        self,
        found: Checkpoint | None = None,
        **changes: Any,
    ) -> None:
        self.spec = spec(**changes)
        self.told: list[Any] = []
        self.commands: list[Any] = []
        self.saved: list[Checkpoint] = []
        self.recorded: list[RoundStatus] = []
        self.records: list[RoundRecord] = []
        self.runs: list[bytes] = []
        self.problems: dict[str, str] = {}
        self.moved = (0, 0)
        """Bytes sent and received so far."""
        self.earlier: Checkpoint | None = None
        """What is on the disk of earlier rounds."""
        self.found, self.around = found, Around(self)
        self.rounds = Rounds(ME, Path("state"), Failpoint(""), self.around)
        self.segment, descriptor = ipc.Segment.create(NUMEL, NUMEL)
        os.close(descriptor)

    def attach(self, initial: float = 1.0, *, asks: bool = True) -> "Table":
        self.segment.slots[0][:] = initial
        message = ipc.Attach(pid=1, spec=self.spec, exchange_numel=NUMEL, mergeable=True, asks=asks)
        self.rounds.attached(message, self.segment, self.told.append)
        return self

    def ask(self, value: float = 2.0, kind: Any = "statistic") -> None:
        self.segment.exchange[:] = value
        message = ipc.AskAllReduce(
            round=self.rounds.round, index=0, weight=10.0, numel=NUMEL, kind=kind, discount=0.25
        )
        self.rounds.from_trainer(message)

    def agree(self, *contributors: PeerId) -> None:
        exchanged = Exchanged((), contributors, 0)
        self.rounds.notice(commands.Averaged(self.rounds.round, 0, exchanged, 0.25, 0.5))

    def finish(
        self, value: float, *, slot: int | None = None, round_: int | None = None, **metrics: float
    ) -> None:
        begin = next(each for each in reversed(self.told) if isinstance(each, ipc.Begin))
        slot = 1 - begin.slot if slot is None else slot
        self.segment.slots[slot][:] = value
        self.rounds.from_trainer(
            ipc.Finished(
                round=begin.round if round_ is None else round_,
                slot=slot,
                loss=0.5,
                examples=10,
                steps=5,
                work_seconds=1.0,
                metrics={"accuracy": 0.75, **metrics},
            )
        )

    def sync(self, round_: int, value: float) -> None:
        vector = full(value)
        donors = {PEER: 1}
        self.rounds.notice(commands.Synced(round_, hashed(value), hashed(value - 1), vector, donors))


def full(value: float) -> Vector:
    return np.full(NUMEL, value, dtype=np.float32)


def hashed(value: float) -> bytes:
    return state_hash(full(value).data)


# --- a trainer comes ------------------------------------------------------------------------------


def test_a_first_trainer_begins_with_its_own_state_which_is_saved_and_told() -> None:
    table = Table().attach(1.0)
    assert table.told == [ipc.Attached(round=0, slot=0, restored=False, me=ME), ipc.Begin(round=0, slot=0)]
    attach, new = table.commands
    assert attach == commands.Attach(run_id(table.spec), table.spec, True)
    assert (new.round, new.state, new.previous) == (0, hashed(1.0), b"")
    assert bytes(new.data) == full(1.0).tobytes()
    assert [(each.round, each.state_hash) for each in table.saved] == [(0, hashed(1.0))]
    assert table.runs == [run_id(table.spec)]


def test_a_trainer_goes_on_from_the_state_on_disk() -> None:
    found = Checkpoint(run_id(spec()), 7, hashed(3.0), hashed(2.0), full(3.0))
    table = Table(found).attach(1.0)
    assert table.told == [ipc.Attached(round=7, slot=0, restored=True, me=ME), ipc.Begin(round=7, slot=0)]
    assert (table.segment.slots[0] == 3.0).all()
    new = table.commands[-1]
    assert (new.round, new.state, new.previous) == (7, hashed(3.0), hashed(2.0))


def test_a_method_that_asks_nobody_trains_in_a_run_of_its_own() -> None:
    table = Table().attach(asks=False)
    own = blake2b(run_id(table.spec) + ME.encode(), digest_size=32).digest()
    assert table.runs == [own]
    assert table.commands[0].run == table.saved[0].run_id == own


# --- a round --------------------------------------------------------------------------------------


def test_a_record_names_all_whose_contribution_may_be_in_the_state_by_any_ask() -> None:
    table = Table().attach(1.0)
    lost, other = PeerId("lost"), PeerId("other")
    for contributors, members, mixes in (
        ((ME, PEER), (ME, PEER, lost), False),
        ((ME, other), (ME, other), False),
    ):
        table.ask(2.0)
        exchanged = Exchanged((), contributors, 0)
        table.rounds.notice(commands.Averaged(0, 0, exchanged, 0.0, 0.0, members, mixes))
    table.finish(4.0)
    table.ask(2.0)
    table.rounds.notice(commands.Gathered(1, 0, ((PEER, b""),), 0.0, 0.0, True))
    table.finish(5.0)
    table.finish(6.0)
    first, second, third = table.records
    assert (first.round, first.before, first.after) == (0, hashed(1.0).hex(), hashed(4.0).hex())
    assert (first.members, first.is_whole) == (tuple(sorted((ME, PEER, lost, other))), True)
    assert (second.round, second.members, second.is_whole) == (1, (ME, PEER), False)
    assert (third.members, third.is_whole) == ((ME,), True)


def test_a_round_goes_from_the_ask_over_the_mean_to_the_next() -> None:
    table = Table().attach(1.0)
    table.ask(2.0)
    contribute = table.commands[-1]
    assert isinstance(contribute, commands.Contribute)
    assert (contribute.index, contribute.weight, contribute.discount) == (0, 10.0, 0.25)
    contribute.vector[:] = 4.0
    assert (table.segment.exchange == 4.0).all(), "the mean comes back where the contribution was"
    table.agree(ME, PEER)
    assert table.told[-1] == ipc.Averaged(contributors=(ME, PEER))
    table.finish(4.0)
    new = table.commands[-1]
    assert (new.round, new.state, new.previous) == (1, hashed(4.0), hashed(1.0))
    assert bytes(new.data) == full(4.0).tobytes()
    assert table.told[-1] == ipc.Begin(round=1, slot=1)
    [noted] = table.rounds.past.history
    assert table.recorded == [noted]
    assert (noted.round, noted.outcome, noted.contributors) == (0, "averaged", 2)
    assert (noted.loss, noted.metrics, noted.work_seconds) == (0.5, {"accuracy": 0.75}, 1.0)
    assert (noted.matchmaking_seconds, noted.exchange_seconds) == (0.25, 0.5)
    assert noted.state_hash == hashed(4.0).hex()[:12]


def test_a_round_tells_who_was_in_it_and_what_the_node_moved_meanwhile() -> None:
    table = Table().attach(1.0)
    for moved in ((100, 70), (160, 90)):
        table.ask()
        table.moved = moved
        table.agree(ME, PEER)
        table.finish(4.0)
    first, second = table.rounds.past.history
    assert first.members == second.members == [short(ME), short(PEER)]
    assert (first.bytes_sent, first.bytes_received) == (100, 70)
    assert (second.bytes_sent, second.bytes_received) == (60, 20)


def test_a_round_of_several_asks_took_as_long_as_all_of_them() -> None:
    table = Table().attach()
    for _ in range(2):
        table.ask()
        table.agree(ME, PEER)
    table.finish(2.0)
    table.ask()
    table.agree(ME, PEER)
    table.finish(3.0)
    times = [(each.matchmaking_seconds, each.exchange_seconds) for each in table.rounds.past.history]
    assert times == [(0.5, 1.0), (0.25, 0.5)]


def test_what_a_method_refused_is_added_up_by_reason() -> None:
    table = Table().attach()
    for refused, left_out in ((1.0, 0.0), (2.0, 1.0), (float("nan"), -1.0)):
        table.ask()
        table.agree(ME, PEER)
        table.finish(2.0, refused=refused, left_out=left_out)
    assert dict(table.rounds.past.refused) == {
        "a body that the method refused": 3,
        "a vector that holders of its task found harmful": 1,
    }


def test_the_slots_take_turns() -> None:
    table = Table().attach(1.0)
    for round_ in range(4):
        table.ask()
        table.agree(ME, PEER)
        table.finish(float(round_))
    assert [each.slot for each in table.told if isinstance(each, ipc.Begin)] == [0, 1, 0, 1, 0]
    assert [each.round for each in table.saved] == [0, 1, 2, 3, 4]


def test_a_round_with_nobody_else_is_noted_as_alone() -> None:
    table = Table().attach()
    table.ask()
    table.agree(ME)
    table.finish(2.0)
    assert [(each.outcome, each.contributors) for each in table.rounds.past.history] == [("alone", 1)]


def test_the_waiting_of_an_earlier_round_is_not_noted_again() -> None:
    table = Table().attach()
    table.ask()
    table.agree(ME, PEER)
    table.finish(2.0)
    table.finish(3.0)
    assert [each.matchmaking_seconds for each in table.rounds.past.history] == [0.25, 0.0]
    assert [each.contributors for each in table.rounds.past.history] == [2, 1]


def test_bodies_are_gathered_as_they_were_agreed() -> None:
    table = Table().attach()
    table.rounds.from_trainer(ipc.AskGather(round=0, index=0, body=b"mine"))
    assert table.commands[-1] == commands.ContributeBody(0, b"mine")
    bodies = ((ME, b"mine"), (PEER, b"theirs"))
    table.rounds.notice(commands.Gathered(0, 0, bodies, 0.1, 0.2))
    assert table.told[-1] == ipc.Gathered(bodies=bodies, me=ME)
    table.finish(2.0)
    assert table.rounds.past.history[-1].contributors == 2


def test_a_failed_ask_is_answered_and_the_round_begins_again_from_the_old_state() -> None:
    table = Table().attach(1.0)
    table.ask()
    table.rounds.notice(commands.Failed("TooFew", "1 of at least 2"))
    assert table.told[-1] == ipc.AskFailed(kind="TooFew", text="1 of at least 2")
    table.rounds.from_trainer(ipc.Idle(round=0, reason="TooFew: 1 of at least 2"))
    assert table.commands[-1] == commands.AbortRound()
    assert table.told[-1] == ipc.Begin(round=0, slot=0)
    assert [(each.round, each.outcome) for each in table.rounds.past.history] == [(0, "failed")]
    assert math.isnan(table.rounds.past.history[0].loss)
    assert table.rounds.state == hashed(1.0)


@pytest.mark.parametrize(("slot", "round_"), [(0, 0), (1, 1), (1, -1)])
def test_a_state_in_a_wrong_place_is_not_taken(slot: int, round_: int) -> None:
    table = Table().attach(1.0)
    before = len(table.commands)
    table.finish(9.0, slot=slot, round_=round_)
    assert len(table.commands) == before
    assert (table.rounds.round, table.rounds.state) == (0, hashed(1.0))
    assert not table.rounds.past.history


def test_a_vector_larger_than_its_region_is_refused() -> None:
    table = Table().attach()
    before = len(table.commands)
    table.rounds.from_trainer(ipc.AskAllReduce(round=0, index=0, weight=1.0, numel=NUMEL + 1))
    assert len(table.commands) == before
    assert isinstance(table.told[-1], ipc.AskFailed)
    assert table.rounds.trainer is Trainer.WORKING


def test_an_answer_to_nobody_is_dropped() -> None:
    table = Table().attach()
    before = list(table.told)
    table.agree(ME, PEER)
    table.rounds.notice(commands.Failed("LeftOut", ""))
    assert table.told == before


# --- hurry, and falling behind --------------------------------------------------------------------


def test_hurry_is_a_flag_that_ends_with_the_round() -> None:
    table = Table().attach()
    table.rounds.notice(commands.FinishEarly())
    assert table.segment.flags[ipc.HURRY] == 1
    table.finish(2.0)
    assert table.segment.flags[ipc.HURRY] == 0


def test_a_node_that_is_behind_throws_its_work_away_and_takes_the_swarms_state() -> None:
    table = Table().attach(1.0)
    table.rounds.notice(commands.Behind(9))
    assert table.segment.flags[ipc.INTERRUPT] == 1
    table.rounds.from_trainer(ipc.Idle(round=0, reason="Interrupted"))
    told = len(table.told)
    table.sync(9, 5.0)
    assert (table.segment.slots[1] == 5.0).all()
    new = table.commands[-1]
    assert (new.round, new.state, new.previous) == (9, hashed(5.0), hashed(4.0))
    assert table.told[told:] == [ipc.Begin(round=9, slot=1, replaced=1)]
    assert table.segment.flags[ipc.INTERRUPT] == 0
    assert [(each.round, each.outcome) for each in table.rounds.past.history] == [(8, "synced")]
    assert table.saved[-1].round == 9
    assert not any(isinstance(each, commands.AbortRound) for each in table.commands)


def test_a_state_that_comes_before_the_trainer_stands_still_waits_for_it() -> None:
    table = Table().attach(1.0)
    table.rounds.notice(commands.Behind(9))
    before = len(table.commands)
    table.sync(9, 5.0)
    assert len(table.commands) == before
    assert (table.segment.slots[0] == 1.0).all()
    table.rounds.from_trainer(ipc.Idle(round=0, reason="Interrupted"))
    assert table.told[-1] == ipc.Begin(round=9, slot=1, replaced=1)


def test_work_that_ends_too_late_to_be_interrupted_is_in_vain_too() -> None:
    table = Table().attach(1.0)
    table.rounds.notice(commands.Behind(9))
    table.finish(2.0)
    assert table.rounds.round == 0
    assert not table.rounds.past.history
    table.sync(9, 5.0)
    # The trainer has written to slot 1 by itself; the swarm's state lands there all the same.
    assert table.told[-1] == ipc.Begin(round=9, slot=1, replaced=1)
    assert (table.segment.slots[1] == 5.0).all()


def test_a_node_that_finds_no_donor_runs_its_round_again() -> None:
    table = Table().attach(1.0)
    table.rounds.notice(commands.Behind(9))
    table.rounds.from_trainer(ipc.Idle(round=0, reason="Interrupted"))
    empty = np.empty(0, dtype=np.float32)
    table.rounds.notice(commands.Synced(0, hashed(1.0), b"", empty))
    assert table.told[-1] == ipc.Begin(round=0, slot=0)
    assert table.rounds.state == hashed(1.0)


# --- the end --------------------------------------------------------------------------------------


def test_after_its_last_round_a_run_is_finished_and_the_trainer_ends() -> None:
    table = Table(rounds=1).attach()
    assert not table.rounds.is_finished
    table.finish(2.0)
    assert table.rounds.is_finished
    assert table.told[-1] == ipc.Stop()
    assert table.commands[-1] == commands.Finish()
    table.rounds.detached()
    assert table.commands[-1] == commands.Finish(), "the node stays, to serve its last state"


def test_a_trainer_of_a_finished_run_is_sent_home_at_once() -> None:
    table = Table(Checkpoint(run_id(spec(rounds=7)), 7, hashed(3.0), b"", full(3.0)), rounds=7).attach()
    assert table.told == [ipc.Attached(round=7, slot=0, restored=True, me=ME), ipc.Stop()]


def test_the_end_of_a_trainer_is_told_and_the_next_one_is_taken_on() -> None:
    table = Table().attach(1.0)
    table.ask()
    table.rounds.detached()
    assert table.commands[-1] == commands.Detach()
    assert table.rounds.trainer is Trainer.NONE
    table.agree(ME, PEER)
    table.told.clear()
    table.attach(1.0)
    assert table.told == [ipc.Attached(round=0, slot=0, restored=False, me=ME), ipc.Begin(round=0, slot=0)]


def test_a_node_that_stops_interrupts_its_trainer_and_hears_nothing_more_of_it() -> None:
    table = Table().attach()
    table.ask()
    table.rounds.stop()
    assert table.segment.flags[ipc.INTERRUPT] == 1
    assert table.told[-2:] == [ipc.AskFailed(kind="LeftOut", text="the node stops"), ipc.Stop()]
    before = list(table.commands)
    table.rounds.from_trainer(ipc.Idle(round=0, reason="LeftOut"))
    table.agree(ME, PEER)
    table.rounds.detached()
    assert table.commands == before, "a word after the goodbye would bring us back into the peers' tables"
    assert not table.rounds.past.history


def test_a_node_without_a_trainer_stops_as_well() -> None:
    table = Table()
    table.rounds.stop()
    table.rounds.detached()
    assert table.commands == []


def test_what_the_trainer_says_of_its_failure_is_kept() -> None:
    table = Table()
    table.rounds.from_trainer(ipc.TrainerFailed(text="no module flowers"))
    assert table.rounds.failure == "no module flowers"


# --- what is shown --------------------------------------------------------------------------------


def test_a_refusal_is_shown_once_and_few_are_kept() -> None:
    table = Table()
    for reason in ("other run spec: lr", "other run spec: lr", "other run spec: method"):
        table.rounds.notice(commands.Refused(PEER, reason))
    assert list(table.rounds.refusals) == [
        "KooWpeer: other run spec: lr",
        "KooWpeer: other run spec: method",
    ]
    for number in range(100):
        table.rounds.notice(commands.Refused(PEER, str(number)))
    assert len(table.rounds.refusals) == MAX_LINES


def test_the_history_is_bounded() -> None:
    table = Table().attach()
    for _ in range(MAX_HISTORY + 20):
        table.finish(1.0)
    assert [each.round for each in table.rounds.past.history][-1] == MAX_HISTORY + 19
    assert len(table.rounds.past.history) == MAX_HISTORY


def test_what_the_trainer_computed_is_counted_and_waiting_is_not() -> None:
    table = Table().attach(1.0)
    for value in (2.0, 3.0):
        table.finish(value)
        table.around.time += 4
    assert table.rounds.utilisation.share == 0.25
    table.rounds.from_trainer(ipc.Idle(round=2, reason="TooFew: 1 of 2", work_seconds=3.0))
    assert table.rounds.utilisation.share == 0.5
    table.rounds.detached()
    table.around.time += 1000
    table.attach(1.0).finish(2.0)
    assert table.rounds.utilisation.wall_seconds == 8.0


# --- work that takes long -------------------------------------------------------------------------


class Deferred:
    """Computes when the test says so, as a thread would."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Any]] = []

    def __call__(self, work: Any, then: Any, n_bytes: int) -> None:
        assert n_bytes == 4 * NUMEL
        self.jobs.append((work, then))

    def run(self) -> None:
        work, then = self.jobs.pop(0)
        then(work())


def deferred() -> tuple[Table, Deferred]:
    """A table whose first state is computed already."""
    table, later = Table(), Deferred()
    table.around.later = later
    table.attach(1.0)
    later.run()
    return table, later


def test_nothing_is_told_before_the_state_of_the_disk_is_read() -> None:
    found = Checkpoint(run_id(spec()), 7, hashed(3.0), hashed(2.0), full(3.0))
    table, later = Table(found), Deferred()
    table.around.later = later
    table.attach(1.0)
    assert table.told == table.commands == []
    later.run()
    assert table.told[-1] == ipc.Begin(round=7, slot=0)


def test_a_state_is_hashed_before_the_next_round_begins() -> None:
    table, later = deferred()
    table.finish(2.0)
    assert table.rounds.round == 0
    assert table.rounds.trainer is Trainer.WORKING
    later.run()
    assert (table.rounds.round, table.rounds.state) == (1, hashed(2.0))
    assert table.told[-1] == ipc.Begin(round=1, slot=1)


def test_a_swarm_that_moves_on_while_a_state_is_hashed_has_the_last_word() -> None:
    table, later = deferred()
    table.finish(2.0)
    table.rounds.notice(commands.Behind(5))
    table.sync(5, 9.0)
    assert len(later.jobs) == 1, "the trainer's slot is still being read"
    later.run()
    later.run()
    assert (table.rounds.round, table.rounds.state) == (5, hashed(9.0))
    assert (table.segment.slots[1] == 9.0).all()
    assert table.told[-1] == ipc.Begin(round=5, slot=1, replaced=1)


@pytest.mark.parametrize("how", ["stop", "detached"])
def test_what_was_computed_for_a_trainer_that_is_gone_is_dropped(how: str) -> None:
    table, later = deferred()
    table.finish(2.0)
    getattr(table.rounds, how)()
    told = list(table.told), list(table.commands)
    later.run()
    assert (table.told, table.commands) == told
    assert table.rounds.round == 0


def test_what_the_trainer_says_a_person_should_see_to_is_shown_until_it_ends_or_the_trainer_does() -> None:
    table = Table().attach()
    table.rounds.from_trainer(ipc.Problem(source="metrics", text="no accuracy"))
    assert table.problems == {"training: metrics": "no accuracy"}
    table.rounds.from_trainer(ipc.Problem(source="metrics", text=""))
    table.rounds.from_trainer(ipc.Problem(source="memory", text="starts anew"))
    assert table.problems == {"training: metrics": "", "training: memory": "starts anew"}
    table.rounds.detached()
    assert set(table.problems.values()) == {""}


# --- whom this node knows -------------------------------------------------------------------------


def test_whom_a_node_knows_in_a_run_is_read_at_the_start_and_kept_round_by_round(tmp_path: Path) -> None:
    known = (Acquaintance(PEER, 3, 9.0),)
    table = Table()
    table.around.trust = RunTrust(run="", known=known, movements=((1.0, 0.0, 0.0),))
    table.attach()
    assert table.commands[0].known == known
    more = (Acquaintance(PEER, 4, 12.0),)
    table.rounds.notice(commands.Acquainted(more))
    assert table.around.kept == [
        RunTrust(run=run_id(table.spec).hex(), known=more, movements=((1.0, 0.0, 0.0),))
    ]


# --- which states are taken over ------------------------------------------------------------------


def with_history(movement: float, **changes: Any) -> Table:
    """Return a table whose node remembers three rounds that moved its state so far."""
    table = Table(**changes)
    past = ((movement, 0.0, 0.0),) * 3
    table.around.trust = RunTrust(run="", movements=past)
    return table.attach(1.0)


def offer(table: Table, round_: int, value: float, apart: int) -> None:
    table.rounds.notice(commands.Behind(round_))
    table.rounds.from_trainer(ipc.Idle(round=table.rounds.round, reason="Interrupted", work_seconds=0.0))
    vector = full(value)
    found = commands.Synced(round_, state_hash(vector.data), b"", vector, {PEER: 1}, rounds_apart=apart)
    table.rounds.notice(found)


@pytest.mark.parametrize(
    ("value", "apart", "is_taken"), [(3.0, 1, True), (3.0, 0, False), (50.0, 1, False), (math.nan, 90, False)]
)
def test_a_state_of_others_is_taken_over_only_where_its_rounds_account_for_it(
    value: float, apart: int, is_taken: bool
) -> None:
    # Two from 1.0 in six numbers are 4.9 away, and a round moves the state by one.
    table = with_history(1.0)
    offer(table, 5, value, apart)
    refused = [each.state for each in table.commands if isinstance(each, commands.RefuseState)]
    if is_taken:
        assert table.rounds.state == hashed(value)
        assert (table.rounds.round, refused, table.problems["trust"]) == (5, [], "")
        return
    assert (table.rounds.round, table.rounds.state) == (0, hashed(1.0))
    assert refused == [state_hash(full(value).data)]
    faults = [each.fault for each in table.commands if isinstance(each, commands.RefuseState)]
    assert faults == [GAVE_NOT_FINITE if math.isnan(value) else GAVE_TOO_FAR]
    assert f"round 5 (given by {short(PEER)}) was not taken over" in table.problems["trust"]
    assert table.told[-1] == ipc.Begin(round=0, slot=0)
    assert [each.vector[0] for each in table.saved] == [1.0]


def test_who_was_away_for_too_long_blames_nobody_for_a_state_that_is_far() -> None:
    table = with_history(1.0)
    offer(table, 500, 5000.0, MAX_APART + 1)
    assert table.commands[-1] == commands.RefuseState(state_hash(full(5000.0).data), "")


def test_a_node_without_rounds_of_its_own_takes_over_what_is_finite() -> None:
    table = Table().attach(1.0)
    offer(table, 5, 1e6, 0)
    assert table.rounds.round == 5
    table = Table().attach(1.0)
    offer(table, 5, math.inf, 0)
    assert table.rounds.round == 0


def test_the_movement_of_every_round_is_remembered() -> None:
    table = Table().attach(1.0)
    table.ask()
    table.agree(ME, PEER)
    table.finish(2.0)
    [moved] = table.rounds._trust.movements
    assert moved == pytest.approx((math.sqrt(NUMEL), 0.0, 0.0))


def test_trust_that_is_reset_takes_over_what_was_too_far() -> None:
    table = with_history(1.0)
    offer(table, 5, 50.0, 1)
    table.rounds.reset_trust()
    assert isinstance(table.commands[-1], commands.ResetTrust)
    assert table.around.kept == [RunTrust(run=run_id(table.spec).hex())]
    assert table.problems["trust"] == ""
    offer(table, 6, 50.0, 1)
    assert table.rounds.round == 6


# --- numbers that are not finite ------------------------------------------------------------------


def fail(table: Table) -> None:
    """A round in which the node's own contribution has numbers that are not finite."""
    table.ask(math.nan)
    table.rounds.notice(commands.Failed("NotFinite", "lower the learning rate"))
    table.rounds.from_trainer(ipc.Idle(round=table.rounds.round, reason="NotFinite", work_seconds=0.0))


def advanced() -> Table:
    """A table whose node finished round 0; the state before is on its disk."""
    table = Table().attach(1.0)
    table.earlier = replace(table.saved[0], vector=full(1.0))
    table.ask()
    table.agree(ME, PEER)
    table.finish(2.0)
    return table


def test_a_state_that_gives_no_finite_numbers_twice_is_left_for_the_one_before() -> None:
    table = advanced()
    fail(table)
    assert table.rounds.round == 1
    fail(table)
    assert (table.rounds.round, table.rounds.state) == (0, hashed(1.0))
    refuse, new = table.commands[-2:]
    assert refuse == commands.RefuseState(hashed(2.0))
    assert (new.round, new.state) == (0, hashed(1.0))
    assert table.told[-1] == ipc.Begin(round=0, slot=0, replaced=1)
    assert "this node went back to round 0" in table.problems["numbers"]
    table.ask()
    table.agree(ME, PEER)
    table.finish(3.0)
    assert (table.rounds.round, table.problems["numbers"]) == (1, "")


def test_a_round_with_finite_numbers_between_counts() -> None:
    table = advanced()
    fail(table)
    table.ask()
    table.agree(ME, PEER)
    table.finish(3.0)
    fail(table)
    assert table.rounds.round == 2


def test_a_new_state_that_is_not_finite_is_none() -> None:
    table = advanced()
    for _ in range(2):
        table.ask()
        table.agree(ME, PEER)
        table.finish(math.nan)
    assert (table.rounds.round, table.rounds.state) == (0, hashed(1.0))
    assert [each.state_hash for each in table.saved] == [hashed(1.0), hashed(2.0), hashed(1.0)]
    assert [row.reason for row in table.rounds.past.history if row.outcome == "failed"] == [
        "the new state has numbers that are not finite"
    ] * 2


def test_where_there_is_nothing_to_go_back_to_that_is_said() -> None:
    table = Table().attach(1.0)
    fail(table)
    fail(table)
    assert "no earlier state" in table.problems["numbers"]
    assert table.told[-1] == ipc.Begin(round=0, slot=0)


def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of a run that adds noise, whose node has this folder."""
    monkeypatch.chdir(tmp_path)
    return Table(privacy="local", clip_norm=0.5, noise_multiplier=0.01).attach(1.0)


def test_a_private_contribution_is_on_the_ledger_before_the_member_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, noted = private(tmp_path, monkeypatch), []
    command = table.around.command

    def watch(event: Any) -> None:
        if isinstance(event, commands.Contribute):
            noted.append(PrivacyLedger(tmp_path / "state").count)
        command(event)

    monkeypatch.setattr(table.around, "command", watch)
    for count in (1, 2):
        table.ask(2.0, "params")
        given = table.commands[-1]
        assert isinstance(given, commands.Contribute)
        assert noted[-1] == count
        assert (given.weight, given.discount) == (1.0, 1.0)
        # A change of norm sqrt(6) was shortened to a half, and has noise of 0.005 a number.
        change = given.vector - table.segment.slots[table.rounds._slot]
        assert 0 < np.abs(change - 0.5 / math.sqrt(NUMEL)).max() < 0.05
        table.agree(ME, PEER)
        table.finish(1.0)


def test_a_statistic_is_refused_in_a_private_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = private(tmp_path, monkeypatch)
    table.ask()
    assert isinstance(table.told[-1], ipc.AskFailed)
    assert "--method fedavg" in table.problems["privacy"]
    assert not any(isinstance(each, commands.Contribute) for each in table.commands)
    assert not (tmp_path / "state").exists()


def test_noise_that_comes_too_late_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = private(tmp_path, monkeypatch)
    later = table.around.later = Deferred()
    table.ask(2.0, "params")
    table.rounds.stop()
    table.segment.exchange[:] = 7.0
    later.run()
    assert not any(isinstance(each, commands.Contribute) for each in table.commands)
    assert (table.segment.exchange == 7.0).all()
    assert PrivacyLedger(tmp_path / "state").count == 1, "what was noted stays noted"
