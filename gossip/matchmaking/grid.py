"""Grid: how more peers than fit into a group are dealt into groups that mix over rounds.

With M peers to a group, N = M^d peers stand on a grid with d axes of M places. Round t averages along axis
t mod d, and after d rounds in a row everyone has averaged with everyone: each mean of the last holds an equal
part of all N contributions. (Ryabinin, Gorbunov, Plokhotnyuk, Pekhimenko, "Moshpit SGD: Communication-
Efficient Decentralized Training on Heterogeneous Unreliable Devices", NeurIPS 2021,
https://arxiv.org/abs/2103.03239.) Groups dealt at random leave (r - 1) / (N - 1) of the variance between
peers in every round, r being the number of groups, and never all of nothing.

The grid here is one list in an order that does not change, and one step, the perfect shuffle of cards: cut
the list into the round's groups, then take the first of every group, the second of every group, and so on.

    0 1 2 | 3 4 5 | 6 7 8      round 0      --shuffle-->      0 3 6 | 1 4 7 | 2 5 8      round 1

Where N is M^d, shuffling turns the digits of a place by one, which is the grid. Where it is not, groups stay
as large and as equal as they can be, and the next round's groups take from the last round's as evenly
as they can. A peer that comes or goes moves the others by one place, and changes little.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def deal(ordered: Sequence[T], round_: int, group_size: int) -> list[list[T]]:
    """Return the groups of a round, of at most `group_size` and as equal as can be.

    `ordered`: everyone, in an order that is the same in every round.
    """
    groups = _cut(list(ordered), group_size)
    for _ in range(round_ % axes(len(ordered), group_size)):
        longest = max(len(group) for group in groups)
        shuffled = [group[place] for place in range(longest) for group in groups if place < len(group)]
        groups = _cut(shuffled, group_size)
    return groups


def axes(peers: int, group_size: int) -> int:
    """Return the d of the smallest M^d that holds all peers: the rounds until everyone met everyone."""
    count, reach = 1, group_size
    while reach < peers and group_size > 1:
        count, reach = count + 1, reach * group_size
    return count


def _cut(items: list[T], group_size: int) -> list[list[T]]:
    count = max(1, -(-len(items) // group_size))
    edges = [len(items) * i // count for i in range(count + 1)]
    return [items[lo:hi] for lo, hi in pairwise(edges)]
