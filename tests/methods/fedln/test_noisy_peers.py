"""Who stands apart: by the group's own numbers, wherever these lie."""

import pytest

from shoal.methods.fedln.noisy_peers import NOBODY, noisy_from

EXCESS = 38
"""0.15 in 255ths."""


def flagged(*shares: float) -> list[float]:
    levels = [round(255 * share) for share in shares]
    threshold = noisy_from(levels, EXCESS)
    return [share for share, level in zip(shares, levels, strict=True) if level >= threshold]


@pytest.mark.parametrize("clean", [0.05, 0.25, 0.45, 0.6])
def test_noisy_peers_stand_apart_wherever_the_clean_ones_lie(clean: float) -> None:
    noisy = [clean + each for each in (0.25, 0.28, 0.3, 0.31, 0.33, 0.33, 0.34, 0.37)]
    assert flagged(clean, *noisy, clean + 0.04) == noisy


@pytest.mark.parametrize(
    "shares",
    [
        (0.13, 0.13, 0.15, 0.17, 0.22, 0.22, 0.25, 0.26, 0.26, 0.26),
        (0.5, 0.55, 0.56, 0.57, 0.6, 0.61, 0.65),
        (0.9, 0.9, 0.9, 0.9),
        (0.2, 0.35, 0.4, 0.44, 0.46, 0.48, 0.52, 0.54, 0.56, 0.6, 0.65, 0.8),
        (0.7,),
        (),
    ],
    ids=["clean", "on data that is hard", "all noisy", "a bell curve", "alone", "nobody"],
)
def test_nobody_is_noisy_where_nobody_stands_apart(shares: tuple[float, ...]) -> None:
    assert flagged(*shares) == []


def test_a_difference_below_the_excess_is_none() -> None:
    assert noisy_from([50, 50, 50, 87, 87, 87], EXCESS) == NOBODY
    assert noisy_from([50, 50, 50, 88, 88, 88], EXCESS) == 88


def test_one_that_claims_to_be_clean_makes_no_nine_others_noisy() -> None:
    honest = (0.42, 0.44, 0.45, 0.46, 0.46, 0.48, 0.49, 0.5, 0.52)
    assert flagged(0.0, *honest) == []


def test_one_clean_peer_is_believed_among_five_and_not_among_six() -> None:
    assert flagged(0.1, 0.6) == [0.6]
    assert flagged(0.1, 0.6, 0.6, 0.62, 0.63) == [0.6, 0.6, 0.62, 0.63]
    assert flagged(0.1, 0.6, 0.6, 0.62, 0.63, 0.64) == []


def test_the_order_in_which_peers_tell_is_no_matter() -> None:
    levels = [30, 34, 120, 130, 140, 150]
    assert noisy_from(levels, EXCESS) == noisy_from(levels[::-1], EXCESS) == 120
