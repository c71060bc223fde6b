"""What one body can move: one of five is the worst that was thought of, and the result stays within what
each method declares as `About.body_bound`."""

import importlib
import inspect
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import norm
from shoal.methods import registry
from shoal.methods.coding.bit_coding import Bits, pack_bits
from shoal.methods.deltamask.mask_update import Dense, read
from shoal.methods.deltamask.method import DeltaMask
from shoal.methods.deltamask.posterior import ONE, Posterior, Prior
from shoal.methods.fedcompress.method import Contribution, FedCompress, FedCompressConfig, Update
from shoal.methods.fedln import histogram
from shoal.methods.fedln.method import Claim, agreed_weight, level, pooled
from shoal.methods.fedln.noisy_peers import NOBODY, noisy_from
from shoal.methods.fedstar import method as fedstar
from shoal.methods.fedstar.method import OPEN, SHUT, UNDECIDED, Judged
from shoal.methods.matu.task_vectors import CLIP, Combined, combine, mix
from shoal.methods.matu.task_vectors import Contribution as TaskContribution

PAGES = Path(__file__).parents[2] / "docs" / "methods"
HUGE = 1 << 31
LIES: dict[str, tuple[float, float]] = {
    "flipped": (-1, 0),
    "a thousand times": (1000, 0),
    "a thousand times, flipped": (-1000, 0),
    "as large as may be": (0, 8192),
    "nothing": (0, 0),
}
"""What is told in place of an honest vector: times this, and this besides."""


# --- who declares ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_that_gathers_declares_how_far_a_body_moves_the_result_and_no_other(name: str) -> None:
    found = registry.method_class(name)
    source = inspect.getsource(importlib.import_module(found.__module__))
    gathers = any(f"yield from {name}(" in source for name in ("gather", "exchange", "hidden_mean"))
    assert bool(found.about.body_bound) == gathers
    if gathers:
        assert found.about.body_bound.endswith(".")
        page = (PAGES / f"{name}.md").read_text()
        assert found.about.body_bound in " ".join(page.split())
        assert registry.describe(name).body_bound == found.about.body_bound


# --- fedln -------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 255), min_size=4, max_size=4),
    st.builds(Claim, st.sampled_from([0, 1, 134, 1 << 40]), st.integers(0, 255), st.booleans()),
)
def test_a_lying_claim_makes_others_as_heavy_as_noisy_or_as_clean_ones(noises: list[int], lie: Claim) -> None:
    honest = [Claim(134, noise, True) for noise in noises]
    claims = [*honest, lie]
    from_ = noisy_from([claim.noise for claim in claims if claim.is_estimated], level(0.15))
    for claim in honest:
        weight, discount = agreed_weight(claim, claims, from_, 0.1)
        noisy_weight, noisy_discount = agreed_weight(claim, claims, 0, 0.1)
        clean_weight, clean_discount = agreed_weight(claim, claims, NOBODY, 0.1)
        assert weight * discount in (noisy_weight * noisy_discount, clean_weight * clean_discount)
        assert clean_weight * clean_discount <= 134


