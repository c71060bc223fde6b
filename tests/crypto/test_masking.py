"""Masking: sums open bit for bit whoever vanishes, and nothing else does."""

import traceback
from collections.abc import Collection
from hashlib import blake2b
from random import Random

import numpy as np
import pytest

from shoal.crypto.errors import BadKey, BadShare, SecondList
from shoal.crypto.keystream import Words
from shoal.crypto.masking import LEAST, MaskKeys, Masks, Roster, is_public, threshold_of

LABELS, SIZE = 2, 40


class Round:
    """One attempt of some members, some of whom vanish on the way."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.dice = np.random.default_rng(seed)
        self.keys = {i: MaskKeys(LABELS, Random(f"{seed} {i}").randbytes) for i in range(count)}
        self.masks: dict[int, Masks] = {}
        self.plain: dict[tuple[int, int], Words] = {}
        self.hidden: dict[tuple[int, int], Words] = {}

    def deal(self, lost: Collection[int] = (), silent: Collection[int] = ()) -> None:
        """Let all but the lost be on the roster, and all but the silent deal."""
        here = [i for i in self.keys if i not in lost]
        roster = Roster(b"context", {i: self.keys[i].public for i in here}, LABELS)
        masks = {i: Masks(self.keys[i], i, roster, Random(f"deal {i}").randbytes) for i in here}
        dealt = {i: masks[i].dealt for i in here if i not in silent}
        self.masks = {i: masks[i] for i in dealt}
        for each in self.masks.values():
            each.take(dealt, dealt)

    def hide(self) -> None:
        for i, masks in self.masks.items():
            for label in range(LABELS):
                plain = self.dice.integers(0, 1 << 63, SIZE, dtype=np.uint64)
                self.plain[i, label], self.hidden[i, label] = plain, plain.copy()
                masks.hide(label, self.hidden[i, label])

    def open(self, lists: list[frozenset[int]], lost: Collection[int] = ()) -> None:
        """Check that all that are left open the plain sums."""
        reveals = {i: masks.reveal(lists) for i, masks in self.masks.items() if i not in lost}
        for i in (min(reveals), max(reveals)):
            opened = self.masks[i].mask_of(reveals)
            for label, contributors in enumerate(lists):
                total: Words = np.sum([self.hidden[j, label] for j in contributors], axis=0, dtype=np.uint64)
                opened.unhide(label, total)
                plain = [self.plain[j, label] for j in contributors]
                assert np.array_equal(total, np.sum(plain, axis=0, dtype=np.uint64))


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 12, 24])
@pytest.mark.parametrize("stage", ["keys", "shares", "words", "reveal"])
def test_the_sum_is_the_plain_one_where_up_to_a_third_vanish_at_any_stage(count: int, stage: str) -> None:
    for lost_count in {0, 1, count // 3} if count > LEAST else {0}:
        lost = Random(f"{count} {stage} {lost_count}").sample(range(count), min(lost_count, count // 3))
        run = Round(count)
        run.deal(lost if stage == "keys" else (), lost if stage == "shares" else ())
        run.hide()
        gone = frozenset(lost) if stage == "words" else frozenset[int]()
        contributors = frozenset(run.masks) - gone
        # Who vanishes after some of its words came is in one sum and not in the other.
        run.open([contributors, frozenset(run.masks)], lost if stage in ("words", "reveal") else ())


def test_words_and_all_but_the_last_sum_are_uniform() -> None:
    # Of zeros: nothing of what is hidden may show through.
    counts = np.zeros((3, 256))
    for seed in range(40):
        run = Round(4, seed)
        run.deal()
        words = [np.zeros(300, np.uint64) for _ in run.masks]
        for masks, each in zip(run.masks.values(), words, strict=True):
            masks.hide(0, each)
        for row, seen in enumerate((words[0], words[0] + words[1], words[0] + words[1] + words[2])):
            counts[row] += np.bincount(seen.view(np.uint8), minlength=256)
    expected = counts.sum(axis=1, keepdims=True) / 256
    assert np.all(((counts - expected) ** 2 / expected).sum(axis=1) < 330)


def test_with_one_share_missing_nothing_opens() -> None:
    run = Round(6)
    run.deal()
    run.hide()
    everybody = frozenset(run.masks)
    reveals = {i: masks.reveal([everybody] * LABELS) for i, masks in run.masks.items()}
    few = {i: reveals[i] for i in range(threshold_of(6) - 1)}
    with pytest.raises(BadShare, match="3 of at least 4"):
        run.masks[0].mask_of(few)
    few[5] = b"too short"
    with pytest.raises(BadShare, match="3 of at least 4"):
        run.masks[0].mask_of(few)


def test_nobody_reveals_shares_for_a_second_list() -> None:
    run = Round(6)
    run.deal()
    run.hide()
    everybody = frozenset(run.masks)
    masks = run.masks[0]
    assert masks.reveal([everybody] * LABELS) == masks.reveal([everybody] * LABELS)
    with pytest.raises(SecondList):
        masks.reveal([everybody, everybody - {3}])


@pytest.mark.parametrize("few", [frozenset({0, 1}), frozenset({0, 1, 2, 99}), frozenset[int]()])
def test_a_list_of_fewer_than_three_or_with_a_stranger_is_not_opened(few: frozenset[int]) -> None:
    run = Round(4)
    run.deal()
    with pytest.raises(BadShare, match="not opened"):
        run.masks[0].reveal([frozenset(run.masks), few])


def test_a_mask_is_used_once() -> None:
    run = Round(3)
    run.deal()
    run.hide()
    with pytest.raises(SecondList):
        run.masks[0].hide(0, np.zeros(SIZE, np.uint64))


@pytest.mark.parametrize("liars", [(0,), (5,), (1, 4)])
def test_holders_that_reveal_other_shares_than_they_hold_are_left_out(liars: tuple[int, ...]) -> None:
    run = Round(8 if len(liars) == 2 else 6)
    run.deal()
    run.hide()
    everybody = frozenset(run.masks)
    lists = [everybody, everybody - {2}]
    reveals = {i: masks.reveal(lists) for i, masks in run.masks.items()}
    for liar in liars:
        reveals[liar] = bytes(byte if at % 65 == 0 else byte ^ 1 for at, byte in enumerate(reveals[liar]))
    opened = run.masks[3].mask_of(reveals)
    total: Words = np.sum([run.hidden[j, 1] for j in lists[1]], axis=0, dtype=np.uint64)
    opened.unhide(1, total)
    assert np.array_equal(total, np.sum([run.plain[j, 1] for j in lists[1]], axis=0, dtype=np.uint64))


def test_who_deals_shares_of_nothing_is_not_opened_and_harms_no_secret() -> None:
    run = Round(4)
    here = [0, 1, 2, 3]
    roster = Roster(b"context", {i: run.keys[i].public for i in here}, LABELS)
    masks = {i: Masks(run.keys[i], i, roster) for i in here}
    dealt = {i: masks[i].dealt for i in here}
    dealt[3] = bytes(len(dealt[3]))
    for each in masks.values():
        each.take(dealt, dealt)
    reveals = {i: each.reveal([frozenset(here)] * LABELS) for i, each in masks.items()}
    with pytest.raises(BadShare, match="1 of at least 3"):
        masks[0].mask_of(reveals)


def test_a_member_whose_shares_did_not_come_here_is_masked_with_and_opened_by_the_others() -> None:
    run = Round(6)
    roster = Roster(b"context", {i: run.keys[i].public for i in run.keys}, LABELS)
    run.masks = {i: Masks(run.keys[i], i, roster, Random(f"deal {i}").randbytes) for i in run.keys}
    dealt = {i: masks.dealt for i, masks in run.masks.items()}
    for i, masks in run.masks.items():
        # What 5 dealt did not reach 0 and 1.
        masks.take({j: each for j, each in dealt.items() if j != 5 or i > 1}, list(dealt))
    run.hide()
    run.open([frozenset(range(6)), frozenset(range(5))])


@pytest.mark.parametrize("maskers", [[0, 1, 2], [1, 2, 3, 4], [0, 1, 2, 3, 99]])
def test_masks_of_too_few_of_strangers_or_without_this_member_are_refused(maskers: list[int]) -> None:
    run = Round(5)
    roster = Roster(b"context", {i: run.keys[i].public for i in run.keys}, LABELS)
    masks = Masks(run.keys[0], 0, roster)
    with pytest.raises(BadShare, match="members dealt shares"):
        masks.take({}, maskers)


def test_what_was_agreed_on_is_in_the_transcript() -> None:
    run, other = Round(4), Round(4)
    run.deal()
    other.deal(silent=[3])
    everybody = frozenset({0, 1, 2})
    same = {masks.transcript([everybody] * LABELS) for masks in run.masks.values()}
    assert len(same) == 1
    assert run.masks[0].transcript([everybody, frozenset({0, 1, 2, 3})]) not in same
    assert other.masks[0].transcript([everybody] * LABELS) not in same


@pytest.mark.parametrize("bad", [b"", bytes(32 * 5), b"\x01" + bytes(31) + bytes(32 * 4)])
def test_keys_that_give_no_secret_are_refused(bad: bytes) -> None:
    keys = {i: MaskKeys(LABELS).public for i in range(3)}
    assert is_public(keys[0], LABELS)
    assert not is_public(bad, LABELS)
    with pytest.raises(BadKey):
        Roster(b"context", keys | {2: bad}, LABELS)


def test_two_members_have_no_roster() -> None:
    with pytest.raises(BadKey, match="2 of at least 3"):
        Roster(b"context", {i: MaskKeys(LABELS).public for i in range(2)}, LABELS)


def test_masks_and_what_is_dealt_are_those_of_the_golden_vector() -> None:
    run = Round(4, seed=1)
    run.deal()
    words = np.arange(SIZE, dtype=np.uint64)
    run.masks[2].hide(1, words)
    found = [run.keys[2].public, run.masks[2].dealt, words.astype("<u8").tobytes()]
    found += [run.masks[2].transcript([frozenset({0, 1, 2, 3})] * LABELS)]
    digests = [blake2b(each, digest_size=8).hexdigest() for each in found]
    assert digests == ["7d3e22381173c0dc", "3b139c6e80b95e7c", "1fcf8fd65963f26c", "fed4c592b420298e"]


def test_secrets_stand_in_no_repr_and_no_exception() -> None:
    run = Round(3)
    run.deal()
    secrets = [run.keys[0]._seal, run.keys[0]._secret[:32], run.masks[1]._dealers[0][:32]]
    said = f"{run.keys[0]!r} {run.masks[0]!r} {run.masks[0].roster!r}"
    for wrong in (
        lambda: run.masks[0].take({}, []),
        lambda: run.masks[0].reveal([]),
        lambda: run.masks[0].mask_of({}),
    ):
        with pytest.raises(BadShare) as caught:
            wrong()
        said += "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    for secret in secrets:
        assert repr(secret)[2:-1] not in said
        assert secret.hex() not in said
