"""States are kept to train anew only where a round names all whose data comes in with it."""

from typing import Any

import pytest

from shoal.methods.registry import load_method
from shoal.node.config.retraining_preflight import check_keeping
from shoal.node.config.settings import RunConfig
from shoal.node.errors import BadConfig


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"exchange": "pairwise"}, "leave out --exchange"),
        ({"engine": "hivemind"}, "leave out --engine"),
        ({"delay": 1}, "leave out --delay"),
        ({"method": "mpsl"}, "take --method fedavg"),
    ],
)
def test_where_records_would_not_tell_all_nothing_is_kept(settings: dict[str, Any], advice: str) -> None:
    run = RunConfig(**{"keep_states": 4, **settings})
    method = load_method(run.method, {})
    with pytest.raises(BadConfig, match=advice):
        check_keeping(run, method)
    check_keeping(RunConfig(**settings), method)


@pytest.mark.parametrize("method", ["fedavg", "efu", "fedstar"])
def test_where_all_are_named_states_are_kept(method: str) -> None:
    check_keeping(RunConfig(method=method, keep_states=4), load_method(method, {}))
