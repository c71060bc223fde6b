"""Bytes on a bad line arrive late, in order, and no faster than the line carries."""

from random import Random

import pytest

from shoal.node.testnet.faults import Link
from shoal.node.testnet.network.link_model import (
    LEAST_RETRANSMISSION,
    QUEUE_SECONDS,
    SEGMENT_BYTES,
    Course,
    Egress,
)


def course(link: Link = Link(), back: Link = Link(), seed: int = 1) -> Course:  # noqa: B008
    return Course(Egress(link), Egress(back), Random(seed))


def test_over_a_bare_line_all_arrives_at_once() -> None:
    assert [course().arrival(10**9, now) for now in (0.0, 1.5)] == [0.0, 1.5]


def test_latency_is_added_once_per_direction() -> None:
    one = course(Link(latency=0.08), Link(latency=0.02))
    assert one.arrival(100, 1.0) == pytest.approx(1.08)
    assert one.round_trip() == pytest.approx(0.1)


def test_jitter_stays_within_its_bounds_and_uses_them() -> None:
    line = Link(latency=0.08, jitter=0.02)
    late = [course(line, seed=seed).arrival(100, 0.0) for seed in range(500)]
    assert min(late) == pytest.approx(0.06, abs=0.002)
    assert max(late) == pytest.approx(0.10, abs=0.002)
    assert sum(late) / len(late) == pytest.approx(0.08, abs=0.003)


def test_jitter_larger_than_the_latency_never_brings_bytes_before_they_were_sent() -> None:
    assert all(course(Link(jitter=1.0), seed=s).arrival(1, 5.0) >= 5.0 for s in range(50))


def test_nothing_overtakes_what_was_sent_before_it() -> None:
    one = course(Link(latency=0.05, jitter=0.05, loss=0.3))
    arrivals = [one.arrival(1000, now / 1000) for now in range(1000)]
    assert arrivals == sorted(arrivals)
    assert one.stalls > 100


def test_bandwidth_is_kept_over_any_stretch() -> None:
    one = course(Link(bandwidth_mbit=8.0))  # a megabyte per second
    assert one.arrival(500_000, 0.0) == pytest.approx(0.5)
    assert one.arrival(500_000, 0.1) == pytest.approx(1.0)
    assert one.arrival(1_000, 5.0) == pytest.approx(5.001)


def test_the_links_of_a_node_share_its_bandwidth() -> None:
    egress = Egress(Link(bandwidth_mbit=8.0))
    first, second = (Course(egress, Egress(), Random(0)) for _ in range(2))
    first.arrival(1_000_000, 0.0)
    assert second.arrival(1_000_000, 0.0) == pytest.approx(2.0)


def test_a_sender_is_held_back_once_the_queue_is_full() -> None:
    egress = Egress(Link(bandwidth_mbit=8.0))
    assert egress.has_room_at(3.0) == 3.0
    egress.leave(2_000_000, 3.0)
    assert egress.has_room_at(3.0) == pytest.approx(5.0 - QUEUE_SECONDS)
    assert Egress().has_room_at(3.0) == 3.0


def test_a_loss_is_a_stall_of_one_retransmission() -> None:
    line = Link(latency=0.3, loss=0.5)
    stalled = {round(course(line, line, seed).arrival(SEGMENT_BYTES, 0.0), 6) for seed in range(40)}
    assert stalled == {0.3, 0.9}
    near = Link(loss=0.5)
    assert LEAST_RETRANSMISSION in {course(near, near, seed).arrival(1, 0.0) for seed in range(20)}


@pytest.mark.parametrize(("segments", "odds"), [(1, 0.01), (10, 0.0956), (1000, 1.0)])
def test_the_more_segments_the_likelier_is_a_stall(segments: int, odds: float) -> None:
    one = course(Link(loss=0.01))
    for now in range(3000):
        one.arrival(segments * SEGMENT_BYTES, now)
    assert one.stalls / 3000 == pytest.approx(odds, abs=0.015)
