"""A roster says the same to all who heard the same, in whatever order and however often."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosters import DAY, NOW, World, key, peer, public

from shoal.gossip.admission import roster as roster_module
from shoal.gossip.admission.errors import BadEdict, BadGrant
from shoal.gossip.admission.roster import MAX_WAITING, Roster, Word

WORLD = World()
FOUNDERS = WORLD.charter.first_founders


def tell(roster: Roster, *words: Word) -> Roster:
    for word in words:
        roster.add(word)
    return roster


def heard(*words: Word, **rounds: int) -> Roster:
    return tell(WORLD.roster(**rounds), *words)


def members(roster: Roster, now: float = NOW) -> set[str]:
    names = [*"abcdefgh", "ann", "bob", "carl", "dora", "emil", "fred", *(f"s{i}" for i in range(100))]
    return {name for name in names if peer(name) in roster.members(now)}


# --- what founders say --------------------------------------------------------------------------------


def test_founders_are_no_members_by_being_founders() -> None:
    assert members(WORLD.roster()) == set()


def test_whom_founders_admit_is_a_member_until_the_end_that_they_say() -> None:
    roster = heard(WORLD.edict("admit", "carl"), WORLD.edict("admit", "dora", until=NOW + 5))
    assert members(roster) == members(roster, NOW + 4) == {"carl", "dora"}
    assert members(roster, NOW + 5) == {"carl"}
    assert members(roster, NOW) == {"carl", "dora"}  # a clock that was set back


def test_an_edict_below_its_threshold_changes_nothing() -> None:
    roster = WORLD.roster()
    before = roster.hash
    for by in ((), ("ann",), ("ann", "mallory"), ("mallory", "trudy")):
        with pytest.raises(BadEdict):
            roster.add_edict(WORLD.edict("admit", "carl", by=by))
    assert (roster.hash, members(roster), roster.version) == (before, set(), 0)


def test_with_one_founder_key_of_three_lost_the_other_two_govern() -> None:
    roster = heard(
        *WORLD.admit("carl", by=("bob", "eve")), WORLD.edict("ban", "carl", by=("bob", "eve"), epoch=2)
    )
    assert roster.is_banned(peer("carl"), NOW)
    new = WORLD.change_founders("bob", "eve", "fay", threshold=2, former=FOUNDERS, by=("bob", "eve", "fay"))
    tell(roster, new)
    assert set(roster.founders.keys) == set(map(public, ("bob", "eve", "fay")))
    tell(roster, WORLD.edict("pardon", "carl", by=("eve", "fay"), under=roster.founders, epoch=3))
    assert members(roster) == {"carl"}
    with pytest.raises(BadEdict, match="1 of the 2"):  # the lost key, found by somebody
        roster.add_edict(WORLD.edict("admit", "dora", by=("ann", "bob"), under=roster.founders))


def test_a_ban_ends_a_membership_and_a_pardon_brings_it_back() -> None:
    roster = heard(*WORLD.admit("carl"), WORLD.edict("ban", "carl", epoch=2))
    assert members(roster) == set()
    assert members(tell(roster, WORLD.edict("pardon", "carl", epoch=3))) == {"carl"}
    assert members(heard(WORLD.edict("pardon", "carl"))) == set()  # which admits nobody


def test_after_a_ban_for_a_while_who_was_a_member_is_one_again() -> None:
    roster = heard(*WORLD.admit("carl"), WORLD.edict("ban", "carl", epoch=2, until=NOW + 7))
    assert members(roster, NOW + 6) == set()
    assert members(roster, NOW + 7) == {"carl"}


def test_on_a_tie_a_ban_counts() -> None:
    for verb in ("admit", "pardon"):
        both = WORLD.edict("ban", "carl", epoch=2), WORLD.edict(verb, "carl", epoch=2)
        for order in (both, both[::-1]):
            assert heard(*WORLD.admit("carl"), *order).is_banned(peer("carl"), NOW)


def test_edicts_of_another_charter_are_refused() -> None:
    other = World(threshold=1)
    with pytest.raises(BadEdict, match="another charter"):
        WORLD.roster().add_edict(other.edict("admit", "carl"))


def test_of_two_sets_of_founders_that_follow_one_the_same_governs_everywhere() -> None:
    one, two = (
        WORLD.change_founders(name, threshold=1, former=FOUNDERS, by=("ann", "bob", name))
        for name in ("fay", "gus")
    )
    rosters = [heard(one, two), heard(two, one)]
    assert rosters[0].founders == rosters[1].founders
    assert all(each.is_split for each in rosters)
    assert not heard(one).is_split


def test_later_founders_count_before_earlier_ones() -> None:
    new = WORLD.change_founders("fay", threshold=1, former=FOUNDERS, by=("ann", "bob", "fay"))
    later = new.successor(FOUNDERS)
    words = (
        new,
        WORLD.edict("ban", "carl", epoch=9),
        WORLD.edict("admit", "carl", by=("fay",), under=later),
    )
    assert members(heard(*words)) == members(heard(*reversed(words))) == {"carl"}


def test_a_threshold_is_changed_by_those_that_it_binds() -> None:
    lower = WORLD.edict("set_threshold", FOUNDERS.id, threshold=1)
    roster = heard(lower)
    assert members(tell(roster, WORLD.edict("admit", "carl", by=("eve",), under=roster.founders))) == {"carl"}


# --- invites ------------------------------------------------------------------------------------------

ADMITTED = WORLD.admit("carl", "bob")


def test_who_uses_a_grant_is_a_member_and_it_is_known_who_invited() -> None:
    grant = WORLD.grant("carl", "token", member_until=NOW + DAY)
    roster = heard(*ADMITTED, WORLD.redeem("dora", "token", grant))
    assert members(roster) == {"carl", "bob", "dora"}
    (found,) = (each for each in roster.memberships(NOW) if each.peer == peer("dora"))
    assert (found.issuer, found.until, found.grant) == (peer("carl"), NOW + DAY, grant.id)
    assert members(roster, NOW + DAY) == {"carl", "bob"}


def test_a_grant_of_who_was_never_admitted_gives_nothing() -> None:
    roster = heard(WORLD.redeem("dora", "token", WORLD.grant("mallory", "token")))
    assert members(roster) == set()
    assert roster.redeems == []


def test_a_grant_is_passed_on_by_who_joined_with_it() -> None:
    parent = WORLD.grant("carl", "token", uses=3, depth=1)
    child = WORLD.grant("dora", "child", uses=2, parent=parent)
    joined, passed = WORLD.redeem("dora", "token", parent), WORLD.redeem("emil", "child", parent, child)
    assert members(heard(*ADMITTED, joined, passed)) == {"carl", "bob", "dora", "emil"}
    assert members(heard(*ADMITTED, passed)) == {"carl", "bob"}  # it never joined itself


def test_a_ban_of_an_issuer_ends_all_grants_under_it_whenever_they_were_used() -> None:
    parent = WORLD.grant("carl", "token", uses=3, depth=1)
    child = WORLD.grant("dora", "child", uses=3, parent=parent)
    words: list[Word] = [
        *ADMITTED,
        WORLD.redeem("dora", "token", parent),
        WORLD.redeem("emil", "child", parent, child),
        WORLD.redeem("fred", "child", parent, child),
    ]
    ban = WORLD.edict("ban", "carl", epoch=2)
    assert members(heard(*words, ban)) == members(heard(ban, *words)) == {"bob"}
    kept = WORLD.redeem("emil", "other", WORLD.grant("bob", "other"))
    assert members(heard(*words, ban, kept, *WORLD.admit("fred"))) == {"bob", "emil", "fred"}
    assert members(heard(*words, WORLD.edict("ban", "dora"))) == {"bob", "carl"}


def test_a_revoked_grant_ends_with_all_that_was_passed_on() -> None:
    parent = WORLD.grant("carl", "token", uses=3, depth=1)
    child = WORLD.grant("dora", "child", parent=parent)
    roster = heard(
        *ADMITTED, WORLD.redeem("dora", "token", parent), WORLD.redeem("emil", "child", parent, child)
    )
    assert members(tell(roster, WORLD.edict("revoke_grant", parent.id))) == {"carl", "bob"}
    assert members(tell(roster, WORLD.edict("pardon", parent.id, epoch=2))) == {"carl", "bob", "dora", "emil"}


def test_100_uses_of_a_grant_for_3_on_both_sides_of_a_split_come_to_the_same() -> None:
    grant = WORLD.grant("carl", "token", uses=3)
    uses = [WORLD.redeem(f"s{i}", "token", grant) for i in range(100)]
    left, right = heard(*ADMITTED, *uses[:2]), heard(*uses[2:], *ADMITTED)
    assert members(left) == {"carl", "bob", "s0", "s1"}  # it cannot know of the others
    for one, other in ((left, right), (right, left)):
        assert one.merge(other.differing(one.buckets())) == 0
    assert left.hash == right.hash
    assert members(left) == members(right) == {"carl", "bob"}
    assert len(left.redeems) == 4  # the proof, and no more


def test_overuse_holds_back_only_who_is_new_and_never_the_issuer() -> None:
    grant = WORLD.grant("carl", "token", uses=1)
    uses = [WORLD.redeem(f"s{i}", "token", grant) for i in range(5)]
    roster = heard(*ADMITTED, *uses, s0=20, s1=19, s2=21)
    for use in uses:  # each shows what it joined by, at every link
        roster.present(use)
    assert members(roster) == {"carl", "bob", "s0", "s2"}
    assert peer("s1") in roster.held_back(NOW)
    other = WORLD.redeem("s9", "other", WORLD.grant("carl", "other"))
    assert members(tell(roster, other)) == {"carl", "bob", "s0", "s2", "s9"}


def test_overuse_holds_back_whom_the_grant_was_passed_on_to() -> None:
    parent = WORLD.grant("carl", "token", uses=1, depth=1)
    child = WORLD.grant("s0", "child", parent=parent)
    uses = [WORLD.redeem("s0", "token", parent), WORLD.redeem("emil", "child", parent, child)]
    assert "emil" in members(heard(*ADMITTED, *uses))
    assert members(heard(*ADMITTED, *uses, WORLD.redeem("s1", "token", parent))) == {"carl", "bob"}


def test_in_a_closed_run_no_grant_gives_anything() -> None:
    closed = World("closed")
    roster = tell(closed.roster(), *closed.admit("carl"))
    with pytest.raises(BadGrant):
        roster.add_redeem(closed.redeem("dora", "token", closed.grant("carl", "token")))
    assert members(roster) == {"carl"}


def test_an_open_run_takes_anyone_but_whom_founders_ban() -> None:
    world = World("open")
    roster = tell(world.roster(), *world.admit("carl"), world.edict("ban", "dora"))
    assert [roster.may_take_part(peer(name), NOW) for name in ("carl", "dora", "emil")] == [True, False, True]
    assert members(roster) == {"carl"}


def test_the_wall_clock_is_the_node_s_own_and_an_offset() -> None:
    roster = heard(WORLD.edict("admit", "carl", until=NOW))
    roster.clock_offset = float(NOW)
    assert peer("carl") in roster.members(-1.0)
    assert peer("carl") not in roster.members(0.0)


def test_an_invite_is_told_from_one_that_would_let_nobody_in() -> None:
    grant = WORLD.grant("carl", "token")
    use = WORLD.redeem("dora", "token", grant)
    roster = heard(*ADMITTED)
    assert roster.is_invite(use, NOW)
    assert roster.is_invite(use, NOW + DAY + 599)
    assert not roster.is_invite(use, NOW + DAY + 601)
    assert not roster.is_invite(WORLD.redeem("dora", "mallory", grant), NOW)
    assert not roster.is_invite(WORLD.redeem("dora", "token", WORLD.grant("mallory", "token")), NOW)
    assert members(roster) == {"carl", "bob"}  # it was only looked at
    assert heard(*ADMITTED, use).is_invite(use, NOW)
    assert not heard(*ADMITTED, WORLD.redeem("emil", "token", grant)).is_invite(use, NOW)
    for edict in (
        WORLD.edict("ban", "dora"),
        WORLD.edict("ban", "carl", epoch=2),
        WORLD.edict("revoke_grant", grant.id),
    ):
        assert not heard(*ADMITTED, edict).is_invite(use, NOW)


# --- any order ----------------------------------------------------------------------------------------


def words() -> list[Word]:
    """Return what was said in a busy run: all verbs, chains, overuse, ends, and a change of founders."""
    later = WORLD.change_founders("bob", "eve", "fay", threshold=2, former=FOUNDERS, by=("bob", "eve", "fay"))
    rival = WORLD.change_founders("gus", threshold=1, former=FOUNDERS, by=("ann", "bob", "gus"))
    new = later.successor(FOUNDERS)
    parent = WORLD.grant("carl", "token", uses=2, depth=1)
    child = WORLD.grant("dora", "child", uses=2, parent=parent)
    spent = WORLD.grant("bob", "spent", uses=1)
    return [
        later,
        rival,
        *WORLD.admit("carl", "bob", "a"),
        WORLD.edict("ban", "a", epoch=2),
        WORLD.edict("admit", "a", epoch=2),
        WORLD.edict("admit", "b", by=("eve", "fay"), under=new, until=NOW + 10),
        WORLD.edict("ban", "c", by=("eve", "fay"), under=new),
        WORLD.edict("pardon", "a", by=("eve", "fay"), under=new, epoch=3),
        WORLD.edict("revoke_grant", spent.id, by=("gus",), under=rival.successor(FOUNDERS)),
        WORLD.edict("set_threshold", new.id, by=("eve", "fay"), under=new, threshold=3),
        WORLD.redeem("dora", "token", parent),
        WORLD.redeem("c", "token", parent),
        WORLD.redeem("emil", "child", parent, child),
        WORLD.redeem("fred", "child", parent, child, at=NOW - 9),
        WORLD.redeem("d", "spent", spent),
        WORLD.redeem("e", "spent", spent),
        WORLD.redeem("f", "spent", spent),
    ]


WORDS = words()


def summary(roster: Roster) -> Any:
    at = (NOW, NOW + 10, NOW + 20 * DAY)
    return (
        roster.hash,
        roster.buckets(),
        roster.founders,
        [roster.memberships(now) for now in at],
        [sorted(roster.bans(now)) for now in at],
    )


EXPECTED = summary(heard(*WORDS))


@settings(max_examples=60, deadline=None)
@given(st.permutations([*WORDS, *WORDS[::3]]))
def test_any_order_and_duplicates_give_the_same_roster(order: list[Word]) -> None:
    roster = heard(*order)
    assert summary(roster) == EXPECTED
    again = WORLD.roster()
    assert again.merge(roster.words) == 0  # as from the disk
    assert summary(again) == EXPECTED


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, len(WORDS) - 1)), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
)
def test_halves_that_meet_agree(parts: list[set[int]], dice: Any) -> None:
    covered = set().union(*parts)
    parts[0] |= set(range(len(WORDS))) - covered
    rosters = [heard(*dice.sample([WORDS[i] for i in sorted(part)], len(part))) for part in parts]
    for _ in range(3):  # what waits for a word that comes later is told again
        for one, other in [*pairwise(rosters), (rosters[-1], rosters[0])]:
            one.merge(other.differing(one.buckets()))
            other.merge(one.differing(other.buckets()))
    assert all(summary(each) == EXPECTED for each in rosters)


def test_edicts_of_founders_that_are_not_known_yet_wait_for_them() -> None:
    later = WORLD.change_founders("fay", threshold=1, former=FOUNDERS, by=("ann", "bob", "fay"))
    new = later.successor(FOUNDERS)
    last = WORLD.change_founders("gus", threshold=1, former=new, by=("fay", "gus"))
    admit = WORLD.edict("admit", "carl", by=("gus",), under=last.successor(new))
    assert members(heard(admit, last, later)) == {"carl"}


# --- bounds -------------------------------------------------------------------------------------------


def test_what_waits_is_bounded() -> None:
    roster = WORLD.roster()
    for i in range(MAX_WAITING + 50):
        tell(roster, WORLD.redeem("mallory", "token", WORLD.grant("mallory", "token", serial=i)))
    assert len(roster._waiting) == MAX_WAITING


def test_a_full_roster_is_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "MAX_EDICTS", 6)
    monkeypatch.setattr(roster_module, "MAX_REDEEMS", 8)
    monkeypatch.setattr(roster_module, "MAX_REDEEMS_OF_ONE", 5)
    grants = [WORLD.grant(name, "token", uses=4, serial=i) for i in range(3) for name in ("carl", "bob")]
    said: list[Word] = [
        *ADMITTED,
        *(WORLD.redeem(f"s{i}", "token", grants[i % 6]) for i in range(30)),
        *(WORLD.edict("ban", f"s{i}") for i in range(9)),
    ]
    rosters = [
        heard(*ADMITTED, *said),
        heard(*ADMITTED, *reversed(said)),
        heard(*ADMITTED, *said[::2], *said[1::2]),
    ]
    assert len({each.hash for each in rosters}) == 1
    assert (len(rosters[0].edicts), len(rosters[0].redeems)) == (6, 8)


def test_founders_keys_are_not_in_the_way_of_peers_ids() -> None:
    """A founder key may also be a node's; then it is a node like any other."""
    assert members(heard(*WORLD.admit("ann"))) == {"ann"}
    assert bytes(key("ann").verify_key) in WORLD.charter.founders
