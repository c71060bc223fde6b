"""What `shoal task new` writes trains as it stands."""

from pathlib import Path

import pytest
from lockstep import train

from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.registry import load_method
from shoal.node.cli.tools import task_new

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
