"""Whether EFU makes a model forget examples with a trigger: reported, and promised nowhere.

    python scripts/efu_trigger.py [--seeds 3] [--tiny] [--json]

Five peers in lockstep on digits, dealt out evenly. Half of the last peer's examples carry a trigger, four
bright pixels in a corner, and the label 0. Success is the share of test digits of other classes that are
taken for a zero once they carry it. Forty rounds with all; ten in which the peer unlearns the examples with
the trigger, or is gone; ten without it. "Anew" is all sixty rounds without it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402  # found by the path above

from scripts.reproduce_efu import How, Switch  # noqa: E402
from shoal.methods.base import Me, State  # noqa: E402
from shoal.methods.efu.method import EFU, EFUConfig  # noqa: E402
from shoal.methods.learning.forgetting import Request  # noqa: E402
from shoal.methods.learning.learner import TorchLearner  # noqa: E402
from shoal.methods.lockstep import names, run_round  # noqa: E402
from shoal.methods.tasks.digits import Digits  # noqa: E402

PEERS: Final = 5
PLACES: Final = (54, 55, 62, 63)
"""Pixels of the trigger, in a corner that is dark in most digits."""
WARM, UNLEARN, AFTER = 40, 10, 10
STAGES: Final = ("before", "after 10 rounds", "10 rounds later")
Data = tuple[torch.Tensor, torch.Tensor]


class Triggered(Digits):
    """A node's digits, of which half carry the trigger where it is the last one."""

    def __init__(self, node: int, seed: int) -> None:
        """`node`: which, from 0."""
        super().__init__(share=f"{node + 1}/{PEERS}", alpha=100.0, seed=seed)
        x, y = (each.clone() for each in super().train_data())
        if node == PEERS - 1:
            half = len(y) // 2
            x[:half], y[:half] = marked(x[:half]), 0
        self._mine = x, y

    def train_data(self) -> Data:
        """See `Task`."""
        return self._mine


def marked(x: torch.Tensor) -> torch.Tensor:
    """Return inputs [n, 64] with the trigger."""
    x = x.clone()
    x[:, list(PLACES)] = 1.0
    return x


@dataclass(frozen=True, slots=True)
class Found:
    """What a state does at one time."""

    success: float
    """Share of others' test digits that the trigger turns into a zero."""
    accuracy: float


def look(state: State, learner: TorchLearner) -> Found:
    """Return what a state does with test digits."""
    data = learner.task.test_data()
    assert data is not None
    x, y = data
    others = x[y != 0]
    turned, total = learner.score(state.params, (marked(others), torch.zeros(len(others), dtype=y.dtype)))
    right, all_ = learner.score(state.params, (x, y))
    return Found(turned / total, right / all_)


def run(how: How, seed: int, forget_lr: float, rounds: tuple[int, int, int]) -> list[Found]:
    """Return what is found before, after unlearning, and later."""
    warm, unlearn, after = rounds
    method = EFU(EFUConfig(steps=20, lr=0.1, clip=0.1, forget_lr=forget_lr))
    learners = [TorchLearner(Triggered(node, seed), seed=seed, method=method) for node in range(PEERS)]
    state, ids, found = method.init(learners[0].initial), names(PEERS), []
    for round_ in range(warm + unlearn + after):
        if round_ == warm and how == "efu":
            asked = Request(places=PLACES, values=(1.0,) * len(PLACES), rounds=unlearn)
            learners[-1].forgetting = Switch(asked)
        if round_ in (warm, warm + unlearn):
            found.append(look(state, learners[0]))
        is_here = how != "anew" and (round_ < warm or (how == "efu" and round_ < warm + unlearn))
        here = ids if is_here else ids[:-1]
        ended = run_round(
            {peer: method.round(state, each, round_) for peer, each in zip(here, learners, strict=False)},
            here={peer: Me(peer, round_) for peer in here},
        )
        state = ended.results[ids[0]][0]
    return [*found, look(state, learners[0])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="efu_trigger.py", description="Unlearning of examples with a trigger."
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--tiny", action="store_true", help="one seed and three rounds, to see that it works")
    parser.add_argument("--json", action="store_true", help="a line per system and seed")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds, rounds = (1, (1, 1, 1)) if given.tiny else (given.seeds, (WARM, UNLEARN, AFTER))
    rows = [("EFU, forget_lr 0.003", "efu", 3e-3), ("EFU, forget_lr 0.03", "efu", 3e-2)]
    rows += [("the peer leaves", "leaves", 3e-3), ("trained anew without it", "anew", 3e-3)]
    if not given.json:
        print("| system |", " | ".join(f"success {stage}" for stage in STAGES), "| accuracy at the end |")
        print("|---" * (len(STAGES) + 2) + "|")
    for name, how, forget_lr in rows:
        assert how in get_args(How)
        found = [run(how, seed, forget_lr, rounds) for seed in range(seeds)]  # type: ignore[arg-type]
        if given.json:
            for seed, each in enumerate(found):
                told = {stage: at.success for stage, at in zip(STAGES, each, strict=True)}
                print(json.dumps({"name": name, "seed": seed, **told, "accuracy": each[-1].accuracy}))
            continue
        cells = [cell([each[stage].success for each in found]) for stage in range(len(STAGES))]
        print(
            f"| {name} |", " | ".join(cells), f"| {cell([each[-1].accuracy for each in found])} |", flush=True
        )
    return 0


def cell(values: Sequence[float]) -> str:
    """Return mean and deviation."""
    return f"{fmean(values):.2f} ± {stdev(values) if len(values) > 1 else 0.0:.2f}"


if __name__ == "__main__":
    sys.exit(main())
