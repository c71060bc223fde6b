"""Crowds in virtual time: what a peer says does not grow with the swarm, and a crowd can be trusted."""

from collections import Counter

import pytest
from crowd_sizes import HASH, Sizes
from sim.crowd import Crowd, Plan, mixing

from shoal.crypto.keys import key_from_seed, peer_id_of
from shoal.gossip import messages
from shoal.gossip.wire import Codec


def crowd(peers: int, rounds: int = 2, seed: int = 0) -> Crowd:
    made = Crowd(Plan(peers, rounds, seed=seed), Sizes())
    for _ in made.run():
        pass
    return made


def per_round(made: Crowd, counts: Counter[str]) -> float:
    return sum(counts.values()) / made.tally.rounds


def test_the_same_crowd_says_the_same_again() -> None:
    one, two = crowd(40), crowd(40)
    assert one.events == two.events
    assert one.tally.n_bytes == two.tally.n_bytes


def test_a_crowd_averages_in_full_groups_and_nobody_falls_out() -> None:
    made = crowd(60, rounds=3)
    alone = sum(sizes[1] for sizes in made.groups.values())
    assert made.round >= 3
    assert alone < 0.1 * sum(sizes.total() for sizes in made.groups.values())
    assert made.tally.failed["LeftOut"] < 0.1 * made.tally.rounds


def test_the_variance_of_a_crowd_falls_as_theory_says() -> None:
    for point in mixing(crowd(80, rounds=2)):
        assert point["theory"] / 2 < point["variance"] < 2 * point["theory"]


def test_an_idle_peer_says_hardly_more_among_many() -> None:
    said = []
    for peers in (8, 40):
        made = Crowd(Plan(peers, pace=1e9), Sizes())
        made.idle()
        said.append(sum(made.tally.n_bytes.values()) / made.tally.peer_seconds)
    assert said[0] < 2_000
    assert said[1] < 6_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_peer_says_no_more_in_a_swarm_four_times_as_large() -> None:
    small, large = crowd(100, rounds=3), crowd(400, rounds=3)
    for kind in ("messages", "n_bytes"):
        said = [per_round(made, getattr(made.tally, kind)) for made in (small, large)]
        assert said[1] < 1.5 * said[0], kind


def test_a_size_is_what_the_real_wire_makes_of_a_message() -> None:
    key = key_from_seed(bytes(range(32)))
    peer = peer_id_of(bytes(key.verify_key))
    codec = Codec(key, "swarm", 1 << 50)
    codec.run = HASH
    group = HASH[:16]
    for message in (
        messages.Ready(1000, HASH, 1, 1.5),
        messages.Propose(1000, HASH, 0, 1 << 52, (peer,) * 7, (1,) * 7),
        messages.Done(group, 0, group),
        messages.Fetch(HASH, (0,)),
        messages.Leave(),
    ):
        assert abs(Sizes().of(message, 0) - 8 - len(codec.encode(message))) <= 8
    part = messages.Part(group, 0, 2, 3, 1)
    assert Sizes().of(part, 1000) == 8 + len(codec.encode(part)) + 1000
