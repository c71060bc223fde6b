"""Yardsticks: systems that can be run, with as much work as the method."""

import pytest

from shoal.methods.baselines import Setting, System, yardsticks
from shoal.methods.registry import all_options, known_methods, load_method

SETTING = Setting(nodes=5, rounds=20, examples=100)
PAPERS = ("deltamask", "fedcompress", "fedln", "fedstar", "matu")


@pytest.mark.parametrize("method", sorted(known_methods()))
def test_every_yardstick_is_a_method_with_options_that_it_takes(method: str) -> None:
    options = all_options(load_method(method, {}))
    for system in yardsticks(method, options, SETTING).values():
        load_method(system.method, system.options)


@pytest.mark.parametrize("method", PAPERS)
def test_every_method_of_a_paper_is_compared_with_something(method: str) -> None:
    assert len(yardsticks(method, all_options(load_method(method, {})), SETTING)) >= 2


def test_fedstar_is_compared_with_one_epoch_equal_steps_and_itself_ungated() -> None:
    options = all_options(load_method("fedstar", {"lr": 0.01}))
    found = yardsticks("fedstar", options, SETTING)
    # 100 labels are two batches of 64.
    epoch = {"steps": 2, "lr": 0.01, "batch_size": 64}
    assert found["supervised, one epoch"] == System("fedavg", epoch)
    assert found["centralised, one epoch"] == System("local", {**epoch, "steps": 10}, "one")
    betas = [each.options["beta"] for each in found.values() if each.method == "fedstar"]
    assert betas == [0.0, 0.5]
    ungated = all_options(load_method("fedstar", {"gate": False}))
    assert len(yardsticks("fedstar", ungated, SETTING)) == 3


def test_averaging_has_as_many_epochs_as_compression() -> None:
    options = all_options(load_method("fedcompress", {"batch_size": 32}))
    found = yardsticks("fedcompress", options, Setting(nodes=5, rounds=20, examples=270))["FedAvg"]
    assert (found.method, found.options["steps"]) == ("fedavg", 10 * 9)


def test_one_model_for_all_tasks_takes_the_steps_of_all_tasks() -> None:
    options = all_options(load_method("matu", {"steps": 7}))
    found = yardsticks("matu", options, Setting(nodes=6, rounds=20, examples=100, parts=3))
    assert found["one model for all tasks (FedAvg)"].options["steps"] == 21
    assert found["FedAvg for each task"].among == "holders"


def test_methods_that_are_yardsticks_themselves_have_none() -> None:
    assert yardsticks("fedavg", {}, SETTING) == {}


def test_a_probe_takes_as_many_steps_in_a_round_as_masks_do() -> None:
    options = all_options(load_method("deltamask", {"steps": 30, "head_steps": 20}))
    probe = yardsticks("deltamask", options, SETTING)["linear probe"].options
    assert (probe["head_rounds"], probe["head_steps"]) == (SETTING.rounds, 30)
