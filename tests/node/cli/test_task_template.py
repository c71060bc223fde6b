"""What `shoal task new` writes trains as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest
from lockstep import train

from shoal.methods.errors import MethodNotFound
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.learning.task_fit import fit_of
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL
from shoal.methods.registry import METHODS, load_method
from shoal.methods.sfprompt.method import SFPrompt
from shoal.node.cli.tools import task_new

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_new_task_trains_on_two_peers_with_the_default_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_new("spirals_of_mine", tmp_path, json=True)
    monkeypatch.syspath_prepend(tmp_path)
    learners = [TorchLearner(load_task("spirals_of_mine:SpiralsOfMine", {"seed": seed})) for seed in (1, 2)]
    before = learners[0].evaluate(learners[0].initial)["accuracy"]
    states, _ = train(load_method("fedavg", {}), learners, learners[0].initial, rounds=20)
    after = learners[1].evaluate(states[1].params)["accuracy"]
    print(f"accuracy {before:.3f} -> {after:.3f}")
    assert before < 0.6
    assert after > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_task_for_a_method_gives_all_that_it_asks_for_and_trains(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_new(f"for_{method}", tmp_path, method=method, json=True)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"for_{method}:For{method.capitalize()}"
    fit = fit_of(load_task(name, {}), method, {})
    assert (fit.fits, fit.problem) == (True, "")
    # What is a default that will do here need not be overridden.
    missing = {each.need.what for each in fit.given if each.is_given is False}
    assert missing <= {"identity()", "outputs()"}
    tasks = [load_task(name, {"seed": seed}) for seed in (1, 2, 3)]
    made = load_method(method, {})
    if isinstance(made, MPSL | SFPrompt):
        split = SplitRun(made, tasks)
        assert all(report.steps > 0 for report in split.round())
        return
    learners = [TorchLearner(task) for task in tasks]
    states, reports = train(made, learners, learners[0].initial, rounds=1)
    assert all(report.steps > 0 for each in reports for report in each)
    assert "accuracy" in learners[0].evaluate(states[0].params)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_for_a_method_is_formatted_and_says_nothing_of_the_template(
    method: str, tmp_path: Path
) -> None:
    task_new("mine", tmp_path, method=method, json=True)
    text = (tmp_path / "mine.py").read_text("utf-8")
    assert "CLASS" not in text
    assert "after the class" not in text
    for words in (["format", "--check"], ["check", "--select", "E,F,W,B"]):
        command = [sys.executable, "-m", "ruff", *words, "--config", str(ROOT / "pyproject.toml"), "mine.py"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_a_task_for_no_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodNotFound, match="no method fedmagic; there are: local"):
        task_new("mine", tmp_path, method="fedmagic", json=True)
    assert not list(tmp_path.iterdir())
