"""The benchmark of averaging: what its lines say, above all of systems that do not average."""

from typing import Any

import pytest

from scripts import bench_averaging
from scripts.bench_averaging import COLUMNS, WorkerEnded, cells_of, measured, pooled, summary


def row(seconds: float, error: float = 0.0) -> dict[str, Any]:
    """Return what a peer says of a round."""
    return {
        "seconds": seconds,
        "matchmaking_seconds": 0.0,
        "bytes": 10,
        "cpu_seconds": seconds / 2,
        "error": error,
        "peak_rss_mb": 1.0,
        "page_faults": 7,
        "huge_mb": 2.0,
    }


def line(system: str, *turns: float) -> dict[str, Any]:
    """Return the line of a system that took so many seconds in its turns."""
    return pooled([summary(system, 2, 100, [[row(each)], [row(each / 2)]], 0.0) for each in turns])


def test_a_ratio_is_the_median_over_the_turns_with_its_spread() -> None:
    ours, gloo = line("shoal-float32", 1.0, 4.0, 3.0), line("gloo", 1.0, 2.0, 2.0)
    cells = cells_of(ours, [ours, gloo])
    assert cells["x gloo"] == "1.50 (1.00 to 2.00)"
    assert cells["all-reduce s"] == "3.000"
    assert cells["faults"] == "7"
    assert tuple(cells) == COLUMNS


def test_a_system_that_does_not_average_is_a_row_with_rounds_lost() -> None:
    wrong = pooled([summary("hivemind-float32", 2, 100, [[row(1.0, 0.5)] * 3] * 2, 0.0)])
    ours = line("shoal-float32", 1.0)
    cells = cells_of(wrong, [wrong, ours])
    assert tuple(cells) == COLUMNS
    assert (cells["lost"], cells["all-reduce s"]) == ("3", "")
    assert cells_of(ours, [wrong, ours])["hivemind x"] == ""


def test_a_process_that_ends_early_is_such_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise WorkerEnded("no group of 8")

    monkeypatch.setattr(bench_averaging, "run_group", run)
    assert measured("hivemind-float32", 8, 100, 7) | {"load_before": 0.0} == {
        "system": "hivemind",
        "codec": "float32",
        "peers": 8,
        "numel": 100,
        "rounds_lost": 7,
        "load_before": 0.0,
        "why": "no group of 8",
    }


def test_turns_that_averaged_count_beside_one_that_did_not() -> None:
    good = summary("hivemind-float32", 2, 100, [[row(1.0)], [row(2.0)]], 0.0)
    bad = summary("hivemind-float32", 2, 100, [[row(9.0, 1.0)]] * 2, 0.0)
    both = pooled([bad, good])
    assert (both["seconds_median"], both["rounds_lost"]) == (2.0, 1)
