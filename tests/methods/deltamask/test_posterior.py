"""Posterior: whole numbers of votes, and chances that are the same on every peer."""

import numpy as np
import pytest

from shoal.methods.deltamask.posterior import ONE, Posterior, Prior, divergence, from_scores, to_scores

UNIFORM = Prior(theta=0.85, strength=1, floor=0.0001)


def empty(prior: Prior, size: int) -> Posterior:
    return Posterior(prior, np.zeros(size, np.float32), 0)


def test_before_a_vote_the_chance_is_the_prior() -> None:
    assert empty(UNIFORM, 3).chances().tolist() == [int(0.85 * ONE)] * 3


def test_from_a_uniform_prior_the_chance_is_the_mean_of_the_masks() -> None:
    masks = np.random.default_rng(0).random((7, 1000)) < 0.6
    chances = empty(UNIFORM, 1000).after(masks).chances()
    kept = masks.sum(axis=0)
    inside = (kept > 0) & (kept < 7)
    assert chances[inside].tolist() == [int(count) * ONE // 7 for count in kept[inside]]


def test_the_order_of_arrival_is_no_matter() -> None:
    masks = np.random.default_rng(1).random((9, 500)) < 0.5
    one, other = empty(UNIFORM, 500).after(masks), empty(UNIFORM, 500).after(masks[::-1])
    assert one.chances().tobytes() == other.chances().tobytes()


def test_chances_stay_away_from_zero_and_one() -> None:
    prior = Prior(theta=0.5, strength=1, floor=0.01)
    masks = np.array([[True, False, True]] * 3)
    chances = empty(prior, 3).after(masks).chances()
    assert chances.tolist() == [int(0.99 * ONE), int(0.01 * ONE), int(0.99 * ONE)]


def test_a_stronger_prior_takes_more_votes_to_move() -> None:
    # λ = 3 and four votes, one for: α = 4, β = 6, mode (4 - 1) / (10 - 2) = 3/8.
    masks = np.array([[True], [False], [False], [False]])
    assert empty(Prior(0.5, 3, 0.01), 1).after(masks).chances().tolist() == [3 * ONE // 8]


def test_a_restarted_posterior_has_no_votes() -> None:
    voted = empty(UNIFORM, 4).after(np.ones((2, 4), np.bool_))
    assert voted.restarted().chances().tolist() == empty(UNIFORM, 4).chances().tolist()
    assert voted.votes == 2


def test_many_votes_are_counted_exactly() -> None:
    full = Posterior(UNIFORM, np.array([(1 << 24) - 2], np.float32), (1 << 24) - 1)
    assert full.after([np.array([True])]).kept[0] == (1 << 24) - 1


def test_scores_and_chances_are_each_others_inverse() -> None:
    chances = np.array([0.01, 0.3, 0.5, 0.99]) * ONE
    back = from_scores(to_scores(chances.astype(np.uint32)))
    np.testing.assert_allclose(back / ONE, [0.01, 0.3, 0.5, 0.99], rtol=1e-6)


def test_divergence_by_hand() -> None:
    half = np.array([ONE // 2], np.uint32)
    quarter = np.array([ONE // 4], np.uint32)
    # KL(1/2 ‖ 1/4) = ½ ln 2 + ½ ln (2/3)
    assert divergence(half, quarter)[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert divergence(half, half)[0] == 0
    assert np.isfinite(divergence(np.zeros(1, np.uint32), half)).all()
