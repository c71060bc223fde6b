"""What liars cost: every way of combining against every lie, in numpy on the digits.

    python scripts/byzantine.py [--nodes 10] [--liars 1] [--alpha 1.0] [--seeds 3] [--json]
    python scripts/byzantine.py --peace             what the bounds cost where nobody lies
    python scripts/byzantine.py --choose            the learning rate, chosen on validation data
    python scripts/byzantine.py --tiny              a few rounds of everything, as the gate runs it

A line for each reducer and lie: the accuracy of the model that all hold, in per cent on test data, as the
mean of the last five rounds. Then each seed's. A perceptron of 2,410 numbers is trained by `--nodes` peers on
Dirichlet shares of the digits, in 50 rounds of 10 local steps. The last `--liars` of them lie. Those of ALIE
and ipm know what the honest ones contribute. Owners and conveners lie about the mean, as far as the bounds
let them.

What bounds a mean is the code of every node (gossip/averaging/bounds.py).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.gossip.averaging.bounds import Stated, Terms, clipped_terms, terms, trim_of
from shoal.gossip.run_spec import Combine
from shoal.methods.tasks.partition import dirichlet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.small_digits import NUMEL, Floats, accuracy, batches, initial, load, train

ROUNDS: Final = 50
STEPS: Final = 10
LEARNING_RATE: Final = 0.5
"""Chosen on validation data: see `--choose`."""
LAST: Final = 5
"""Rounds at the end over which accuracy is averaged."""
OWNER_SHARE: Final = 1.5
"""Equal shares that one member may own."""
ALIE_DEVIATIONS: Final = 1.5


# --- reducers -------------------------------------------------------------------------------------


@dataclass
class Round:
    """What a reducer is given, and what it remembers."""

    deltas: Floats
    """What each peer contributes [n, 2410]."""
    weights: list[float]
    """What each claims to count."""
    last: Floats
    """The last update [2410], the centre of clipping."""
    lacking: frozenset[int] = frozenset()
    """Peers that do not know it, since they were absent then."""


Reducer: TypeAlias = Callable[[Round], Floats]


def parts(n: int) -> list[slice]:
    """Return where the parts of n owners lie."""
    edges = [NUMEL * part // n for part in range(n + 1)]
    return [slice(lo, hi) for lo, hi in pairwise(edges)]


def mean(given: Round) -> Floats:
    """Return the weighted mean, as it was without bounds."""
    weights = np.array(given.weights, np.float64)
    found: Floats = (weights / weights.sum() @ given.deltas).astype(np.float32)
    return found


def capped(given: Round, here: slice) -> tuple[Floats, npt.NDArray[np.float64], float]:
    """Return a part of the contributions with norms capped, how much each counts, and the bound."""
    vectors = given.deltas[:, here]
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    found = terms([Stated(weight, float(norm)) for weight, norm in zip(given.weights, norms, strict=True)])
    weights = np.array(found.weights)
    factors = np.array(found.shares) / weights
    return (vectors * factors[:, None]).astype(np.float32), weights, found.bound


def by_part(combine: Callable[[Floats, npt.NDArray[np.float64], Floats], Floats]) -> Reducer:
    """Return the reducer that bounds every part, and combines it in this way."""

    def reduce(given: Round) -> Floats:
        found = np.empty(NUMEL, np.float32)
        for here in parts(len(given.weights)):
            vectors, weights, _ = capped(given, here)
            found[here] = combine(vectors, weights, given.last[here])
        return found

    return reduce


def clip(given: Round) -> Floats:
    """Return what a step of centred clipping around the last update makes of every part, as nodes do."""
    found = np.empty(NUMEL, np.float32)
    for here in parts(len(given.weights)):
        if 2 * len(given.lacking) >= len(given.weights):  # too few know the last update
            vectors, weights, _ = capped(given, here)
            found[here] = weighted(vectors, weights, given.last[here])
            continue
        made = clipping(given, here)
        moved = np.array(made.shares) @ given.deltas[:, here] + made.last * given.last[here]
        found[here] = moved.astype(np.float32)
    return found


def clipping(given: Round, here: slice | npt.NDArray[np.int64]) -> Terms:
    """Return what the contributions come to in a part that is clipped around the last update."""
    vectors, last = given.deltas[:, here].astype(np.float64), given.last[here].astype(np.float64)
    norms, aparts = np.linalg.norm(vectors, axis=1), np.linalg.norm(vectors - last, axis=1)
    stated = [
        Stated(weight, float(norm), apart=None if number in given.lacking else float(apart))
        for number, (weight, norm, apart) in enumerate(zip(given.weights, norms, aparts, strict=True))
    ]
    return clipped_terms(stated, float(np.linalg.norm(last)))


def weighted(vectors: Floats, weights: npt.NDArray[np.float64], last: Floats) -> Floats:
    """Return the weighted mean."""
    return (weights @ vectors).astype(np.float32)


def trimmed(vectors: Floats, weights: npt.NDArray[np.float64], last: Floats) -> Floats:
    """Return the mean by coordinate without the largest and the smallest quarter, each peer counting once."""
    return _without_ends("trimmed", vectors)


def median(vectors: Floats, weights: npt.NDArray[np.float64], last: Floats) -> Floats:
    """Return the median by coordinate, each peer counting once."""
    return _without_ends("median", vectors)


def _without_ends(combine: Combine, vectors: Floats) -> Floats:
    cut = trim_of(combine, len(vectors))
    found: Floats = np.sort(vectors, axis=0)[cut : len(vectors) - cut].mean(axis=0)
    return found


REDUCERS: Final[dict[str, Reducer]] = {
    "mean": mean,
    "bounded": by_part(weighted),
    "clip": clip,
    "trimmed": by_part(trimmed),
    "median": by_part(median),
}


# --- lies -----------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What liars know when they contribute."""

    honest: Floats
    """What the others contribute [h, 2410]."""
    own: Floats
    """What the liars learned themselves [k, 2410]."""
    weights: list[float]
    """Of the liars."""
    dice: np.random.Generator = field(default_factory=np.random.default_rng)


