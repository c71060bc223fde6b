"""Yardsticks: systems that can be run, with as much work as the method."""

import pytest

from methods.registry import all_options, known_methods, load_method
from methods.yardsticks import yardsticks


@pytest.mark.parametrize("method", sorted(known_methods()))
def test_every_yardstick_is_a_method_with_options_that_it_takes(method: str) -> None:
    options = all_options(load_method(method, {}))
    for name, given in yardsticks(method, options, 100, 20).values():
        load_method(name, given)


def test_fedstar_is_compared_with_one_epoch_equal_steps_and_itself_ungated() -> None:
    options = all_options(load_method("fedstar", {"lr": 0.01}))
    found = yardsticks("fedstar", options, 100, 20)
    # 100 labels are two batches of 64.
    assert found["supervised, one epoch"] == ("fedavg", {"steps": 2, "lr": 0.01, "batch_size": 64})
    assert [given["beta"] for name, given in found.values() if name == "fedstar"] == [0.0, 0.5]
    ungated = all_options(load_method("fedstar", {"gate": False}))
    assert len(yardsticks("fedstar", ungated, 100, 20)) == 2


def test_averaging_has_as_many_epochs_as_compression() -> None:
    options = all_options(load_method("fedcompress", {"batch_size": 32}))
    name, given = yardsticks("fedcompress", options, 270, 20)["FedAvg"]
    assert (name, given["steps"]) == ("fedavg", 10 * 9)


def test_methods_that_are_yardsticks_themselves_have_none() -> None:
    assert yardsticks("fedavg", {}, 100, 20) == {}
