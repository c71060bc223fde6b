"""The script that measures what noise costs and hides."""

import importlib

import numpy as np
import pytest

script = importlib.import_module("scripts.reproduce_privacy")


@pytest.mark.slow
def test_a_tiny_run_tells_every_way_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--tiny", "--peers", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {row.name}" for row in script.rows()]
    assert lines[2].split(" | ")[2] == "none"
    assert float(lines[3].split(" | ")[2]) > float(lines[5].split(" | ")[2]) > 0


def test_the_attack_is_certain_where_losses_tell_all_and_guesses_where_they_tell_nothing() -> None:
    low, high = np.linspace(0, 1, 50), np.linspace(2, 3, 70)
    assert script.curve(low, high) == (1.0, 1.0)
    advantage, area = script.curve(high, high)
    assert advantage == 0
    assert area == pytest.approx(0.5, abs=0.01)
