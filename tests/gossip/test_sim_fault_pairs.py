"""Every role with every fault at every step, in virtual time: what the others hold, what it costs them."""

import logging
from functools import cache
from typing import Final

import pytest
from sim_pairs import AFTER, FAULTS, ROLES, ROUND, Pair, Seen

import gossip.statehash

SEEDS: Final = range(6)
"""As many as it takes that a pair that fails in some runs fails in one of these."""
GRACE: Final = 1.0
"""Seconds beyond a deadline: one looks every half second, for the owner and then for its part."""
PAIRS: Final = [(role, fault) for role in ROLES for fault in FAULTS]
BACK: Final = "a false owner goes on with those that it did not yet cheat, and they wait for the others"
HALF: Final = "a link that is silently dead is waited for until a doubted link ends, after five seconds"
TOO_LONG: Final = {
    **dict.fromkeys([(role, "is cut off from one") for role in ("sender", "owner")], HALF),
    ("owner", "sends NaN"): BACK,
}
"""Pairs that cost more than one deadline; each stands for work in gossip/."""
DIFFERS: Final = {
    **dict.fromkeys([(role, "is cut off from one") for role in ROLES], HALF),
    ("owner", "sends NaN"): BACK,
    ("convener", "sends garbage"): "of two groups that a false convener makes of one, one is given up",
    ("convener", "sends a wrong part"): "who convenes another group with everyone costs some of them a round",
}
"""Pairs after which one of the others has lost a round, or holds another state for one."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    # So that a state has several.
    monkeypatch.setattr(gossip.statehash, "CHUNK_BYTES", 16)


@cache
def play(role: str, fault: str) -> list[Seen]:
    return [Pair(role, fault, seed).play() for seed in SEEDS]


def marked(known: dict[tuple[str, str], str]) -> list[object]:
    """Return all pairs, those with the reason for which they fail marked so."""
    return [
        pytest.param(*pair, marks=pytest.mark.xfail(reason=known[pair], strict=True))
        if pair in known
        else pytest.param(*pair)
        for pair in PAIRS
    ]


@pytest.mark.parametrize(("role", "fault"), PAIRS)
def test_the_others_finish_every_round_with_exact_means(role: str, fault: str) -> None:
    """The simulator's oracle compares each mean with what its contributors really gave, chunk by chunk."""
    for seen in play(role, fault):
        assert seen.happened
        assert not seen.violations
        assert all(round_ in seen.states for round_ in range(ROUND, ROUND + AFTER))


@pytest.mark.parametrize(("role", "fault"), marked(DIFFERS))
def test_the_others_lose_no_round_and_hold_one_state_after_each(role: str, fault: str) -> None:
    for seen in play(role, fault):
        counts = [len(seen.states[round_]) for round_ in range(1, ROUND + AFTER)]
        assert counts == [1] * len(counts)
        assert seen.failed == seen.fetched == 0


@pytest.mark.parametrize(("role", "fault"), marked(TOO_LONG))
def test_it_costs_the_others_one_learned_deadline_at_most(role: str, fault: str) -> None:
    for seen in play(role, fault):
        assert seen.lost <= seen.deadline + GRACE, seen.waits
        assert seen.slowdown <= 2.0


@pytest.mark.parametrize("role", ROLES)
def test_a_dead_or_cancelling_peer_costs_the_others_nothing(role: str) -> None:
    for fault in ("dies before", "dies during", "dies after", "cancels"):
        for seen in play(role, fault):
            # Who cancelled is back soon, and its work may be the longest then.
            assert seen.lost < 1.0, fault
            assert seen.slowdown < 1.2, fault
