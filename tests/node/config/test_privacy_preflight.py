"""Private runs whose contributions are no bounded change are refused, with what to type."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.gossip.run_spec import RunSettings
from shoal.methods.registry import METHODS, load_method
from shoal.node.config.preflight import check_run
from shoal.node.config.privacy_preflight import OF_CHANGES, OF_STEPS, check_budget
from shoal.node.config.settings import NodeConfig, PrivacyConfig, RunConfig
from shoal.node.errors import BadConfig, BadHome


def refused(**settings: Any) -> str:
    """Return why a run is refused; empty where it is not."""
    run = RunSettings(**settings)
    try:
        check_run(run, load_method(run.method, run.options), "closed")
    except BadConfig as error:
        return str(error)
    return ""


@pytest.mark.parametrize("method", OF_CHANGES)
def test_methods_that_give_one_change_a_round_may_add_noise(method: str) -> None:
    assert refused(privacy="local", method=method) == ""
    assert refused(privacy="distributed", secure=True, method=method) == ""


@pytest.mark.parametrize("method", OF_STEPS)
def test_methods_of_plain_steps_may_add_noise_to_these(method: str) -> None:
    assert refused(privacy="examples", method=method) == ""


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {*OF_CHANGES}))
def test_every_other_method_is_refused_with_what_to_take(method: str) -> None:
    said = refused(privacy="local", method=method)
    assert "--method fedavg" in said
    assert "--privacy" in said


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"privacy": "distributed"}, "add --secure"),
        ({"privacy": "local", "secure": True}, "--privacy distributed"),
        ({"privacy": "local", "combine": "median"}, "--combine mean"),
        ({"privacy": "local", "exchange": "pairwise"}, "leave out --exchange"),
        ({"privacy": "local", "engine": "hivemind"}, "leave out --engine"),
        ({"privacy": "local", "delay": 1}, "leave out --delay"),
        ({"clip_norm": 2.0}, "add --privacy local"),
        ({"noise_multiplier": 2.0}, "add --privacy local"),
        ({"privacy": "examples", "method": "fedspeed"}, "--method fedavg"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], advice: str) -> None:
    assert advice in refused(**settings)


def test_a_budget_without_noise_is_refused(tmp_path: Path) -> None:
    config = NodeConfig(home=tmp_path, privacy=PrivacyConfig(budget=3.0))
    with pytest.raises(BadConfig, match="--privacy-budget"):
        check_budget(config)
    check_budget(msgspec.structs.replace(config, run=RunConfig(privacy="local")))


def test_a_damaged_ledger_is_found_before_the_start(tmp_path: Path) -> None:
    config = NodeConfig(home=tmp_path, run=RunConfig(privacy="local"))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "privacy.json").write_text("{")
    with pytest.raises(BadHome, match="put it back from a copy"):
        check_budget(config)
