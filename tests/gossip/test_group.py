"""Groups: which part of a vector is whose."""

from shoal.crypto.keys import PeerId
from shoal.gossip.group import Group

MEMBERS = tuple(PeerId(name) for name in "abc")


def test_parts_move_on_by_one_owner_a_round() -> None:
    groups = [Group(b"g" * 16, round_, MEMBERS, (1, 2, 3)) for round_ in range(4)]
    assert [group.parts for group in groups] == [(1, 2, 3), (2, 3, 1), (3, 1, 2), (1, 2, 3)]
    assert [group.turn for group in groups] == [0, 1, 2, 0]
