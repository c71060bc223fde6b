"""MaskedSum: cores over queues; the sum opens for all that stay, bit for bit, and for nobody otherwise."""

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from secure_members import CONFIG, Members

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.attendance import ask_name
from shoal.gossip.averaging.secure.masked_sum import Stage
from shoal.gossip.events import Send
from shoal.gossip.messages import SECURE_INDEX, Part, Reduced, Reveal

STAGES = [Stage.ADVERTISE, Stage.DEAL, Stage.HEARD, Stage.SUM, Stage.CONSENT, Stage.UNMASK]


@pytest.mark.parametrize("count", [3, 4, 5, 8, pytest.param(24, marks=pytest.mark.slow)])
def test_all_end_with_the_same_mean_which_is_the_plain_one_to_a_step(count: int) -> None:
    members = Members(count, seed=count)
    members.run()
    assert members.check() == tuple(sorted(members.names))
    mean = members.vectors[members.names[0]]
    assert np.abs(mean - members.expected(members.names)).max() < 0.005


def test_weights_count_as_they_do_in_every_mean() -> None:
    members = Members(4, weights=[4.0, 4.0, 2.0, 2.0], seed=2)
    members.run()
    members.check()
    mean = members.vectors[members.names[0]]
    assert np.abs(mean - members.expected(members.names)).max() < 0.005


def test_what_has_no_state_in_common_is_averaged_as_it_is() -> None:
    members = Members(4, is_based=False)
    members.run()
    members.check()
    mean = members.vectors[members.names[0]]
    assert np.abs(mean - members.expected(members.names)).max() < 1e-4


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sent", [0, 2, 7, 9, 15, 22, 30, 40])
def test_up_to_a_third_may_vanish_at_any_stage(stage: Stage, sent: int) -> None:
    members = Members(8, seed=sent)
    members.kill_at(members.names[1], stage, sent)
    members.kill_at(members.names[6], stage, sent + 2)
    members.run()
    contributors = members.check()
    assert set(members.alive) <= set(contributors)


@pytest.mark.parametrize(
    "count",
    [4, 5, 6, 7, 9, 12, pytest.param(18, marks=pytest.mark.slow), pytest.param(24, marks=pytest.mark.slow)],
)
def test_a_third_of_a_group_of_any_size_may_vanish_spread_over_all_stages(count: int) -> None:
    members = Members(count, seed=count, numel=100)
    for number in range(count // 3):
        members.kill_at(members.names[3 * number + 1], STAGES[(count + number) % 6], number)
    members.run()
    # Each sum is that of the plain words of who is in it, bit for bit.
    assert set(members.alive) <= set(members.check())
    assert len(members.alive) == count - count // 3


@pytest.mark.parametrize("stage", STAGES)
def test_of_three_none_may_vanish_before_the_end(stage: Stage) -> None:
    members = Members(3)
    given = {name: vector.copy() for name, vector in members.vectors.items()}
    members.kill_at(members.names[1], stage, 0)
    members.run()
    for name in members.alive:
        assert members.cores[name].outcome is None
        assert members.cores[name].failure
        assert np.array_equal(members.vectors[name], given[name])


@pytest.mark.parametrize("stage", STAGES)
def test_where_more_vanish_nothing_opens_and_nothing_is_written(stage: Stage) -> None:
    members = Members(6)
    for name in members.names[:3]:
        members.kill_at(name, stage, 0)
    members.run()
    for name in members.alive:
        core = members.cores[name]
        if stage is Stage.ADVERTISE:
            continue  # the other three are a group of their own
        assert core.stage is Stage.FAILED
        assert np.array_equal(members.vectors[name], members.given[name])


def test_two_are_refused() -> None:
    members = Members(2)
    members.run()
    assert {core.failure for core in members.cores.values()} == {
        "2 of at least 3 peers were ready for a secure sum"
    }
    assert all(core.is_refused for core in members.cores.values())


def test_owners_see_masked_words_only() -> None:
    members = Members(4, numel=4000)
    seen: list[bytes] = []

    def watch(sender: PeerId, sent: Send) -> Iterable[Send]:
        if isinstance(sent.message, Part) and sent.message.index == Stage.SUM * SECURE_INDEX:
            seen.append(bytes(sent.data))
        return [sent]

    members.change = watch
    members.run()
    members.check()
    counts = np.bincount(np.frombuffer(b"".join(seen), np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 330


def test_a_member_that_gives_residues_voids_the_sum_and_changes_nothing() -> None:
    members = Members(5, numel=2000)
    liar, dice = members.names[2], np.random.default_rng(0)

    def lie(sender: PeerId, sent: Send) -> Iterable[Send]:
        if (
            sender == liar
            and isinstance(sent.message, Part)
            and sent.message.index // SECURE_INDEX == Stage.SUM
        ):
            return [msgspec.structs.replace(sent, data=dice.bytes(len(sent.data)))]
        return [sent]

    members.change = lie
    members.run()
    for name in members.names:
        assert members.cores[name].is_refused
        assert "outside its range" in members.cores[name].failure
        assert np.array_equal(members.vectors[name], members.given[name])


def test_a_member_that_withholds_or_bends_shares_is_left_out() -> None:
    members = Members(5)
    liar = members.names[2]

    def lie(sender: PeerId, sent: Send) -> Iterable[Send]:
        is_reveal = isinstance(sent.message, Reveal) and sent.message.index == Stage.UNMASK * SECURE_INDEX
        return [] if sender == liar and is_reveal else [sent]

    members.change = lie
    members.run()
    honest = [name for name in members.names if name != liar]
    assert {members.cores[name].stage for name in honest} == {Stage.DONE}
    assert len({members.vectors[name].tobytes() for name in honest}) == 1


def test_an_owner_that_tells_two_lists_opens_nothing() -> None:
    members = Members(5)
    liar = members.names[2]

    def lie(sender: PeerId, sent: Send) -> Iterable[Send]:
        message = sent.message
        is_mean = isinstance(message, Reduced) and message.index == Stage.SUM * SECURE_INDEX
        if sender == liar and is_mean and sent.peer in members.names[:2]:
            assert isinstance(message, Reduced)
            return [msgspec.structs.replace(sent, message=structs_replace(message))]
        return [sent]

    def structs_replace(message: Reduced) -> Reduced:
        mask = int.from_bytes(message.contributors, "big") & ~1
        return msgspec.structs.replace(message, contributors=mask.to_bytes(8, "big"))

    members.change = lie
    members.run()
    lists = [
        core._masks._lists
        for core in members.cores.values()
        if core._masks is not None and core._masks._lists is not None
    ]
    assert len(set(lists)) <= 1


def test_members_that_ask_for_something_else_end_it_at_once() -> None:
    members = Members(4)
    for name in members.names[:2]:
        members.cores[name]._ask = ask_name("all_reduce", "other")
    members.cores[members.names[2]]._ask = members.cores[members.names[3]]._ask = ask_name(
        "all_reduce", "one"
    )
    members.run()
    assert all(core.outcome is None and core.unlike for core in members.cores.values())


@pytest.mark.parametrize("numel", [1, 3, 5000])
def test_vectors_of_any_length_are_averaged(numel: int) -> None:
    members = Members(4, numel=numel, config=msgspec.structs.replace(CONFIG, chunk_numel=64))
    members.run()
    members.check()