Lie: TypeAlias = Callable[[Seen], None]
"""It changes `own` and `weights` in place."""


def times(factor: float) -> Lie:
    """Return a lie that multiplies what was learned."""

    def lie(seen: Seen) -> None:
        seen.own *= np.float32(factor)

    return lie


def heavy(seen: Seen) -> None:
    """Claim that the opposite counts 1e15 times."""
    seen.own *= -1
    seen.weights[:] = [1e15] * len(seen.weights)


def _as_large(direction: npt.NDArray[Any], own: Floats) -> Floats:
    lengths = np.linalg.norm(own, axis=1) / np.linalg.norm(direction, axis=1)
    found: Floats = (direction * lengths[:, None]).astype(np.float32)
    return found


def noise(seen: Seen) -> None:
    """Contribute noise as large as what was learned."""
    seen.own[:] = _as_large(seen.dice.normal(size=seen.own.shape), seen.own)


def drift(seen: Seen) -> None:
    """Pull in one direction in every round."""
    direction = np.random.default_rng(1).normal(size=(1, NUMEL))
    seen.own[:] = _as_large(np.repeat(direction, len(seen.own), axis=0), seen.own)


def alie(seen: Seen) -> None:
    """Stay within the spread of the honest ones (Baruch, Baruch, Goldberg, NeurIPS 2019)."""
    seen.own[:] = seen.honest.mean(axis=0) - ALIE_DEVIATIONS * seen.honest.std(axis=0)


def ipm(factor: float) -> Lie:
    """Return the lie that contributes the opposite of the honest mean (Xie, Koyejo, Gupta, UAI 2019)."""

    def lie(seen: Seen) -> None:
        seen.own[:] = -np.float32(factor) * seen.honest.mean(axis=0)

    return lie


MEMBERS: Final[dict[str, Lie]] = {
    "none": times(1.0),
    "sign-flip": times(-1.0),
    "sign-flip-10": times(-10.0),
    "scale-10": times(10.0),
    "scale-1000": times(1000.0),
    "weight": heavy,
    "zeros": times(0.0),
    "noise": noise,
    "drift": drift,
    "label-flip": times(1.0),
    "alie": alie,
    "ipm-0.5": ipm(0.5),
    "ipm-2": ipm(2.0),
}
OWNERS: Final = ("turned-owner", "lying-owner", "greedy-uplink", "greedy-convener")
"""Lies about the mean."""
LIES: Final = (*MEMBERS, *OWNERS)


