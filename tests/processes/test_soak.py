"""A leak is found by its slope, and what merely wavers is not taken for one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil
import pytest
from testnet_fakes import wait_until
from testnet_shaken import swarm

from scripts import soak
from scripts.soak import LIMITS, Limit, Meter, Series, round_times, size_of, slope_of, theil_sen, worst
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import Record, record_of, write_record

HOUR = 3600.0


def series(
    value: Callable[[float], float],
    *,
    what: str = "memory",
    whose: str = "node-1 daemon",
    seconds: float = HOUR,
) -> Series:
    found = Series(what, whose)
    for step in range(int(seconds / 10)):
        found.add(10.0 * step, value(10.0 * step))
    return found


def test_the_median_of_all_slopes_is_not_bent_by_peaks() -> None:
    dice = Random(1)
    at = [float(i) for i in range(200)]
    straight = [3.0 + 0.5 * x + dice.gauss(0, 0.2) for x in at]
    with_peaks = [y + (500.0 if i % 10 == 0 else 0.0) for i, y in enumerate(straight)]
    assert theil_sen(at, straight) == pytest.approx(0.5, abs=0.01)
    assert theil_sen(at, with_peaks) == pytest.approx(0.5, abs=0.02)
    assert theil_sen([1.0], [7.0]) == 0.0


def test_a_leak_fails_and_a_flat_line_holds() -> None:
    dice = Random(2)
    leak = slope_of(series(lambda at: 130 + 20 * at / HOUR + dice.gauss(0, 1)), HOUR)
    flat = slope_of(series(lambda at: 130 + dice.gauss(0, 1)), HOUR)
    assert leak is not None
    assert flat is not None
    assert not leak.ok
    assert leak.growth == pytest.approx(20 * leak.seconds / HOUR, abs=1)
    assert flat.ok


def test_what_shrinks_is_no_leak() -> None:
    slope = slope_of(series(lambda at: 300 - 100 * at / HOUR), HOUR)
    assert slope is not None
    assert slope.ok


def test_what_fills_up_during_the_warm_up_is_no_leak() -> None:
    slope = slope_of(series(lambda at: min(400.0, 100 + 3 * at)), HOUR)
    assert slope is not None
    assert slope.growth == pytest.approx(0.0)


@pytest.mark.parametrize(("seconds", "kept"), [(0.3 * HOUR, False), (0.5 * HOUR, True), (0.0, False)])
def test_a_process_that_churn_ended_early_says_nothing(seconds: float, kept: bool) -> None:
    assert (slope_of(series(lambda at: at, seconds=seconds), HOUR) is not None) is kept


def test_the_limit_grows_with_the_run_but_is_never_below_what_wavers() -> None:
    limit = Limit("MB", per_hour=16.0, at_least=4.0)
    assert [limit.allowed(seconds, 100.0) for seconds in (60.0, HOUR, 2 * HOUR)] == [4.0, 16.0, 32.0]
    share = Limit("s", per_hour=0.2, at_least=0.1, relative=True)
    assert share.allowed(60.0, 1.5) == pytest.approx(0.15)


def test_the_worst_of_each_kind_is_shown() -> None:
    slopes = [
        slope_of(series(lambda at, rate=rate: 100 + rate * at / HOUR, whose=whose), HOUR)  # type: ignore[misc]
        for rate, whose in ((1, "node-1 daemon"), (5, "node-2 daemon"), (2, "node-1 trainer"))
    ]
    shown = worst([slope for slope in slopes if slope is not None])
    assert [slope.series.whose for slope in shown] == ["node-2 daemon", "node-1 trainer"]


def test_the_time_of_rounds_is_that_of_the_swarm() -> None:
    found = round_times(swarm())
    assert found.values == [10.0] * 19


def test_every_quantity_makes_a_picture(tmp_path: Path) -> None:
    all_ = [series(lambda at: 1 + at, what=what) for what in LIMITS]
    slopes = [slope for each in all_ if (slope := slope_of(each, HOUR)) is not None]
    soak.draw(tmp_path / "soak.png", all_, slopes, "a title")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(700))
    (tmp_path / "c").write_bytes(bytes(300))
    assert size_of(tmp_path) == 1000


def test_a_process_and_its_child_are_measured_each_for_itself(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "open('up', 'w').close(); sys.stdin.read(); c.kill(); c.wait()"
    )
    meter = Meter(tmp_path)
    meter.measure()
    assert meter.series == []
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=tmp_path) as process:
        wait_until((tmp_path / "up").exists)
        node = record_of("node-1", tmp_path, tmp_path / "log", process.pid)
        write_record(tmp_path, Record(Plan(), 1.0, (node,)))
        meter.measure()
        found = {(each.what, each.whose): each.values for each in meter.series}
        here = psutil.Process(process.pid)
        assert found["threads", "node-1 daemon"] == [1]
        assert found["descriptors", "node-1 daemon"] == [here.num_fds()]
        assert found["memory", "node-1 trainer"][0] > 1
        assert found["disk", "node-1 home"][0] > 0
        process.communicate()
    meter.measure()
    assert all(len(each.values) == 1 for each in meter.series if each.what != "disk")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak_of_real_nodes_ends_in_a_verdict_and_a_picture(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/soak.py", "--minutes", "0.45", "--nodes", "3", "--churn", "0"]
    found = subprocess.run(
        [*command, "--dir", str(tmp_path / "net")],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    # What grows is judged here; a round that a node loses while links of 150 ms come up is told, and is
    # judged by the tests of faults.
    assert "│ FAILS" not in found.stdout, found.stdout + found.stderr
    assert found.returncode == int("FAILS" in found.stdout), found.stdout + found.stderr
    assert "no live node was starved" in found.stdout
    assert (tmp_path / "net" / "soak.png").exists()
