"""Encrypted sums: exact, among those who stay, and nothing opens that should not.

Of sums under masks the same is shown in tests/gossip/averaging/test_masked_sum.py and test_own_grid.py.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from lockstep import names, run_round

from shoal.crypto.errors import NotOpened
from shoal.crypto.functional.inner_product import open_differences
from shoal.crypto.keys import PeerId
from shoal.gossip.errors import GossipError, LeftOut, TooFew
from shoal.methods.base import Exchange, Gather, Steps
from shoal.methods.enccluster import sums
from shoal.methods.enccluster.grid import Integers
from shoal.methods.enccluster.mapping import read_mapping
from shoal.methods.enccluster.sums import (
    Codebook,
    FunctionalDense,
    FunctionalPaper,
    Opened,
    Way,
    secure_sums,
    whole_weights,
)

TOP, KAPPA = 31, 8
MODES = ("fe-dense", "fe-paper")


def book(seed: int, count: int) -> Codebook:
    dice = np.random.default_rng(seed)
    values = tuple(sorted(dice.integers(-TOP, TOP + 1, KAPPA).tolist()))
    return Codebook(values, dice.integers(0, KAPPA, count))


def numbers(seed: int, count: int) -> Integers:
    """Return what a peer sums: in few values, so that every mode takes it; with zero and both bounds."""
    found = np.array(book(seed, count).values, np.int64)[book(seed, count).indices]
    found[:3] = 0, TOP, -TOP
    return found


def way_of(mode: str, seed: int, count: int) -> Callable[[], Way]:
    own = numbers(seed, count)
    if mode == "fe-paper":
        values, indices = np.unique(own, return_inverse=True)
        kept = Codebook(tuple(values.tolist()), indices.reshape(-1))
        return lambda: FunctionalPaper(kept, TOP, 16, "packed")
    return lambda: FunctionalDense(own, TOP)


def generators(
    mode: str, peers: int, count: int = 40, examples: Sequence[int] = (10, 20, 30, 40, 40, 25)
) -> dict[PeerId, Steps[Opened]]:
    return {
        peer: secure_sums(way_of(mode, place, count), examples=examples[place], levels=4, context=b"round 3")
        for place, peer in enumerate(names(peers))
    }


def wanted(opened: Opened, peers: int, count: int = 40) -> Integers:
    rows = {peer: numbers(place, count) for place, peer in enumerate(names(peers))}
    weights = zip(opened.members.peers, opened.members.weights, strict=True)
    total: Integers = np.sum([weight * rows[peer] for peer, weight in weights], axis=0)
    return total


# --- what opens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("peers", [3, 5])
def test_every_peer_opens_the_exact_weighted_sum(mode: str, peers: int) -> None:
    ended = run_round(generators(mode, peers))
    assert not ended.failed
    for opened in ended.results.values():
        assert np.array_equal(opened.sums, wanted(opened, peers))
        assert opened.members.peers == tuple(names(peers))
        assert len(set(opened.members.weights)) > 1


STEPS = [(mode, step) for mode in MODES for step in range(3)]


@pytest.mark.parametrize(("mode", "step"), STEPS)
def test_who_falls_out_at_any_step_is_left_out_of_an_exact_sum(mode: str, step: int) -> None:
    lost = names(5)[1]
    ended = run_round(generators(mode, 5), drops={lost: step})
    assert not ended.failed
    for opened in ended.results.values():
        assert opened.attempts == 1 + (step > 0)
        assert lost not in opened.members.peers
        assert np.array_equal(opened.sums, wanted(opened, 5))


@pytest.mark.parametrize("mode", MODES)
def test_a_second_attempt_has_fresh_keys_and_other_bytes_for_the_same_numbers(mode: str) -> None:
    ended = run_round(generators(mode, 5), drops={names(5)[4]: 1})
    tags = [turn[0].tag for turn in ended.asked]
    claims = [sums._CLAIM.decode(turn[0].body) for turn in ended.asked if turn[0].tag.startswith("keys")]  # type: ignore[union-attr]
    assert tags[2].startswith("keys 1")
    assert claims[0].public != claims[1].public
    sealed = [turn[0].body for turn in ended.asked if turn[0].tag.startswith("sealed")]  # type: ignore[union-attr]
    assert sealed[0] != sealed[1]


# --- what does not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_two_peers_are_refused(mode: str) -> None:
    ended = run_round(generators(mode, 2))
    assert [type(error) for error in ended.failed.values()] == [TooFew, TooFew]
    assert "of two, each would know the other's" in str(ended.failed[names(2)[0]])


def test_of_three_peers_the_two_left_open_nothing() -> None:
    ended = run_round(generators("fe-dense", 3), drops={names(3)[2]: 1})
    assert [type(error) for error in ended.failed.values()] == [TooFew, TooFew]


def spoiled(
    steps: Steps[Opened], tag: str, change: Callable[[bytes], bytes], always: bool = False
) -> Steps[Opened]:
    """Pass a peer's asks on, with another body in one of them."""
    ask = next(steps)
    while True:
        if isinstance(ask, Gather) and (ask.tag == tag or (always and ask.tag[:4] == tag[:4])):
            ask = Gather(change(ask.body), ask.tag)
        try:
            answer = yield ask
            ask = steps.send(answer)
        except GossipError as error:
            ask = steps.throw(error)
        except StopIteration as end:
            opened: Opened = end.value
            return opened


