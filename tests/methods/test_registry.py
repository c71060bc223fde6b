"""Methods by name."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import msgspec
import pytest

from shoal.methods import registry
from shoal.methods.base import ModelSize, Traffic, largest_exchange
from shoal.methods.errors import BadOption, MethodNotFound
from shoal.methods.fedavg import FedAvg
from shoal.methods.needs import Need
from shoal.methods.registry import all_options, describe, known_methods, load_method

MILLION = ModelSize.of_one_body(1_000_000)


def test_the_registry_and_its_methods_load_no_torch() -> None:
    code = (
        "import sys; from shoal.methods.registry import METHODS, describe\n"
        "for name in METHODS: describe(name)\n"
        "print('torch' in sys.modules, 'trio' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_loads_and_describes_itself(name: str) -> None:
    found = describe(name, ModelSize.of_one_body(1000))
    assert found.paper
    assert found.use
    assert all(option.doc for option in found.options)
    method = load_method(name, {})
    assert method.asks == (found.traffic.bytes_per_round(8) > 0)
    assert list(all_options(method)) == [option.name for option in found.options]


def test_bytes_per_round_are_those_of_an_all_reduce() -> None:
    assert describe("fedavg", MILLION).traffic.bytes_per_round(4) == 6_000_000
    assert describe("fedavg", MILLION).traffic.bytes_per_round(1) == 0
    assert describe("local", MILLION).traffic.bytes_per_round(4) == 0


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(MethodNotFound, match="no method fedsgd; there are: .*fedavg"):
        load_method("fedsgd", {})


def test_an_unknown_option_lists_the_valid_ones() -> None:
    with pytest.raises(BadOption, match="fedavg has no option mu; it has: steps, lr, batch_size"):
        load_method("fedavg", {"mu": 1.0})


def test_installed_packages_add_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("theirs", "shoal.methods.fedavg:FedAvg", registry.GROUP),
        EntryPoint("broken", "methods.nowhere:Method", registry.GROUP),
    ]

    def entry_points(group: str, name: str | None = None) -> Any:
        assert group == registry.GROUP
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert isinstance(load_method("theirs", {"lr": 0.5}), FedAvg)
    assert known_methods()["theirs"] == "The first choice (from shoal.methods.fedavg)"
    assert known_methods()["broken"].startswith("method broken does not load from methods.nowhere:Method")
    assert known_methods()["fedavg"] == registry.METHODS["fedavg"][1]
    assert describe("theirs").needs == ()
    monkeypatch.setattr(FedAvg, "summary", "means of means.", raising=False)
    monkeypatch.setattr(FedAvg, "needs", (Need(what="a map()", must=True, why="to see"),), raising=False)
    assert known_methods()["theirs"] == "means of means (from shoal.methods.fedavg)"
    assert [need.what for need in describe("theirs").needs] == ["a map()"]
    with pytest.raises(MethodNotFound, match="broken does not load from methods.nowhere:Method"):
        load_method("broken", {})


def test_all_options_can_be_told_in_a_run_spec() -> None:
    for name in registry.METHODS:
        options = all_options(load_method(name, {}))
        assert all(isinstance(value, bool | int | float | str) for value in options.values())
        assert build_again(name, options) == load_method(name, {})


def build_again(name: str, options: dict[str, Any]) -> Any:
    return load_method(name, msgspec.json.decode(msgspec.json.encode(options)))


def test_what_a_round_sends_is_its_means_and_its_bodies() -> None:
    mean = Traffic.one_mean(1_000_000)
    assert mean == Traffic(largest=1_000_000, reduced=1_000_000)
    assert Traffic(reduced=1_000_000, gathered=100).bytes_per_round(4) == mean.bytes_per_round(4) + 300


@pytest.mark.parametrize("name", registry.METHODS)
def test_memory_is_made_for_each_mean_of_a_method(name: str) -> None:
    told = load_method(name, {}).traffic(MILLION)
    assert told.largest <= told.reduced <= 2 * told.largest or told.gathered
    assert largest_exchange(load_method(name, {}), MILLION.numel) == told.largest
