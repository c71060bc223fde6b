"""When a node trains: worked out by hand, minute by minute."""

import pytest

from shoal.node.config.settings import load
from shoal.node.errors import BadConfig
from shoal.node.service.schedule import (
    FOREVER,
    BadSchedule,
    Moment,
    Rules,
    is_within,
    parse_duration,
    parse_hours,
    shown,
    why_not,
)


def at(hour: int, minute: int = 0) -> int:
    return 60 * hour + minute


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("", ()),
        ("22-7", ((at(22), at(7)),)),
        ("12-13, 22-6:30", ((at(12), at(13)), (at(22), at(6, 30)))),
        ("9-24", ((at(9), 0),)),
        ("0-24", ((0, 0),)),
    ],
)
def test_hours_are_read(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    assert parse_hours(text) == spans


@pytest.mark.parametrize(
    "text", ["22", "22-", "25-7", "7-7", "9-25", "9:60-10", "a-b", "1-2-3", "9-10,,11-12"]
)
def test_what_is_no_hours_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSchedule, match="write 22-7"):
        parse_hours(text)


def test_hours_go_over_midnight_and_their_end_is_not_part_of_them() -> None:
    night = parse_hours("22-7")
    inside = [hour for hour in range(24) if is_within(night, at(hour))]
    assert inside == [0, 1, 2, 3, 4, 5, 6, 22, 23]
    assert is_within(night, at(6, 59))
    assert not is_within(night, at(7))
    assert all(is_within((), minute) for minute in range(1440))
    assert all(is_within(parse_hours("0-24"), minute) for minute in range(1440))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), ("1.5d", 129_600.0)]
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0s", "2 weeks", "99999999d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(BadSchedule, match="write 90s, 30m, 2h or 1d"):
        parse_duration(text)


def test_a_pause_counts_before_battery_and_hours_and_ends_by_itself() -> None:
    rules = Rules(parse_hours("22-7"), "help")
    noon = Moment(1000.0, at(12), is_on_battery=True)
    assert why_not(rules, noon, FOREVER) == "paused; to go on: shoal resume"
    assert why_not(rules, noon, 1060.0) == "paused for 60.0 s more; to go on: shoal resume"
    assert "battery" in why_not(rules, noon, 1000.0)
    assert "between 22:00 and 07:00" in why_not(rules, Moment(1000.0, at(12)))
    assert why_not(rules, Moment(1000.0, at(23))) == ""
    assert why_not(Rules(), noon) == ""
    assert shown(parse_hours("12-13,22-6:30")) == "12:00 and 13:00 or 22:00 and 06:30"


def test_a_slip_in_the_settings_is_told_at_the_start(tmp_path: object) -> None:
    from pathlib import Path

    home = Path(str(tmp_path))
    (home / "config.toml").write_text('[schedule]\nhours = "22 to 7"\n')
    with pytest.raises(BadConfig, match=r"schedule\.hours.*write 22-7"):
        load(home, {}, {})
