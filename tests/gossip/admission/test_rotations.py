"""A new key of a private network: for members alone, by founders alone, and for a time beside the former."""

import itertools

import msgspec
import pytest
from rosters import DAY, NOW, World, key, public

from shoal.gossip.admission.errors import BadEdict
from shoal.gossip.admission.rotations import (
    INFINITY,
    MAX_BOXES,
    Rotation,
    fingerprint,
    rotation_of,
    sealed_for,
)

WORLD = World()
FOUNDERS = WORLD.charter.first_founders
OLD, NEW, NEWER, OTHER = (bytes([each]) * 32 for each in range(4))


def rotation(
    former: bytes = OLD,
    new: bytes = NEW,
    *members: str,
    by: tuple[str, ...] = ("ann", "bob"),
    until: int = NOW + DAY,
    epoch: int = 1,
) -> Rotation:
    """Return a new key for these members."""
    made = Rotation(
        charter=WORLD.charter.id,
        under=FOUNDERS.id,
        epoch=epoch,
        former=fingerprint(former),
        new=fingerprint(new),
        until=until,
        boxes=sealed_for(new, map(public, members or ("carl", "dora"))),
    )
    return made.signed_by(*map(key, by))


def keys(*words: Rotation, first: bytes = OLD, name: str = "carl", wall: float = NOW) -> list[bytes]:
    """Return the keys that a node takes which heard these words."""
    roster = WORLD.roster()
    roster.merge(words)
    return [each for each, _ in roster.network_keys(first, key(name), wall)]


def test_both_keys_are_taken_until_the_time_that_founders_signed_then_the_new_one_alone() -> None:
    word = rotation()
    assert keys() == [OLD]
    assert keys(word) == [NEW, OLD]
    assert keys(word, wall=NOW + DAY - 1) == [NEW, OLD]
    assert keys(word, wall=NOW + DAY) == [NEW]


def test_who_was_given_no_new_key_ends_with_the_former_and_can_tell() -> None:
    roster = WORLD.roster()
    roster.add(rotation())
    assert roster.network_keys(OLD, key("emil"), NOW) == ((OLD, NOW + DAY),)
    assert roster.network_keys(OLD, key("emil"), NOW + DAY) == ((OLD, 0.0),)
    assert roster.network_keys(OLD, key("carl"), NOW + DAY) == ((NEW, INFINITY),)


def test_a_node_that_was_away_for_several_rotations_goes_from_key_to_key() -> None:
    words = [rotation(until=NOW), rotation(NEW, NEWER, until=NOW + DAY)]
    assert keys(*words) == [NEWER, NEW]
    assert keys(*words, first=NEW) == [NEWER, NEW]
    assert keys(*words, wall=NOW + DAY) == [NEWER]


def test_a_file_with_a_key_of_no_word_is_taken_as_it_is() -> None:
    assert keys(rotation(), first=OTHER) == [OTHER]


def test_of_two_keys_at_once_all_take_one_first_in_whatever_order_they_heard() -> None:
    words = [rotation(), rotation(OLD, OTHER), rotation(OLD, NEWER, until=NOW + 9)]
    found = {tuple(keys(*order)) for order in itertools.permutations(words)}
    assert len(found) == 1
    assert set(found.pop()) == {OLD, NEW, NEWER, OTHER}
    later = rotation(OLD, NEWER, epoch=2)
    assert keys(*words, later)[0] == NEWER
    assert keys(*words, later, wall=NOW + DAY) == [NEWER]


def test_several_words_give_one_key_to_more_members_than_one_word_may() -> None:
    words = [rotation(OLD, NEW, "carl"), rotation(OLD, NEW, "dora")]
    assert keys(*words) == keys(*words, name="dora") == [NEW, OLD]
    many = tuple(f"m{number}" for number in range(MAX_BOXES + 1))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(rotation(OLD, NEW, *many)), type=Rotation)


def test_keys_that_lead_back_to_one_another_end_somewhere() -> None:
    words = [rotation(), rotation(NEW, OLD)]
    assert set(keys(*words)) == {OLD, NEW}
    assert set(keys(*words, wall=NOW + DAY)) <= {OLD, NEW}


def test_a_box_that_holds_another_key_than_it_says_is_none() -> None:
    false = msgspec.structs.replace(rotation(), boxes=sealed_for(OTHER, [public("carl")]), signatures=())
    assert keys(false.signed_by(key("ann"), key("bob"))) == [OLD]
    torn = tuple((member, bytes(80)) for member, _ in rotation().boxes)
    assert msgspec.structs.replace(rotation(), boxes=torn).open(key("carl")) == b""


def test_only_founders_change_the_key() -> None:
    roster = WORLD.roster()
    for word, why in (
        (rotation(by=("ann",)), "1 of the 2"),
        (rotation(by=("ann", "bob", "mallory")), "no founder"),
        (msgspec.structs.replace(rotation(), until=NOW), "does not verify"),
        (rotation(OLD, OLD), "another one than the former"),
    ):
        with pytest.raises(BadEdict, match=why):
            roster.add(word)
    with pytest.raises(BadEdict, match="another charter"):
        World(threshold=1).roster().add(rotation())


def test_it_waits_for_the_founders_that_signed_it() -> None:
    change = WORLD.change_founders(
        "fay", "gus", threshold=1, former=FOUNDERS, by=("ann", "bob", "fay", "gus")
    )
    word = msgspec.structs.replace(rotation(), under=change.successor(FOUNDERS).id, signatures=())
    roster = WORLD.roster()
    assert not roster.add(word.signed_by(key("gus")))
    assert roster.network_keys(OLD, key("carl"), NOW)[0][0] == OLD
    roster.add(change)
    assert roster.network_keys(OLD, key("carl"), NOW)[0][0] == NEW


def test_a_rotation_comes_back_from_its_text_and_tells_no_key() -> None:
    word = rotation(by=("ann",))
    assert rotation_of(word.text()) == word
    rotation_of(word.text()).signed_by(key("bob")).check(FOUNDERS)
    assert NEW.hex() not in msgspec.msgpack.encode(word).hex()
    for text in ("", "shoal-rotation-", word.text()[:-9], word.text() + "a" * 30_000):
        with pytest.raises(BadEdict):
            rotation_of(text)


def test_a_member_key_that_nothing_can_be_sealed_to_is_told() -> None:
    with pytest.raises(BadEdict, match="sealed to"):
        sealed_for(NEW, [bytes(32)])
