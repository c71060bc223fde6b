"""A state of 100 MB between real processes over real links: several donors, dead donors, lying donors."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).resolve().parents[1] / "state_process.py"
MEGABYTES = 100
MBIT = 100.0
"""Of every donor: eight seconds for the whole state, far below what a busy machine carries."""
Donor = tuple[subprocess.Popen[str], str]


@pytest.fixture
def donor() -> Iterator[Callable[..., Donor]]:
    """Start a process that holds the state; returns it and its address."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, mbit: float = MBIT) -> Donor:
        command = [sys.executable, str(SCRIPT), "hold", str(MEGABYTES), str(mbit), *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "it ended before it listened"
        return process, address

    yield start
    for process in running:
        process.kill()
        process.communicate()


def fetch(
    donors: list[Donor], arrived: Callable[[int], None] = lambda count: None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fetch the state from these; returns the result and who was refused."""
    command = [sys.executable, str(SCRIPT), "fetch", str(MEGABYTES), *(address for _, address in donors)]
    count, refused, result = 0, [], {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "arrived" in told:
                count += told["arrived"]
                arrived(count)
            elif "refused" in told:
                refused.append(told)
            else:
                result = told
    assert process.returncode == 0
    assert result["is_right"]
    assert result["round"] == 5
    return result, refused


def name(donor: Donor) -> str:
    return donor[1].rpartition("/")[2]


def test_a_state_comes_from_three_donors_twice_as_fast_as_from_one(donor: Callable[..., Donor]) -> None:
    donors = [donor() for _ in range(3)]
    one, _ = fetch(donors[:1])
    three, _ = fetch(donors)
    ratio = one["seconds"] / three["seconds"]
    print(f"one {one['seconds']:.2f} s, three {three['seconds']:.2f} s, {ratio:.2f} times as fast")
    assert set(three["donors"]) == {name(each) for each in donors}
    assert ratio >= 2.0


def test_a_state_survives_the_death_of_a_donor(donor: Callable[..., Donor]) -> None:
    donors = [donor() for _ in range(3)]

    def kill(count: int) -> None:
        if count >= 25:
            donors[0][0].send_signal(signal.SIGKILL)

    result, refused = fetch(donors, kill)
    print(f"{result['seconds']:.2f} s, chunks {result['donors']}")
    assert 0 < result["donors"][name(donors[0])] < 30
    assert sum(result["donors"].values()) == 96
    assert not refused


def test_a_frozen_donor_costs_no_more_than_its_share(donor: Callable[..., Donor]) -> None:
    donors = [donor() for _ in range(3)]

    def freeze(count: int) -> None:
        if count >= 25:
            donors[0][0].send_signal(signal.SIGSTOP)

    result, refused = fetch(donors, freeze)
    print(f"{result['seconds']:.2f} s, chunks {result['donors']}")
    assert sum(result["donors"].values()) == 96
    assert not refused


def test_a_slow_donor_does_not_hold_up_the_end(donor: Callable[..., Donor]) -> None:
    donors = [donor(mbit=8 * MBIT), donor(mbit=4.0)]
    result, _ = fetch(donors)
    print(f"{result['seconds']:.2f} s, chunks {result['donors']}")
    # A chunk of the slow one takes two seconds; the fast one gives the whole state in one.
    assert result["donors"][name(donors[0])] >= 93


def test_a_flipped_byte_is_refused_and_its_donor_is_named(donor: Callable[..., Donor]) -> None:
    donors = [donor(), donor("flip"), donor()]
    result, refused = fetch(donors)
    assert [each["refused"] for each in refused] == [name(donors[1])]
    assert refused[0]["reason"] == "it sent bytes of the state that do not verify"
    assert result["drops"]["chunk of a state does not verify"] == 1
    assert result["donors"].get(name(donors[1]), 0) <= 2
