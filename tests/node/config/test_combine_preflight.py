"""Ways to combine that do not fit a run are refused, with what to type."""

from typing import Any, get_args

import pytest

from shoal.gossip.run_spec import Combine, RunSettings
from shoal.methods.registry import load_method
from shoal.node.config.preflight import check_combine
from shoal.node.errors import BadConfig


def refused(**settings: Any) -> str:
    """Return why a run is refused; empty where it is not."""
    run = RunSettings(**settings)
    try:
        check_combine(run, load_method(run.method, run.options))
    except BadConfig as error:
        return str(error)
    return ""


@pytest.mark.parametrize("combine", get_args(Combine))
@pytest.mark.parametrize("method", ["fedavg", "diloco", "scaffold", "fedcompress", "deltamask"])
@pytest.mark.parametrize("codec", ["float32", "int8", "int4", "sign"])
def test_any_way_fits_the_methods_that_take_means_of_params_or_changes(
    method: str, codec: str, combine: Combine
) -> None:
    assert refused(method=method, codec=codec, combine=combine, delay=1) == ""


@pytest.mark.parametrize(
    "more",
    [{"exchange": "pairwise"}, {"engine": "hivemind"}, {"codec": "topk"}, {"method": "fedln"}],
    ids=str,
)
def test_the_mean_fits_everything(more: dict[str, str]) -> None:
    assert refused(combine="mean", **more) == ""


@pytest.mark.parametrize("combine", sorted(set(get_args(Combine)) - {"mean"}))
def test_pairwise_runs_and_other_engines_make_means_alone(combine: Combine) -> None:
    assert "leave out --exchange, or take --combine mean" in refused(exchange="pairwise", combine=combine)
    assert "take --combine mean, or leave out --engine" in refused(engine="hivemind", combine=combine)


@pytest.mark.parametrize("combine", ["trimmed", "median"])
def test_what_the_middle_one_would_ruin_is_refused(combine: Combine) -> None:
    for codec in ("topk", "int2"):
        assert f"leaves little of codec {codec}" in refused(method="diloco", codec=codec, combine=combine)
    assert "or --method fedavg" in refused(method="fedln", combine=combine)
    assert refused(method="fedln", options={"remedy": "distil"}, combine=combine) == ""
