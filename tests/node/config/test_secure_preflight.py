"""Secure runs in which somebody would have to see a contribution are refused, with what to type."""

from typing import Any

import pytest

from shoal.gossip.admission.charter import Mode
from shoal.gossip.run_spec import RunSettings, least_of, usual_combine
from shoal.methods.registry import load_method
from shoal.node.config.preflight import check_run
from shoal.node.errors import BadConfig


def refused(mode: Mode = "closed", **settings: Any) -> str:
    """Return why a run is refused; empty where it is not."""
    run = RunSettings(**settings)
    try:
        check_run(run, load_method(run.method, run.options), mode)
    except BadConfig as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "method", ["fedavg", "fedprox", "diloco", "fedavgm", "scaffold", "feddyn", "fedpeft"]
)
def test_every_method_whose_exchange_is_a_weighted_sum_may_be_secure(method: str) -> None:
    assert refused(secure=True, method=method) == ""


@pytest.mark.parametrize("method", ["deltamask", "matu"])
def test_methods_that_gather_bodies_are_refused(method: str) -> None:
    assert "gathers bodies" in refused(secure=True, method=method)
    assert "--method fedavg" in refused(secure=True, method=method)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"combine": "clip"}, "take --combine mean"),
        ({"combine": "median"}, "take --combine mean"),
        ({"combine": "trimmed"}, "take --combine mean"),
        ({"exchange": "pairwise"}, "leave out --exchange"),
        ({"codec": "int8"}, "--grid-bits"),
        ({"group_size": 2}, "--group-size 3"),
    ],
)
def test_what_needs_to_see_contributions_is_refused(settings: dict[str, Any], advice: str) -> None:
    assert advice in refused(secure=True, **settings)
    assert refused(**settings) == ""


@pytest.mark.parametrize("mode", ["open", "invite"])
def test_only_a_closed_run_is_secure_unless_the_user_accepts_what_is_lost(mode: Mode) -> None:
    said = refused(mode, secure=True)
    assert "nobody can look at what they give" in said
    assert "--accept-unseen-updates" in said
    assert refused(mode, secure=True, accept_unseen_updates=True) == ""


def test_to_accept_what_does_not_happen_is_refused() -> None:
    assert "add --secure" in refused(accept_unseen_updates=True)


def test_a_secure_run_takes_means_of_three_at_least() -> None:
    assert usual_combine(RunSettings(secure=True)) == "mean"
    assert [least_of(RunSettings(secure=True, quorum=quorum)) for quorum in (1, 3, 5)] == [3, 3, 5]
    assert least_of(RunSettings()) == 1
