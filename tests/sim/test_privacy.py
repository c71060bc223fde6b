"""Private runs in virtual time: killed between any two effects no node tells more than its ledger says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from sim.privacy import BUDGETED, CLIPPED, FULL, GIVES, NOISY, NOTED, PRIVATE, PrivateSim, private_sim

from shoal.crypto.accounting import Release
from shoal.gossip.averaging.secure.noisy_grid import NoisyGrid
from shoal.gossip.member import commands
from shoal.gossip.policies import privacy
from shoal.gossip.run_spec import PrivacyKind
from shoal.node import private_asks
from shoal.node.daemon.rounds import Rounds
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.private_asks import Budget, PrivateAsks

SEEDS: Final = 200
Patch = pytest.MonkeyPatch


def violations(sim: PrivateSim) -> set[str]:
    """Return which of the invariants of privacy were violated; others are for the runs without noise."""
    return {each.invariant for each in sim.run().violations} & PRIVATE


@pytest.mark.parametrize("kind", ["local", "distributed"])
def test_nodes_give_up_to_their_budgets_and_the_run_goes_on(tmp_path: Path, kind: PrivacyKind) -> None:
    found = []
    for seed in (0, 3):
        sim = private_sim(seed, tmp_path / str(seed), kind)
        assert not violations(sim), f"seed {seed}"
        found += [(sim.is_limited(sim.nodes[peer]), times) for peer, times in sim.oracle.told.items()]
    assert max(times for is_limited, times in found if is_limited) == GIVES
    assert max(times for is_limited, times in found if not is_limited) > GIVES


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["local", "distributed"])
def test_no_invariant_is_violated_by_more_seeds(tmp_path: Path, kind: PrivacyKind) -> None:
    sims = {seed: private_sim(seed, tmp_path / str(seed), kind) for seed in range(1, 40)}
    failed = {seed: found for seed, sim in sims.items() if (found := violations(sim))}
    assert not failed
    if kind == "distributed":
        squares, numbers = (sum(each) for each in zip(*map(of_noise, sims.values()), strict=True))
        assert abs(squares / numbers - 1) < 0.1


def of_noise(sim: PrivateSim) -> tuple[float, int]:
    return sim.oracle.squares, sim.oracle.numbers


# --- planted bugs --------------------------------------------------------------------------------------


def _writes_nothing(patch: Patch) -> None:
    def spend(self: PrivacyLedger, more: tuple[Release, ...]) -> None:
        self.releases = self.having(more)

    patch.setattr(PrivacyLedger, "spend", spend)


def _writes_when_it_is_answered(patch: Patch) -> None:
    honest, notice = PrivacyLedger.spend, Rounds.notice
    late: list[tuple[PrivacyLedger, tuple[Release, ...]]] = []

    def spend(self: PrivacyLedger, more: tuple[Release, ...]) -> None:
        late.append((self, more))

    def noticed(self: Rounds, event: Any) -> None:
        if isinstance(event, commands.Averaged):
            for ledger, more in late:
                honest(ledger, more)
            late.clear()
        notice(self, event)

    patch.setattr(PrivacyLedger, "spend", spend)
    patch.setattr(Rounds, "notice", noticed)


def _takes_back_what_failed(patch: Patch) -> None:
    honest = Rounds.notice

    def notice(self: Rounds, event: Any) -> None:
        ledger = self.privacy._ledger
        if isinstance(event, commands.Failed) and ledger is not None and ledger.count > 1:
            ledger.releases = (
                Release(noise_multiplier=ledger.releases[0].noise_multiplier, count=ledger.count - 1),
            )
        honest(self, event)

    patch.setattr(Rounds, "notice", notice)


def _has_no_budget(patch: Patch) -> None:
    honest = PrivateAsks.__init__

    def init(self: PrivateAsks, folder: Path, budget: Budget) -> None:
        honest(self, folder, Budget())

    patch.setattr(PrivateAsks, "__init__", init)


def _gives_its_change_at_no_weight(patch: Patch) -> None:
    honest = private_asks.Given

    def given(vector: Any, weight: float, problem: str, failure: str = "") -> private_asks.Given:
        return honest(vector if weight else None, weight, problem, failure)

    patch.setattr(private_asks, "Given", given)


def _clips_nothing(patch: Patch) -> None:
    patch.setattr(privacy, "shrink_of", lambda vector, origin, clip_norm: 1.0)


def _adds_no_noise(patch: Patch) -> None:
    patch.setattr(privacy, "discrete_gaussian", lambda size, sigma, entropy: np.zeros(size, np.int64))


def _trusts_all_to_stay(patch: Patch) -> None:
    def sigma(self: NoisyGrid) -> float:
        return self.privacy.sigma(self.count, self.members + 1)

    patch.setattr(NoisyGrid, "sigma", property(sigma))


def _sends_past_the_asks(patch: Patch) -> None:
    patch.setattr(
        Rounds,
        "_ask_privately",
        lambda self, spec, message, vector: self._around.command(
            commands.Contribute(message.index, vector, message.weight, message.kind, message.tag)
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("bug", "caught_by", "kind"),
    [
        (_writes_nothing, NOTED, "local"),
        (_writes_when_it_is_answered, NOTED, "local"),
        (_takes_back_what_failed, NOTED, "local"),
        (_sends_past_the_asks, NOTED, "local"),
        (_has_no_budget, BUDGETED, "distributed"),
        (_gives_its_change_at_no_weight, BUDGETED, "local"),
        (_clips_nothing, CLIPPED, "local"),
        (_adds_no_noise, NOISY, "local"),
        (_trusts_all_to_stay, FULL, "distributed"),
    ],
)
def test_a_planted_bug_is_found_within_two_hundred_seeds(
    tmp_path: Path,
    monkeypatch: Patch,
    bug: Callable[[Patch], None],
    caught_by: str,
    kind: PrivacyKind,
) -> None:
    bug(monkeypatch)
    found: set[str] = set()
    squares, numbers = 0.0, 0
    for seed in range(SEEDS):
        sim = private_sim(seed, tmp_path / str(seed), kind)
        found |= violations(sim)
        squares, numbers = squares + sim.oracle.squares, numbers + sim.oracle.numbers
        # Of all sums together a share that is too small is seen sooner than in one run.
        if numbers > 1000 and squares / numbers < 1 - 5 * (2 / numbers) ** 0.5:
            found.add(FULL)
        if caught_by in found:
            return
    pytest.fail(f"not caught: {SEEDS} seeds violated {sorted(found) or 'nothing'}")
