"""Doubts: one that voids secure sums is found by leaving some out, and costs ever fewer rounds."""

from collections.abc import Iterable

import numpy as np
import pytest
from core_net import peers
from secure_members import Members

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.secure.doubts import MOST, Doubts
from shoal.gossip.averaging.secure.masked_sum import Stage
from shoal.gossip.events import Send
from shoal.gossip.group import Group
from shoal.gossip.messages import SECURE_INDEX, Part


def group_of(names: list[PeerId], number: int, round_: int = 0) -> Group:
    return Group(number.to_bytes(16, "big"), round_, tuple(names), (1,) * len(names))


def attempts(count: int, most: int, liar: int = 1) -> tuple[list[bool], list[Doubts]]:
    """Return which of so many attempts opened, where one voids each sum that it is in; and what all think."""
    names, opened, round_ = peers(count), list[bool](), 0
    doubts = {name: Doubts() for name in names}
    for number in range(most):
        group = group_of(names, number, round_)
        wanted = {name: set(names) - doubts[name].unwanted(group) for name in names}
        need = count - count // 3
        taking = [name for name in names if sum(name in each for each in wanted.values()) >= need]
        assert len(taking) >= need
        opened.append(names[liar] not in taking)
        for name in names:
            if name not in taking:
                doubts[name].missed(round_, taking)
            elif opened[-1]:
                doubts[name].opened(taking)
            else:
                doubts[name].void(taking)
        round_ += opened[-1]
    return opened, list(doubts.values())


@pytest.mark.parametrize("count", [4, 5, 6, 8, 9, 24])
def test_one_that_voids_every_sum_is_suspected_by_all_and_voids_ever_fewer(count: int) -> None:
    opened, doubts = attempts(count, 300)
    assert not opened[0]
    assert np.mean(opened[-100:]) > 0.85
    honest = [each for place, each in enumerate(doubts) if place != 1]
    assert {each.suspect for each in honest} == {peers(count)[1]}


def test_of_three_nobody_is_left_out() -> None:
    opened, _ = attempts(3, 20)
    assert not any(opened)


def test_all_take_part_again_when_two_sums_have_opened() -> None:
    names, doubts = peers(6), Doubts()
    assert not doubts.unwanted(group_of(names, 0))
    doubts.void(names)
    assert len(doubts.unwanted(group_of(names, 1))) == 2
    doubts.opened(names[2:])
    assert doubts.suspects == set(names[:2])
    doubts.opened(names[1:])
    assert doubts.suspect == names[0]
    assert not doubts.unwanted(group_of(names, 2))
    for _ in range(10):
        doubts.void(names)
        while doubts.unwanted(group_of(names, 3)):
            doubts.opened(names[1:])
    assert doubts._next == MOST
    doubts.opened(names)
    assert not doubts.suspects


def test_which_third_is_left_out_is_the_same_for_all_and_another_in_the_next_attempt() -> None:
    names, all_ = peers(9), [Doubts() for _ in range(9)]
    for each in all_:
        each.void(names)
    drawn = [{each.unwanted(group_of(names, number)) for each in all_} for number in range(20)]
    assert all(len(each) == 1 for each in drawn)
    assert len({next(iter(each)) for each in drawn}) > 10


def test_what_some_would_leave_out_is_left_out_only_if_more_than_a_third_would() -> None:
    for many in (2, 3):
        made = Members(8)
        unwanted = frozenset(made.names[:1])
        for name in made.names[1 : many + 1]:
            made.cores[name]._unwanted = unwanted
        made.run()
        contributors = {core.outcome.contributors for core in made.cores.values() if core.outcome is not None}
        if many == 2:
            assert contributors == {tuple(sorted(made.names))}
            continue
        assert contributors == {tuple(sorted(made.names[1:]))}
        left = made.cores[made.names[0]]
        assert "left this node out" in left.failure
        assert not left.is_refused
        assert sorted(left.left_out_by) == sorted(made.names[1:])
        # It is there, and nobody holds its silence against it.
        assert not any(made.names[0] in made.cores[name].lost_members for name in made.names[1:])


def test_a_sum_without_the_one_that_gives_residues_opens() -> None:
    made = Members(5)
    liar, dice = made.names[2], np.random.default_rng(0)

    def lie(sender: PeerId, sent: Send) -> Iterable[Send]:
        is_word = isinstance(sent.message, Part) and sent.message.index // SECURE_INDEX == Stage.SUM
        if sender != liar or not is_word:
            return [sent]
        return [Send(sent.peer, sent.message, dice.bytes(len(sent.data)))]

    for core in made.cores.values():
        core._unwanted = frozenset([liar])
    made.change = lie
    made.run()
    honest = [name for name in made.names if name != liar]
    assert {made.cores[name].stage for name in honest} == {Stage.DONE}
    mean = made.vectors[honest[0]]
    assert np.abs(mean - made.expected(honest)).max() < 0.005
