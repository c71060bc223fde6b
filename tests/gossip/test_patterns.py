"""Patterns: every exchange that a run spec can name, and what follows from it."""

from typing import get_args, get_type_hints

from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import RunSpec

GROUP, PAIRWISE = PATTERNS["group"], PATTERNS["pairwise"]


def test_every_exchange_of_a_run_spec_has_a_pattern() -> None:
    assert set(get_args(get_type_hints(RunSpec)["exchange"])) == PATTERNS.keys()


def test_pairwise_forms_a_group_only_for_the_last_round() -> None:
    assert [PAIRWISE.group_size(8, is_last=last) for last in (False, True)] == [1, 8]
    assert [GROUP.group_size(8, is_last=last) for last in (False, True)] == [8, 8]


def test_a_peer_that_lags_is_waited_for_only_where_states_are_its_own() -> None:
    assert [PAIRWISE.waits_for(behind, is_last=False) for behind in (0, 1, 2)] == [False, True, False]
    assert [PAIRWISE.waits_for(behind, is_last=True) for behind in (0, 1, 2)] == [False, True, True]
    assert not any(GROUP.waits_for(behind, is_last=True) for behind in (0, 1, 2))