@pytest.mark.parametrize(
    ("mode", "tag"),
    [
        ("fe-dense", "sealed 0"),
        ("fe-dense", "shares 0"),
        ("fe-paper", "sealed 0"),
    ],
)
def test_a_body_that_no_correct_peer_sends_costs_its_sender_the_round_and_nobody_else(
    mode: str, tag: str
) -> None:
    made = generators(mode, 5)
    liar = names(5)[2]
    made[liar] = spoiled(made[liar], tag, lambda body: b"\xff" * len(body))
    ended = run_round(made)
    assert set(ended.failed) == {liar}
    assert isinstance(ended.failed[liar], LeftOut)
    for peer, opened in ended.results.items():
        assert peer != liar
        assert liar not in opened.members.peers
        assert np.array_equal(opened.sums, wanted(opened, 5))


def test_a_share_that_does_not_fit_opens_nothing_and_the_round_fails_for_all() -> None:
    made = generators("fe-dense", 5)
    liar = names(5)[2]
    made[liar] = spoiled(made[liar], "shares 0", swapped)
    ended = run_round(made)
    assert set(ended.failed) == set(names(5))
    assert all("did not open" in str(error) for error in ended.failed.values())


def swapped(share: bytes) -> bytes:
    return share[32:] + share[:32]


# --- the leak of the paper's mode ----------------------------------------------------------------------


def sealed_bodies(mode: str) -> tuple[list[bytes], list[Integers]]:
    ended = run_round(generators(mode, 3))
    asked: list[Exchange] = [ask for turn in ended.asked for ask in turn if ask.tag == "sealed 0"]
    bodies = [ask.body for ask in asked if isinstance(ask, Gather)]
    return bodies, [numbers(place, 40) for place in range(3)]


def attack(body: bytes, count: int = 40) -> Integers:
    """Return a peer's numbers up to a constant, from what it sent to everyone, without any key."""
    differences = np.array(open_differences(body[: 32 * 16], TOP), np.int64)
    return differences[read_mapping(body[32 * 16 :], count, 16, "packed")]


def test_the_papers_mode_shows_every_peers_update_up_to_one_constant() -> None:
    for body, own in zip(*sealed_bodies("fe-paper"), strict=True):
        found = attack(body)
        assert np.array_equal(found - found[0], own - own[0])


def test_the_same_attack_gets_nothing_from_numbers_with_labels_of_their_own() -> None:
    for body, _ in zip(*sealed_bodies("fe-dense"), strict=True):
        with pytest.raises(NotOpened):
            open_differences(body, TOP)


# --- weights -------------------------------------------------------------------------------------------


def test_weights_are_whole_in_the_proportion_of_capped_examples() -> None:
    assert whole_weights([10, 20, 40], 4) == (1, 2, 4)
    assert whole_weights([10, 10, 10**9], 16) == (5, 5, 16)
    assert whole_weights([0, 0, 0], 4) == (1, 1, 1)
    assert whole_weights([5, 300, 300], 1) == (1, 1, 1)


def test_a_claim_with_a_key_that_is_none_takes_no_part() -> None:
    made = generators("fe-dense", 5)
    liar = names(5)[0]
    bad = msgspec.msgpack.encode(sums.Claim(bytes(32), 10))
    made[liar] = spoiled(made[liar], "keys 0", lambda _: bad)
    ended = run_round(made)
    assert set(ended.failed) == {liar}
    assert liar not in ended.results[names(5)[1]].members.peers
