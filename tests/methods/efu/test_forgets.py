"""What EFU forgets on data of another kind than digits, beside a peer that just leaves."""

from statistics import fmean

import pytest

from scripts.reproduce_efu import ClassExclusive, How, Stage, Swarm, run_swarm
from shoal.methods.efu.method import EFU, EFUConfig
from shoal.methods.learning.learner import TorchLearner

WARM = 40


def stages(how: How) -> list[list[Stage]]:
    """Return the stages of three seeds on the wine table, whose class 2 the last peer alone has."""
    method = EFU(EFUConfig(steps=6, lr=0.05, clip=0.1, forget_lr=0.1))
    found = []
    for seed in range(3):
        tasks = [ClassExclusive(f"{i + 1}/5", "tables", seed) for i in range(5)]
        learners = [TorchLearner(task, seed=seed, method=method) for task in tasks]
        found.append(run_swarm(Swarm(method, how), learners, WARM))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_class_of_a_table_falls_to_a_tenth_within_4_rounds_where_leaving_erases_nothing() -> None:
    unlearned, left = stages("efu"), stages("leaves")
    assert fmean(each[0].forgotten for each in unlearned) >= 0.9
    assert fmean(each[4].forgotten for each in unlearned) <= 0.10
    assert fmean(each[4].kept for each in unlearned) >= fmean(each[0].kept for each in unlearned) - 0.03
    assert fmean(each[4].forgotten for each in left) >= 0.9
