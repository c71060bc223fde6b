"""Scopes: several means of a round, each among those that hold it."""

import msgspec
import numpy as np
import pytest
from lockstep import names, run_round

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import AllReduce, Averaged, Gather, Gathered, Steps, all_reduce
from shoal.methods.roles.scopes import MAX_SCOPES, holders, means_by_scope

A, B, C, D = names(4)


def whole(number: float, size: int = 2) -> Vector:
    return np.full(size, number, np.float32)


def test_each_scope_is_averaged_among_its_holders_and_then_all_go_on_together() -> None:
    held = {
        A: {"x": whole(1), "z": whole(1, 3)},
        B: {"x": whole(3), "z": whole(5, 3)},
        C: {"y": whole(10), "z": whole(9, 3)},
        D: {"y": whole(30), "alone": whole(7)},
    }

    def one(peer: PeerId) -> Steps[tuple[dict[str, Averaged], Averaged]]:
        means = yield from means_by_scope(held[peer], weight=1.0)
        last = yield from all_reduce(whole(1), weight=1.0)
        return dict(means), last

    ended = run_round({peer: one(peer) for peer in held})
    assert not ended.failed
    told = {
        peer: {word: mean.vector.tolist() for word, mean in result[0].items()}
        for peer, result in ended.results.items()
    }
    assert told == {
        A: {"x": [2, 2], "z": [5, 5, 5]},
        B: {"x": [2, 2], "z": [5, 5, 5]},
        C: {"y": [20, 20], "z": [5, 5, 5]},
        D: {"y": [20, 20], "alone": [7, 7]},
    }
    assert ended.results[C][0]["y"].contributors == (C, D)
    assert all(result[1].contributors == (A, B, C, D) for result in ended.results.values())


def test_scopes_of_the_same_holders_travel_in_one_exchange() -> None:
    held = {"one": whole(1), "two": whole(2, 5)}
    ended = run_round({peer: means_by_scope(held, weight=1.0) for peer in (A, B)})
    sizes = [[ask.vector.size for ask in turn if isinstance(ask, AllReduce)] for turn in ended.asked]
    assert sizes == [[], [7, 7]]
    assert ended.results[A]["two"].vector.tolist() == [2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["w"] * (MAX_SCOPES + 1)),
        msgspec.msgpack.encode(["w" * 65]),
        msgspec.msgpack.encode([""]),
        b"\x91\xa1\xff",
    ],
    ids=["nothing", "no msgpack", "too many", "too long", "empty", "no text"],
)
def test_who_names_no_scopes_holds_none(body: bytes) -> None:
    steps = holders("w")
    ask = next(steps)
    assert isinstance(ask, Gather)
    with pytest.raises(StopIteration) as ended:
        steps.send(Gathered(((A, ask.body), (B, body), (C, msgspec.msgpack.encode(["w", "w"]))), A))
    assert dict(ended.value.value.by_scope) == {"w": (A, C)}


def test_a_node_that_holds_too_much_is_told() -> None:
    with pytest.raises(ValueError, match="a node holds up to 32 of 1 to 64 characters"):
        next(holders(*map(str, range(MAX_SCOPES + 1))))


def test_who_asks_among_others_than_they_do_is_told_in_lockstep() -> None:
    asks = {A: (A, B), B: (B, C), C: (B, C)}
    ended = run_round({peer: all_reduce(whole(1), weight=1.0, among=among) for peer, among in asks.items()})
    assert "and not all of them do" in str(ended.failed[A])
