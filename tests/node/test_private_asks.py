"""Private asks: nothing leaves a node unclipped, without noise, unnoted or past the budget."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.crypto.accounting import Release, epsilon_of
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.private_asks import Budget, PrivateAsks
from shoal.node.trainer import ipc

NUMEL = 1_000


def spec(**changes: Any) -> RunSpec:
    tensors = (TensorSpec("w", "float32", (NUMEL,)),)
    defaults = {"method": "fedavg", "tensors": tensors, "privacy": "local"}
    return RunSpec(**{**defaults, **changes})


def ask(**changes: Any) -> ipc.AskAllReduce:
    defaults = {"round": 0, "index": 0, "weight": 500.0, "numel": NUMEL, "kind": "params", "tag": "params"}
    return ipc.AskAllReduce(**{**defaults, **changes})


STATE = np.linspace(-3, 3, NUMEL, dtype=np.float32)
TRAINED = STATE + np.float32(0.5)


def test_what_goes_out_is_clipped_noisy_and_of_weight_one_and_the_ledger_is_on_the_disk_first(
    tmp_path: Path,
) -> None:
    asks = PrivateAsks(tmp_path, Budget())
    given = asks.give(spec(noise_multiplier=0.01), ask(), TRAINED, STATE)
    assert given.weight == 1.0
    assert given.vector is not None
    change = given.vector - STATE
    # Of norm 15.8 it was shortened to one.
    assert abs(np.linalg.norm(change - 1 / np.sqrt(NUMEL)) / (0.01 * np.sqrt(NUMEL)) - 1) < 0.2
    assert PrivacyLedger(tmp_path).releases == (Release(noise_multiplier=0.01),)
    assert np.array_equal(TRAINED, STATE + np.float32(0.5))


def test_two_rounds_draw_unlike_noise(tmp_path: Path) -> None:
    asks = PrivateAsks(tmp_path, Budget())
    first, second = (asks.give(spec(), ask(), TRAINED, STATE).vector for _ in range(2))
    assert first is not None
    assert second is not None
    assert np.linalg.norm(first - second) > 10


def test_at_the_budget_a_node_gives_the_state_as_it_was_at_no_weight_and_says_so(tmp_path: Path) -> None:
    one = epsilon_of([Release(noise_multiplier=2.0)], 1e-5)
    run, asks = spec(noise_multiplier=2.0), PrivateAsks(tmp_path, Budget(one * 2, 1e-5))
    given = [asks.give(run, ask(), TRAINED, STATE) for _ in range(6)]
    is_giving = [each.weight > 0 for each in given]
    n_given = is_giving.index(False)
    assert n_given >= 2  # together they cost less than apart
    assert is_giving == [True] * n_given + [False] * (6 - n_given)
    assert given[-1].vector is not None
    assert np.array_equal(given[-1].vector, STATE)
    assert "spent" in given[-1].problem
    assert "--privacy-budget" in given[-1].problem
    told = asks.status(run)
    assert told is not None
    assert told.is_spent
    assert told.releases == n_given
    assert told.epsilon <= one * 2
    again = PrivateAsks(tmp_path, Budget(one * 2, 1e-5))
    assert again.give(run, ask(), TRAINED, STATE).weight == 0, "a restart forgets nothing"


def test_a_spent_node_gives_a_zero_delta(tmp_path: Path) -> None:
    asks = PrivateAsks(tmp_path, Budget(1e-3, 1e-5))
    given = asks.give(spec(), ask(kind="delta", tag="delta"), TRAINED, STATE)
    assert given.vector is not None
    assert not given.vector.any()


def test_under_masks_the_vector_stays_for_the_exchange_to_clip(tmp_path: Path) -> None:
    asks = PrivateAsks(tmp_path, Budget())
    given = asks.give(spec(privacy="distributed", secure=True), ask(), TRAINED, STATE)
    assert (given.vector, given.weight) == (None, 1.0)
    assert PrivacyLedger(tmp_path).count == 1


def test_steps_with_noise_are_counted_as_the_trainer_says(tmp_path: Path) -> None:
    released = (Release(noise_multiplier=1.1, sampling=0.02, count=50),)
    asks, run = PrivateAsks(tmp_path, Budget()), spec(privacy="examples")
    assert asks.refusal(run, ask(released=released)) == ""
    assert asks.give(run, ask(released=released), TRAINED, STATE).vector is None
    assert PrivacyLedger(tmp_path).releases == released


def test_what_cannot_be_noted_is_not_sent(tmp_path: Path) -> None:
    asks = PrivateAsks(tmp_path, Budget())
    (tmp_path / "privacy.json").mkdir()
    given = asks.give(spec(), ask(), TRAINED, STATE)
    assert given.failure
    assert given.vector is None


@pytest.mark.parametrize(
    ("changes", "of_ask", "advice"),
    [
        ({}, {"kind": "statistic", "tag": "control"}, "--method fedavg"),
        ({}, {"numel": NUMEL - 1}, "--method fedavg"),
        ({"buffers": 4}, {}, "GroupNorm"),
        ({"privacy": "examples"}, {}, "--privacy local"),
    ],
)
def test_what_no_noise_can_cover_is_refused(
    tmp_path: Path, changes: dict[str, Any], of_ask: dict[str, Any], advice: str
) -> None:
    assert advice in PrivateAsks(tmp_path, Budget()).refusal(spec(**changes), ask(**of_ask))
