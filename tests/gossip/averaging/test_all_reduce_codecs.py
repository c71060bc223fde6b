"""An all-reduce over every codec: identical bytes on all members, errors within bounds, bytes as promised."""

from itertools import pairwise

import numpy as np
import pytest
from exchange import Exchange

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.chunks import bounds, mean_alike
from shoal.gossip.averaging.origin import weighted_sum
from shoal.gossip.averaging.tensor_codecs import CODECS, Feedback
from shoal.gossip.events import Send, Vector

NUMEL = 30_000


def contributions(n: int, seed: int = 0) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=NUMEL).astype(np.float32) for _ in range(n)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_all_members_end_with_the_same_bytes(codec: str, n: int) -> None:
    vectors = contributions(n)
    exchange = Exchange(vectors, [1.0, 2.0, 3.0, 4.0, 5.0][:n], codec)
    exchange.run()
    assert all(member.result is not None for member in exchange.members.values())
    assert len({vector.tobytes() for vector in vectors}) == 1


@pytest.mark.parametrize(
    ("codec", "bound"),
    [("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 4e-2), ("int4", 1.2)],
)
def test_the_mean_is_as_exact_as_its_codec(codec: str, bound: float) -> None:
    vectors, weights = contributions(4), [1.0, 2.0, 3.0, 4.0]
    exact = np.average(np.stack(vectors).astype(np.float64), axis=0, weights=weights)
    Exchange(vectors, weights, codec).run()
    assert np.abs(vectors[0] - exact).max() < bound


@pytest.mark.parametrize("codec", CODECS)
def test_a_member_sends_the_bytes_its_codec_promises(codec: str) -> None:
    exchange = Exchange(contributions(4), [1.0] * 4, codec)
    exchange.run()
    edges = bounds(NUMEL, (1, 1, 1, 1))
    expected = 0
    for lo, hi in pairwise(edges):
        sizes = [min(4096, hi - at) for at in range(lo, hi, 4096)]
        expected += sum(CODECS[codec].size(size) for size in sizes) * 2 * 3
    assert exchange.bytes_sent == expected


@pytest.mark.parametrize("codec", ["int8", "int4", "int2", "topk", "sign"])
def test_over_rounds_feedback_makes_up_for_what_was_lost(codec: str) -> None:
    n, rounds = 3, 300
    fixed = contributions(n)
    exact = np.mean(np.stack(fixed), axis=0)
    feedback = [Feedback(NUMEL) for _ in range(n)]
    total = np.zeros(NUMEL)
    for _ in range(rounds):
        vectors = [vector.copy() for vector in fixed]
        Exchange(vectors, [1.0] * n, codec, feedback).run()
        total += vectors[0]
    assert np.abs(total / rounds - exact).mean() < 0.25 * np.abs(exact).mean()


def test_a_contribution_that_is_not_finite_costs_its_sender_its_place() -> None:
    vectors = contributions(3)
    vectors[1][5] = np.nan
    exact = (vectors[0].astype(np.float64) + vectors[2]) / 2
    exchange = Exchange(vectors, [1.0] * 3, "float32")
    # Its own node would have refused it: take its part as a dead member's.
    liar = exchange.members[PeerId("p1")]
    for effect in liar.begin(0.0):
        if isinstance(effect, Send):
            exchange.queue.append((PeerId("p1"), effect))
    for name in (PeerId("p0"), PeerId("p2")):
        exchange.take(name, exchange.members[name].begin(0.0))
    exchange.deliver(but_not_to=PeerId("p1"))
    # The other waits for the liar's answer to its claim, until the link is found dead.
    exchange.take(PeerId("p2"), exchange.members[PeerId("p2")].lost(PeerId("p1"), 1.0))
    exchange.deliver(but_not_to=PeerId("p1"))
    assert {drop.peer for drop in exchange.drops} == {"p1"}
    assert vectors[0].tobytes() == vectors[2].tobytes()
    lo, hi = bounds(NUMEL, (1, 1, 1))[:2]
    assert np.allclose(vectors[0][lo:4096], exact[lo:4096], atol=1e-6)
    assert hi > 4096


def test_who_counts_alike_makes_a_plain_mean() -> None:
    vectors = contributions(3)
    exact = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    assert np.allclose(mean_alike(vectors), exact, atol=1e-6)


def test_a_sum_counts_every_vector_as_told() -> None:
    vectors = [np.concatenate([each] * 3) for each in contributions(3)]
    exact = np.average(np.stack(vectors).astype(np.float64), axis=0, weights=[1, 2, 5])
    out = np.empty_like(vectors[0])
    weighted_sum(vectors, [1 / 8, 2 / 8, 5 / 8], out)
    assert np.allclose(out, exact, atol=1e-6)