ENERGIES = histogram.Range(0.0, 32.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("place", [0, histogram.BINS - 1])
def test_a_lying_histogram_moves_the_percentile_as_far_as_a_fifth_of_all_examples_can(
    place: int, seed: int
) -> None:
    dice = np.random.default_rng(seed)
    honest = [ENERGIES.count(dice.gamma(3, 2, 134).astype(np.float32)) for _ in range(4)]
    lie = np.zeros(histogram.BINS, np.int64)
    lie[place] = histogram.MAX_COUNT
    alone = histogram.merge(honest, 10**9)
    found = ENERGIES.percentile(pooled([*honest, lie]), 75)
    # Of five, the liar's share is a fifth: below all, or above all, of what the others have.
    assert ENERGIES.percentile(alone, 100 * 55 / 80) <= found + 1e-9
    assert found <= ENERGIES.percentile(alone, 100 * 75 / 80) + 1e-9


# --- fedstar -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 500), min_size=2, max_size=9), st.sampled_from([1, 100, 1 << 40]))
def test_a_lying_judgement_is_that_of_few_of_the_held_out_examples(sizes: list[int], size: int) -> None:
    most = Fraction(2, len(sizes) + 2)
    bad = fedstar.pooled([*(Judged(0, 0, each) for each in sizes), Judged(size, size, size)])
    good = fedstar.pooled([*(Judged(each, each, each) for each in sizes), Judged(0, size, size)])
    # Counts are whole numbers.
    assert bad.right <= most * (bad.held_out + 1)
    assert good.right + 1 >= (1 - most) * good.held_out - 1


@pytest.mark.parametrize("gate", [UNDECIDED, OPEN, SHUT])
def test_a_lying_claim_has_one_vote_on_the_gate(gate: float) -> None:
    honest = [fedstar.Claim(100, int(OPEN))] * 4
    told = [*honest, fedstar.Claim(1 << 40, int(gate))]
    assert fedstar.agreed_gate(told, np.array([OPEN], np.float32))[0] == OPEN


# --- fedcompress -------------------------------------------------------------------------------------


def update(examples: int, vector: Vector, buffers: Vector) -> Contribution:
    return Contribution(Update(examples, 0, 0, b"", b""), np.zeros((0, 0), np.int64), vector, buffers)


def normal(dice: np.random.Generator, count: int, size: float = 0.1) -> Vector:
    numbers: Vector = (size * dice.normal(size=count)).astype(np.float32)
    return numbers


def lying(lie: str, honest: Vector) -> Vector:
    times, more = LIES[lie]
    told: Vector = np.clip(np.float32(times) * honest + np.float32(more), -8192, 8192).astype(np.float32)
    return told


def farthest(lengths: list[float], clip: float, mean: float) -> float:
    """Return how far one of equals, that counts three of them, moves a mean of the others of this length."""
    return 3 / (3 + len(lengths) - 1) * (clip * sorted(lengths)[(len(lengths) - 1) // 2] + mean) * 1.001


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_lying_update_moves_params_and_buffers_by_its_share_of_three_median_changes(
    lie: str, seed: int
) -> None:
    dice, method = np.random.default_rng(seed), FedCompress(FedCompressConfig())
    before, variances = np.ones(340, np.float32), ((320, 340),)
    changes = [normal(dice, 340) for _ in range(4)]
    told = lying(lie, normal(dice, 340))
    honest = [update(134, change[:300], before[300:] + change[300:]) for change in changes]
    without = method.reduce(before, honest, variances)
    found = method.reduce(before, [*honest, update(HUGE, told[:300], before[300:] + told[300:])], variances)
    for lo, hi in ((0, 300), (300, 340)):
        lengths = [norm(change[lo:hi]) for change in (*changes, told)]
        most = farthest(lengths, method.config.clip, norm(without[lo:hi] - before[lo:hi]))
        assert norm(found[lo:hi] - without[lo:hi]) <= most
    assert (found[320:] > 0).all()


def test_no_variance_becomes_negative_by_what_is_told_of_it() -> None:
    method, before = FedCompress(FedCompressConfig()), np.array([1, 1, 1e-3], np.float32)
    told = [update(1, np.zeros(2, np.float32), np.array([-1], np.float32))] * 3
    assert 0 < method.reduce(before, told, ((2, 3),))[2] < 1e-3


# --- deltamask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_lying_mask_is_one_vote_of_five_on_a_tenth_of_the_positions(seed: int) -> None:
    dice, method, positions = np.random.default_rng(seed), DeltaMask(), 2000
    bounds = method.bounds(positions)
    agreed = dice.random(positions) < 0.85
    masks = [agreed ^ (dice.random(positions) < 0.05) for _ in range(4)]
    start = Posterior(Prior(0.85, 1, 0.01), np.zeros(positions, np.float32), 0)
    dense = np.zeros(positions, np.bool_)
    dense[dice.permutation(positions)[: bounds.most]] = True
    flips = read(encoded(dense), bounds)
    quiet = start.after([*masks, agreed]).chances().astype(np.int64)
    found = start.after([*masks, agreed ^ flips]).chances().astype(np.int64)
    assert np.abs(found - quiet).max() <= ONE // 5 + 1
    assert np.count_nonzero(found != quiet) <= positions // 10 + bounds.false_positives
    with pytest.raises(RemoteViolation, match="update is too large"):
        read(encoded(np.ones(positions, np.bool_)), bounds)


def encoded(bits: Bits) -> bytes:
    return msgspec.msgpack.encode(Dense(pack_bits(bits)))


# --- matu --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_lying_vector_moves_a_task_by_its_share_of_three_median_vectors(lie: str, seed: int) -> None:
    dice = np.random.default_rng(seed)
    common = normal(dice, 500)
    honest = [TaskContribution.of(common + normal(dice, 500, 0.05), 134) for _ in range(4)]
    liar = TaskContribution.of(lying(lie, common + normal(dice, 500, 0.05)), HUGE)
    # All count in full, whatever the signs: what a vote on signs does is not in the bound below.
    without, found = combine(honest, 0.0).vector, combine([*honest, liar], 0.0).vector
    lengths = [each.length for each in (*honest, liar)]
    assert norm(found - without) <= farthest(lengths, CLIP, norm(without))
    # And a vote takes weight from numbers, and gives none.
    assert norm(combine([*honest, liar], 0.4).vector) <= norm(found)


@pytest.mark.parametrize("length", [1.0, 1e6])
def test_a_task_of_one_liar_moves_the_tasks_that_it_is_mixed_into_by_three_lengths_of_theirs(
    length: float,
) -> None:
    dice = np.random.default_rng(0)
    own = normal(dice, 200)
    lie = -own * np.float32(length)
    alike = np.ones((2, 2), np.float32)
    tasks = [Combined(own, np.ones(200, np.float32)), Combined(lie, np.ones(200, np.float32))]
    found = mix(tasks, alike, neighbours=1, least=0.5)[0]
    assert norm(found - own) <= CLIP * norm(own) * 1.001