def owned(share: float, round_: int, n: int) -> npt.NDArray[np.int64]:
    """Return which numbers a liar owns in a round: owners of parts turn with the round."""
    size = min(NUMEL, int(NUMEL * share))
    return (np.arange(size) + NUMEL * round_ // n) % NUMEL


def turn(
    name: str, made: Floats, given: Round, params: Floats, round_: int, liars: int, reducer: str
) -> Floats:
    """Return the mean after owners or conveners have lied about it.

    Without bounds an owner takes what it wants: `greedy-uplink` and `greedy-convener` the whole vector.
    With them it has 1.5 shares at most, and the mean that it tells is as long as the bound of its part at
    most. What is outside is reduced again by another, so `lying-owner` stays at the bound.
    """
    n, is_bounded = len(given.weights), reducer != "mean"
    if name == "greedy-convener" and not is_bounded:
        return -params  # zeros in place of all params
    if name == "greedy-convener" and round_ % n >= liars:
        return made  # out of turn nobody listens
    if not is_bounded:
        share = 1.0 if name == "greedy-uplink" else liars / n
        factor = -10.0 if name == "lying-owner" else -1.0
        here = owned(share, round_, n)
        told = made.copy()
        told[here] *= np.float32(factor)
        return told
    share = liars / n * (1.0 if name in ("turned-owner", "lying-owner") else OWNER_SHARE)
    here = owned(share, round_, n)
    told = made.copy()
    length = float(np.linalg.norm(made[here]))
    allowed = length
    if name != "turned-owner":
        combine: Combine = "mean" if reducer not in ("trimmed", "median") else reducer  # type: ignore[assignment]
        norms = np.linalg.norm(given.deltas[:, here].astype(np.float64), axis=1)
        stated = [Stated(weight, float(norm)) for weight, norm in zip(given.weights, norms, strict=True)]
        allowed = (clipping(given, here) if reducer == "clip" else terms(stated, 1.0, combine)).bound
    told[here] *= np.float32(-allowed / max(length, 1e-30))
    return told


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    reducer: str
    lie: str
    nodes: int
    liars: int
    alpha: float
    rounds: int = ROUNDS
    steps: int = STEPS
    lr: float = LEARNING_RATE
    validation: bool = False
    after: int = 0
    """Rounds that the others make after the liars have left."""
    absent: float = 0.0
    """Probability with which an honest peer is not there in a round; it does not know its update then."""


def run(setting: Setting, seed: int) -> float:
    """Return the accuracy that a run ends with, or ended `after` rounds after the liars left."""
    data = load(setting.validation)
    n, liars = setting.nodes, setting.liars if setting.lie != "none" else 0
    shares = dirichlet(data.y, n, alpha=setting.alpha, seed=seed)
    fed = batches(data, shares, liars if setting.lie == "label-flip" else 0, seed)
    params, last = initial(seed), np.zeros(NUMEL, np.float32)
    dice, found = np.random.default_rng(seed), []
    total, absences = setting.rounds + setting.after, np.random.default_rng(seed)
    away: frozenset[int] = frozenset()
    for round_ in range(total):
        deltas = train(params, fed, setting.steps, setting.lr, n)
        weights = [float(len(share)) for share in shares]
        if round_ < setting.rounds:
            here, lacking = present(n - liars, liars, away, setting.absent, absences)
            away = frozenset(range(n)) - frozenset(here)
            given = Round(deltas[here], [weights[each] for each in here], last, lacking)
            last = mean_of(setting, given, params, round_, liars, dice)
        else:
            with np.errstate(all="ignore"):
                last = REDUCERS[setting.reducer](Round(deltas[: n - liars], weights[: n - liars], last))
        params = params + last
        if round_ >= total - LAST:
            found.append(accuracy(params, data))
    return 100 * fmean(found)


def present(
    honest: int, liars: int, away: frozenset[int], absent: float, dice: np.random.Generator
) -> tuple[list[int], frozenset[int]]:
    """Return the peers of a round, and the places among them of those that were away in the last one."""
    drawn = dice.random(honest) if absent else np.ones(honest)
    here = [peer for peer in range(honest) if drawn[peer] >= absent] or list(range(honest))
    here += range(honest, honest + liars)
    return here, frozenset(place for place, peer in enumerate(here) if peer in away)


def mean_of(
    setting: Setting, given: Round, params: Floats, round_: int, liars: int, dice: np.random.Generator
) -> Floats:
    """Return the mean of a round in which the last peers lie."""
    honest = len(given.weights) - liars
    if liars and setting.lie in MEMBERS:
        seen = Seen(given.deltas[:honest], given.deltas[honest:], given.weights[honest:], dice)
        MEMBERS[setting.lie](seen)
        given.weights[honest:] = seen.weights
    with np.errstate(all="ignore"):
        made = REDUCERS[setting.reducer](given)
        if liars and setting.lie in OWNERS:
            made = turn(setting.lie, made, given, params, round_, liars, setting.reducer)
        return made


def table(settings: Sequence[Setting], seeds: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of the table, as they are ready."""
    for each in settings:
        found = [run(each, seed) for seed in range(seeds)]
        yield {
            "reducer": each.reducer,
            "attack": each.lie,
            "nodes": each.nodes,
            "liars": each.liars,
            "alpha": each.alpha,
            **({"after": each.after} if each.after else {}),
            **({"absent": each.absent} if each.absent else {}),
            "accuracy": round(fmean(found), 1),
            "seeds": [round(value, 1) for value in found],
        }


def settings_of(given: argparse.Namespace) -> list[Setting]:
    """Return the lines that were asked for."""
    if given.peace:
        sizes = ((10, 0.1), (5, 0.1), (10, 1.0))
        return [Setting(reducer, "none", nodes, 0, alpha) for nodes, alpha in sizes for reducer in REDUCERS]
    lies = [given.attack] if given.attack else LIES
    reducers = [given.reducer] if given.reducer else REDUCERS
    rounds, steps = (3, 2) if given.tiny else (ROUNDS, STEPS)
    return [
        Setting(
            *(reducer, lie, given.nodes, given.liars, given.alpha, rounds, steps),
            after=given.after,
            absent=given.absent,
        )
        for reducer in reducers
        for lie in lies
    ]


def choose(seeds: int) -> Iterator[dict[str, Any]]:
    """Yield what some learning rates reach on validation data, with the plain mean where nobody lies."""
    for lr in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
        found = {
            alpha: [
                run(Setting("mean", "none", 10, 0, alpha, lr=lr, validation=True), seed)
                for seed in range(seeds)
            ]
            for alpha in (1.0, 0.1)
        }
        reached = {f"at alpha {alpha}": round(fmean(values), 1) for alpha, values in found.items()}
        yield {"lr": lr, "on validation data": round(fmean(map(fmean, found.values())), 1), **reached}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="What liars cost, by reducer and lie.")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--liars", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=1.0, help="of the Dirichlet shares")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--after", type=int, default=0, help="so many rounds after the liars have left")
    parser.add_argument(
        "--absent", type=float, default=0.0, help="share of the rounds that an honest peer misses"
    )
    parser.add_argument("--reducer", choices=REDUCERS, help="only this one")
    parser.add_argument("--attack", choices=LIES, help="only this one")
    parser.add_argument("--peace", action="store_true", help="what the bounds cost where nobody lies")
    parser.add_argument("--choose", action="store_true", help="learning rates on validation data")
    parser.add_argument("--tiny", action="store_true", help="3 rounds of 2 steps, for tests")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    given = parser.parse_args(arguments)
    if not 0 <= given.liars < given.nodes:
        parser.error(f"{given.liars} of {given.nodes} peers would leave nobody honest: lower --liars")
    for line in choose(given.seeds) if given.choose else table(settings_of(given), given.seeds):
        text = json.dumps(line) if given.json else "  ".join(f"{key} {value}" for key, value in line.items())
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
