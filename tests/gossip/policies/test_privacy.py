"""Privacy: what a node gives is clipped and noisy, alone and under masks, and no noise is missing."""

from dataclasses import replace
from random import Random

import msgspec
import numpy as np
import pytest
from secure_members import CONFIG, Members

from shoal.crypto.masking import threshold_of
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.secure.masked_sum import Stage
from shoal.gossip.averaging.secure.noisy_grid import NoisyGrid
from shoal.gossip.events import Vector
from shoal.gossip.policies.privacy import STEPS, Privacy, on_grid, privatise, shrink_of

NUMEL = 20_000


def vector(seed: int, norm: float, numel: int = NUMEL) -> Vector:
    drawn = np.random.default_rng(seed).normal(size=numel)
    return np.asarray(drawn * (norm / np.linalg.norm(drawn)), np.float32)


def private(kind: str = "distributed", clip_norm: float = 2.0, noise: float = 1.0) -> ExchangeConfig:
    privacy = Privacy(kind=kind, clip_norm=clip_norm, noise_multiplier=noise)  # type: ignore[arg-type]
    return msgspec.structs.replace(CONFIG, privacy=privacy)


@pytest.mark.parametrize("norm", [0.0, 0.1, 2.0, 50.0, 1e30, np.inf])
def test_a_change_is_never_longer_on_the_grid_than_noise_is_made_for(norm: float) -> None:
    privacy = Privacy(kind="local", clip_norm=2.0)
    origin, change = vector(1, 30.0), vector(2, 1.0)
    change = np.full(NUMEL, np.inf, np.float32) if np.isinf(norm) else change * np.float32(norm)
    given = origin + change
    codes = on_grid(given, origin, shrink_of(given, origin, 2.0), privacy.step)
    assert np.linalg.norm(codes) <= STEPS + np.sqrt(NUMEL) / 2
    if 0 < norm <= 2:
        assert np.allclose(codes * privacy.step, change, atol=1e-5)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_local_noise_has_the_deviation_that_the_run_says(noise: float) -> None:
    privacy = Privacy(kind="local", clip_norm=2.0, noise_multiplier=noise)
    origin, given = vector(1, 30.0), vector(1, 30.0) + vector(2, 9.0)
    privatise(given, origin, privacy, Random(3).randbytes)
    apart = given - origin - vector(2, 2.0)
    assert abs(apart.std() / (2.0 * noise) - 1) < 0.02
    assert abs(apart.mean()) < 5 * 2.0 * noise / np.sqrt(NUMEL)


def test_a_delta_is_measured_from_zero_and_numbers_that_are_not_finite_are_nothing() -> None:
    privacy = Privacy(kind="local", clip_norm=1e-3, noise_multiplier=1e-3)
    given = vector(2, 9.0)
    given[5] = np.nan
    privatise(given, None, privacy, Random(3).randbytes)
    assert np.isfinite(given).all()
    assert np.abs(given).max() < 1e-5


@pytest.mark.parametrize("count", [3, 5, 8])
def test_under_masks_all_open_the_same_sum_with_all_shares_of_the_noise(count: int) -> None:
    members = Members(count, NUMEL, seed=count, config=private())
    members.run()
    assert members.check() == tuple(sorted(members.names))
    mean = members.vectors[members.names[0]]
    clipped = [
        members.state + shrunk(members.given[name] - members.state, 2.0).astype(np.float64)
        for name in members.names
    ]
    noise = (mean - np.mean(clipped, axis=0)) * count
    # More members are in the sum than it takes to open it, each with its share.
    expected = 2.0 * np.sqrt(count / (threshold_of(count) - 1))
    assert abs(noise.std() / expected - 1) < 0.02


@pytest.mark.parametrize("stage", [Stage.SUM, Stage.CONSENT, Stage.UNMASK])
def test_where_members_vanish_the_others_noise_is_still_enough(stage: Stage) -> None:
    members = Members(6, NUMEL, config=private())
    members.kill_at(members.names[1], stage, 0)
    members.kill_at(members.names[4], stage, 0)
    members.run()
    contributors = members.check()
    clipped = {
        name: shrunk(members.given[name] - members.state, 2.0).astype(np.float64) for name in contributors
    }
    mean = members.vectors[members.alive[0]] - members.state
    noise = (mean - np.mean(list(clipped.values()), axis=0)) * len(contributors)
    # Without the share of any one of them, who knows its own.
    assert noise.std() * np.sqrt(1 - 1 / len(contributors)) > 2.0 * 0.98


def shrunk(change: Vector, clip_norm: float) -> Vector:
    return np.asarray(change * min(1.0, clip_norm / float(np.linalg.norm(change))), np.float32)


def test_before_the_masks_nothing_is_said_of_the_numbers() -> None:
    members = Members(3, config=private())
    members.run()
    members.check()
    said = [advert for core in members.cores.values() for advert in core._adverts.values()]
    assert len(said) == 9
    assert {advert.reach for advert in said} == {(0.0, 0.0, 0.0, 0.0)}


def test_all_count_alike_whatever_weight_they_claim_and_none_who_claims_none() -> None:
    config = private(noise=1e-4)
    members = Members(4, NUMEL, weights=[1.0, 9.0, 0.0, 2.0], config=config)
    members.run()
    members.check()
    change = members.vectors[members.names[0]] - members.state
    clipped = [shrunk(members.given[members.names[at]] - members.state, 2.0) for at in (0, 1, 3)]
    assert np.abs(change - np.mean(clipped, axis=0)).max() < 1e-3


def test_without_one_state_for_all_nothing_opens() -> None:
    members = Members(4, config=private())
    core = members.cores[members.names[2]]
    core.numbers._origin = replace(core.numbers._origin, name=b"z" * 32)
    members.run()
    for name in members.names:
        assert members.cores[name].outcome is None
        assert "--group-size" in members.cores[name].failure
        assert np.array_equal(members.vectors[name], members.given[name])


@pytest.mark.parametrize("members", [3, 7, 64])
@pytest.mark.parametrize("noise", [0.001, 1.0, 1000.0])
def test_a_field_holds_the_sum_of_the_largest_codes_of_all(members: int, noise: float) -> None:
    grid = NoisyGrid(1_001, Privacy(kind="distributed", noise_multiplier=noise), members, 3)
    assert grid.fields >= 1
    origin, given = None, np.full(1_001, 1e3, np.float32)
    words = sum(
        (grid.encode(given, origin, Random(at).randbytes, gives=True) for at in range(members)),
        np.zeros(grid.n_words, np.uint64),
    )
    mean = np.empty(1_001, np.float32)
    assert grid.decode(words, 0, members, members, mean)
    wide = members * 2 * grid.half
    assert wide < 2**grid.width
    assert grid.fields * grid.width <= 64
    outside = np.full(grid.n_words, 2**grid.width - 1, np.uint64)
    assert not grid.decode(outside, 0, 1, 1, mean) or 2 * grid.half >= 2**grid.width - 1
