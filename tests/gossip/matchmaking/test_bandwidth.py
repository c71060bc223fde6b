"""How large a part each member reduces."""

from itertools import product
from random import Random

import pytest

from shoal.gossip.matchmaking.bandwidth import (
    FASTER,
    LEAST_BUSY,
    LEAST_BYTES,
    MOST,
    PARTS,
    UplinkEstimate,
    capped,
    halvings_by,
    load,
    shares_by,
)


def seconds(shares: tuple[int, ...], rates: tuple[int, ...]) -> float:
    """Return when the last is through with a vector of one kB: what it sends over what its line carries."""
    n, total = len(rates), sum(shares)
    return max((1 + share / total * (n - 2)) / rate for share, rate in zip(shares, rates, strict=True))


@pytest.mark.parametrize(
    "uplinks",
    [(0, 0, 0), (512, 512, 512, 512), (512, 1024, 512), (512, 0, 0, 0), (512, 64), (512, 0), (512,), ()],
)
def test_parts_are_equal_where_lines_are_alike_or_unknown_or_the_group_is_small(
    uplinks: tuple[int, ...],
) -> None:
    assert shares_by(uplinks) == (1,) * len(uplinks)


def test_who_has_a_slow_line_sends_its_own_contribution_and_reduces_nothing() -> None:
    assert shares_by((2048, 2048, 2048, 128)) == (341, 341, 341, 0)
    assert shares_by((2048, 0, 0, 2048, 128)) == (256, 256, 256, 256, 0)


def test_all_that_reduce_are_through_at_the_same_time() -> None:
    rates = (1024, 2048, 4096, 4096)
    shares = shares_by(rates)
    times = [(1 + share / sum(shares) * 2) / rate for share, rate in zip(shares, rates, strict=True) if share]
    assert max(times) == pytest.approx(min(times), rel=0.02)


def test_no_other_parts_are_sooner_through() -> None:
    """Against all parts in steps of a sixteenth."""
    dice = Random(1)
    for _ in range(20):
        rates = tuple(2 ** dice.randrange(8, 11) for _ in range(4))
        if max(rates) == 2 * min(rates):
            continue  # taken for equal
        best = min(seconds(parts, rates) for parts in product(range(17), repeat=4) if sum(parts) == 16)
        assert seconds(shares_by(rates), rates) <= best * 1.01


def test_who_claims_an_absurd_line_gets_no_more_than_one_eight_times_the_median() -> None:
    assert shares_by((512, 512, 512, 512, 1 << 30)) == shares_by((512, 512, 512, 512, FASTER * 512))
    assert all(0 <= share <= PARTS for share in shares_by((1, 1 << 30, 1, 1 << 30)))


def test_a_line_is_a_power_of_two_and_changes_only_when_it_is_another() -> None:
    line = UplinkEstimate()
    line.observe(10_000_000, 2.0)
    assert line.rate == 4096
    for rate in (4_500_000, 6_500_000, 2_700_000, 4_000_000):
        for _ in range(10):
            line.observe(2 * rate, 2.0)
        assert line.rate == 4096
    for _ in range(10):
        line.observe(2_000_000, 2.0)
    assert line.rate == 1024


def test_one_slow_round_does_not_move_it() -> None:
    line = UplinkEstimate()
    for _ in range(5):
        line.observe(10_000_000, 2.0)
    line.observe(10_000_000, 60.0)
    assert line.rate == 4096


def test_lines_that_hold_nobody_up_are_alike() -> None:
    lines = [UplinkEstimate(), UplinkEstimate()]
    lines[0].observe(8_192_000, LEAST_BUSY / 2)
    lines[1].observe(8_192_000, LEAST_BUSY / 50)
    assert [line.rate for line in lines] == [8192, 8192]


def test_a_quick_line_is_no_faster_for_a_larger_part() -> None:
    shares, sizes = (700, 50, 50, 50, 50, 50, 50, 50), []
    for member in range(8):
        sent = round(1e8 * (1 + 6 * shares[member] / sum(shares)))
        line = UplinkEstimate()
        line.observe(sent, 0.7, load(shares, member))
        sizes.append(line.rate)
    assert shares_by(sizes) == (1,) * 8
    assert load((1, 1), 0) == load((1,), 0) == 1.0


def test_small_rounds_tell_nothing_of_a_line() -> None:
    line = UplinkEstimate()
    line.observe(LEAST_BYTES - 1, 100.0)
    assert line.rate == 0
    line.observe(LEAST_BYTES, 100_000.0)
    assert line.rate == 1


def test_nobody_reduces_more_than_its_cap_whatever_line_it_claims() -> None:
    for uplinks in ((1 << 30, 1, 1), (1 << 30, 64, 64, 64, 64), (1000, 1000, 1, 1, 1, 1)):
        for most in MOST.values():
            shares = capped(shares_by(uplinks), most)
            assert max(shares) <= 1.01 * most * sum(shares) / len(shares)
            assert sum(shares) == pytest.approx(PARTS, abs=len(shares))


def test_shares_below_the_cap_stay_as_they_are() -> None:
    assert capped((1, 1, 1), 1.5) == (1, 1, 1)
    assert capped((300, 400, 324), 1.5) == (300, 400, 324)


def test_what_is_above_the_cap_goes_to_those_that_reduce_anything() -> None:
    assert capped((924, 100, 0, 0), 1.5) == (384, 384, 128, 128)
    assert capped((600, 300, 100), 1.5) == (500, 375, 125)


@pytest.mark.parametrize(
    ("uplinks", "halvings"),
    [
        ((), 0),
        ((0, 0), 0),
        ((8192, 0), 0),
        ((8192, 4096), 1),
        ((2048, 1 << 20), 2),
        ((1024, 0), 3),
        ((1, 8192), 3),
    ],
)
def test_chunks_are_halved_for_the_slowest_line_that_is_known(
    uplinks: tuple[int, ...], halvings: int
) -> None:
    assert halvings_by(uplinks) == halvings
