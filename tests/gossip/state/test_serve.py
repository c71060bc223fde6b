"""What a donor hands out: in turns, at its rate, after averaging, and never torn."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

import shoal.gossip.state.tree_hash
from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send, SetTimer, Vector
from shoal.gossip.messages import Chunk, Fetch, NotHeld, Offer, Wait, Want
from shoal.gossip.state.serve import (
    AT_ONCE,
    LONGEST_USE,
    MAX_PINS,
    PIN_SECONDS,
    SILENCE,
    TURN,
    Serving,
    ServingConfig,
)
from shoal.gossip.state.tree_hash import leaves, state_hash

CHUNK = 64
PEERS = [PeerId(name) for name in "abcdef"]
A, B = PEERS[:2]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.gossip.state.tree_hash, "CHUNK_BYTES", CHUNK)


def made(chunks: int = 10, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(chunks * CHUNK // 4).astype(np.float32)


def named(vector: Vector) -> bytes:
    return state_hash(vector.data)


def holding(vector: Vector, **config: Any) -> Serving:
    serving = Serving(ServingConfig(**config))
    serving.hold(3, named(vector), b"p" * 32, vector.data, leaves(vector.data))
    return serving


def messages(effects: Effects, kind: type) -> list[Any]:
    return [each for each in effects if isinstance(each, Send) and isinstance(each.message, kind)]


def chunks(effects: Effects) -> list[tuple[PeerId, int]]:
    return [(each.peer, each.message.chunk) for each in messages(effects, Chunk)]


def due(effects: Effects) -> float:
    """When the timer is set to fire."""
    return [each.at for each in effects if isinstance(each, SetTimer)][-1]


def settle(serving: Serving, now: float = 0.0) -> None:
    """Let it copy all that is pinned."""
    while any(pin.missing for pin in serving._pins.values()):
        serving.go_on(now)


def test_a_state_is_offered_with_its_leaves_and_its_chunks_are_its_bytes() -> None:
    vector = made()
    serving = holding(vector)
    (offer,) = messages(serving.want(A, Want(named(vector)), 0.0), Offer)
    assert offer.message == Offer(named(vector), b"p" * 32, 3, vector.nbytes)
    assert offer.data == leaves(vector.data)
    sent = messages(serving.fetch(A, Fetch(named(vector), (3, 0)), 0.0), Chunk)
    view = vector.data.cast("B")
    assert [(each.message.chunk, bytes(each.data)) for each in sent] == [
        (3, bytes(view[192:256])),
        (0, bytes(view[0:64])),
    ]


def test_an_unknown_state_is_not_held_nor_chunks_beyond_the_end() -> None:
    vector = made()
    serving = holding(vector)
    assert messages(serving.want(A, Want(b"x" * 32), 0.0), NotHeld)
    assert messages(serving.fetch(A, Fetch(named(vector), (0,)), 0.0), NotHeld), "nobody asked for it first"
    serving.want(A, Want(named(vector)), 0.0)
    assert chunks(serving.fetch(A, Fetch(named(vector), (9, 10, 1 << 31)), 0.0)) == [(A, 9)]


def test_the_state_one_round_back_is_held_too_while_its_memory_lasts() -> None:
    former, current = made(), made(seed=1)
    serving = holding(former)
    serving.hold(4, named(current), named(former), current.data, leaves(current.data))
    name = named(former)
    (offer,) = messages(serving.want(A, Want(name), 0.0), Offer)
    assert (offer.message.round, offer.message.previous) == (3, b"p" * 32)
    settle(serving)
    former[:] = 0
    sent = messages(serving.fetch(A, Fetch(name, (5,)), 0.0), Chunk)
    assert bytes(sent[0].data) == made().tobytes()[320:384], "it was copied out in time"


def test_a_former_state_that_is_being_overwritten_is_not_held_any_more() -> None:
    former, current = made(40), made(40, seed=1)
    serving = holding(former)
    serving.hold(4, named(current), named(former), current.data, leaves(current.data))
    name = named(former)
    assert messages(serving.want(A, Want(name), 0.0), Offer)
    former[-1] = 7.0
    effects = serving.fetch(A, Fetch(name, (0, 39, 1)), 0.0)
    assert chunks(effects) == [(A, 0)], "whole as it is"
    assert messages(effects, NotHeld)
    assert messages(serving.want(A, Want(name), 0.0), NotHeld), "for good"


def test_two_rounds_back_is_not_held() -> None:
    states = [made(seed=seed) for seed in range(3)]
    serving = Serving()
    for round_, vector in enumerate(states):
        serving.hold(round_, named(vector), b"", vector.data)
    assert messages(serving.want(A, Want(named(states[0])), 0.0), NotHeld)
    assert messages(serving.want(A, Want(named(states[1])), 0.0), Offer)


def test_chunks_leave_at_the_rate_and_those_that_wait_are_told() -> None:
    vector = made()
    serving = holding(vector, rate=CHUNK / 2.0)
    serving.want(A, Want(named(vector)), 0.0)
    settle(serving)
    effects = serving.fetch(A, Fetch(named(vector), tuple(range(10))), 100.0)
    seen, now = chunks(effects), 100.0
    told = 0
    while len(seen) < 10:
        now = due(effects)
        effects = serving.go_on(now)
        seen += chunks(effects)
        told += len(messages(effects, Wait))
    assert now == pytest.approx(118.0, abs=0.1), "nine intervals of two seconds"
    assert told >= 27, "every half second but those in which a chunk came"
    assert serving.sent_bytes == vector.nbytes


def test_averaging_goes_first_and_nobody_starves() -> None:
    vector = made()
    serving = holding(vector)
    serving.want(A, Want(named(vector)), 0.0)
    settle(serving)
    effects = serving.fetch(A, Fetch(named(vector), tuple(range(10))), 10.0, yields=True)
    seen = chunks(effects)
    assert len(seen) == 1
    assert serving.is_yielding
    while due(effects) < 13.0:
        effects = serving.go_on(due(effects), yields=True)
        seen += chunks(effects)
    assert len(seen) == 3, "one a second"
    assert len(chunks(serving.go_on(13.0))) == 7, "the exchange is over"
    assert not serving.is_yielding


def test_fetchers_take_turns() -> None:
    vector = made()
    serving = holding(vector, rate=CHUNK * 10.0)
    seen = []
    for peer in (A, B):
        serving.want(peer, Want(named(vector)), 0.0)
    settle(serving)
    for peer in (A, B):
        seen += chunks(serving.fetch(peer, Fetch(named(vector), tuple(range(6))), 10.0))
    now = 10.0
    while len(seen) < 12:
        now += 0.1
        seen += chunks(serving.go_on(now))
    assert [peer for peer, _ in seen[1:-1]] == [B, A] * 5


def test_more_fetchers_than_are_served_wait_in_line_and_all_have_their_turn() -> None:
    vector = made(64)
    serving = holding(vector, rate=CHUNK * 2.0, fetchers=2)
    for peer in PEERS:
        serving.want(peer, Want(named(vector)), 0.0)
    settle(serving)
    for peer in PEERS:
        serving.fetch(peer, Fetch(named(vector), tuple(range(64))), 10.0)
    by_turn: list[set[PeerId]] = []
    told: Counter[PeerId] = Counter()
    now = 10.0
    for _ in range(4):
        end, served = now + TURN - 0.5, set()
        while now < end:
            now += 0.25
            effects = serving.go_on(now)
            served |= {peer for peer, _ in chunks(effects)}
            told.update(each.peer for each in messages(effects, Wait))
        by_turn.append(served)
        for _ in range(3):
            now += 0.25
            serving.go_on(now)
    assert all(1 <= len(served) <= 4 for served in by_turn)
    assert set().union(*by_turn) == set(PEERS)
    assert min(told[peer] for peer in PEERS) > 20


def test_a_new_list_takes_the_place_of_the_old_and_nothing_is_sent_twice() -> None:
    vector = made()
    serving = holding(vector, rate=float(CHUNK))
    serving.want(A, Want(named(vector)), 0.0)
    settle(serving)
    seen = chunks(serving.fetch(A, Fetch(named(vector), (0, 1, 2, 3)), 10.0))
    seen += chunks(serving.go_on(11.0))
    seen += chunks(serving.fetch(A, Fetch(named(vector), (1, 3, 4)), 11.5))
    for now in (12.0, 13.0, 14.0, 15.0):
        seen += chunks(serving.go_on(now))
    assert [chunk for _, chunk in seen] == [0, 1, 3, 4]
    # 3 has arrived, as it is on the list no more; asked for again, it is sent again.
    serving.fetch(A, Fetch(named(vector), (4,)), 16.0)
    assert chunks(serving.fetch(A, Fetch(named(vector), (4, 3)), 17.0)) == [(A, 3)]


def test_an_empty_list_or_a_lost_link_ends_it() -> None:
    vector = made()
    serving = holding(vector, rate=float(CHUNK))
    for peer in (A, B):
        serving.want(peer, Want(named(vector)), 0.0)
        serving.fetch(peer, Fetch(named(vector), (0, 1, 2)), 10.0)
    serving.fetch(A, Fetch(named(vector), ()), 10.0)
    serving.lost(B)
    assert due(serving.go_on(50.0)) == float("inf")
    assert not chunks(serving.go_on(51.0))


def test_a_pin_goes_when_nobody_fetches_and_stays_while_somebody_does() -> None:
    vector = made()
    serving = holding(vector)
    serving.want(A, Want(named(vector)), 0.0)
    serving.fetch(A, Fetch(named(vector), (0,)), 1.0)
    serving.expire(1.0 + SILENCE - 1)
    assert serving._pins
    serving.expire(1.0 + SILENCE + 1)
    assert not serving._pins
    serving.want(A, Want(named(vector)), 100.0)
    serving.fetch(A, Fetch(named(vector), ()), 101.0)
    serving.expire(101.0 + PIN_SECONDS)
    assert not serving._pins


def test_at_most_so_many_states_are_pinned() -> None:
    serving = Serving()
    states = [made(seed=seed) for seed in range(4)]
    for round_, vector in enumerate(states):
        serving.hold(round_, named(vector), b"", vector.data)
        # One peer wants one state at a time, so the former ones are nobody's.
        assert messages(serving.want(A, Want(named(vector)), float(round_)), Offer)
    assert len(serving._pins) == MAX_PINS


def test_a_state_that_is_being_fetched_keeps_its_place_and_who_wants_another_waits() -> None:
    states = [made(seed=seed) for seed in range(MAX_PINS + 1)]
    serving = Serving()
    for round_, (peer, vector) in enumerate(zip(PEERS, states, strict=False)):
        serving.hold(round_, named(vector), b"", vector.data)
        effects = serving.want(peer, Want(named(vector)), 0.0)
    late, wanted = PEERS[MAX_PINS], named(states[-1])
    assert not messages(effects, Offer)
    assert [each.peer for each in messages(effects, Wait)] == [late]
    told = messages(serving.go_on(0.6), Wait)
    assert [each.peer for each in told] == [late]
    settle(serving)
    assert chunks(serving.fetch(PEERS[1], Fetch(named(states[1]), (0,)), 1.0)), "it was offered, and is kept"
    (offer,) = messages(serving.fetch(A, Fetch(named(states[0]), ()), 2.0), Offer)
    assert (offer.peer, offer.message.state) == (late, wanted)


def test_nobody_keeps_a_place_for_ever() -> None:
    states = [made(seed=seed) for seed in range(MAX_PINS + 1)]
    serving = Serving()
    for round_, (peer, vector) in enumerate(zip(PEERS, states, strict=False)):
        serving.hold(round_, named(vector), b"", vector.data)
        serving.want(peer, Want(named(vector)), 0.0)
    now = 0.0
    offers: list[Send] = []
    while not offers and now < 2 * LONGEST_USE:
        now += 10.0
        for number in range(MAX_PINS):
            offers += messages(serving.fetch(PEERS[number], Fetch(named(states[number]), (0,)), now), Offer)
        serving.expire(now)
    assert LONGEST_USE <= now <= LONGEST_USE + 20


def test_a_state_that_is_overwritten_while_somebody_waits_for_room_is_not_held() -> None:
    states = [made(seed=seed) for seed in range(MAX_PINS + 3)]
    serving = Serving()
    for round_, (peer, vector) in enumerate(zip(PEERS, states[: MAX_PINS + 1], strict=False)):
        serving.hold(round_, named(vector), b"", vector.data)
        serving.want(peer, Want(named(vector)), 0.0)
    for round_ in (MAX_PINS + 1, MAX_PINS + 2):
        serving.hold(round_, named(states[round_]), b"", states[round_].data)
    effects = serving.fetch(A, Fetch(named(states[0]), ()), 2.0)
    assert [each.peer for each in messages(effects, NotHeld)] == [PEERS[MAX_PINS]]


def test_a_large_state_is_copied_piece_by_piece() -> None:
    vector = made(100)
    serving = holding(vector)
    effects = serving.want(A, Want(named(vector)), 0.0)
    steps = 0
    while due(effects) < float("inf"):
        effects = serving.go_on(0.0)
        steps += 1
    assert steps >= 100 // AT_ONCE


def test_a_helper_keeps_one_state_only() -> None:
    serving = Serving()
    first, second = made(), made(seed=1)
    serving.hold(1, named(first), b"", first.data, keeps_former=False)
    serving.hold(2, named(second), b"", second.data, keeps_former=False)
    assert messages(serving.want(A, Want(named(first)), 0.0), NotHeld)
