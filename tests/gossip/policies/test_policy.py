"""Every pair of settings either becomes steps or is refused with what to change."""

from itertools import product
from typing import get_args

import pytest

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.policies.policy import Policy, policy_of
from shoal.gossip.run_spec import Combine, PrivacyKind, RunSettings


def test_a_sender_quantises_before_it_masks_and_a_plain_run_does_neither() -> None:
    assert policy_of(RunSettings()).steps == ()
    assert policy_of(RunSettings(codec="int8")).steps == ("quantise",)
    assert policy_of(RunSettings(secure=True)).steps == ("quantise", "mask")


@pytest.mark.parametrize(("codec", "combine"), list(product(sorted(CODECS), get_args(Combine))))
def test_under_masks_only_sums_of_the_grid_are_made_and_without_them_everything(
    codec: str, combine: Combine
) -> None:
    assert Policy(codec=codec, combine=combine).conflict == ""
    said = Policy(codec=codec, combine=combine, secure=True).conflict
    assert bool(said) == (codec != "float32" or combine != "mean")
    assert not said or "leave out" in said
    said = Policy(codec=codec, combine=combine, masker="enccluster").conflict
    assert bool(said) == (codec != "float32" or combine in ("trimmed", "median"))
    assert not said or "another --method" in said or "--option bits" in said


@pytest.mark.parametrize("kind", ["local", "distributed", "examples"])
def test_a_grid_that_a_method_fixes_has_no_room_for_noise(kind: PrivacyKind) -> None:
    said = policy_of(RunSettings(method="enccluster", privacy=kind, secure=True), masks=True).conflict
    assert "leave out --privacy" in said
    assert "enccluster" in said
    assert policy_of(RunSettings(method="enccluster"), masks=True).steps == ("quantise", "mask")
