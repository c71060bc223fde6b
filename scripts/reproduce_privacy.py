"""What noise costs on digits, and what it hides from an attack: accuracy, epsilon, and membership inference.

    python scripts/reproduce_privacy.py [--seeds 3] [--rounds 20] [--peers 5] [--tiny] [--json]

Peers in lockstep train fedavg on uneven shares of digits, plainly or with one kind of noise. The attack
(Yeom, Giacomelli, Fredrikson, Jha, Privacy Risk in Machine Learning, CSF 2018) knows the final model, and
takes an example for one of the training data if its loss is below a threshold. Told is its best advantage
over all thresholds, true less false positives: 0 is guessing, 1 is certainty; and the area under its curve.
It is one attack, and a weak one: that it fails proves nothing.

So there is a second setting, in which it works where nothing hides the data: nodes learn a few examples by
heart, over four times as many rounds. Two fifths of the labels are wrong, which only memory gets right. It
was chosen without noise, on another seed, before any row with noise was run.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402  # found by the path above
import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from shoal.crypto.accounting import Release, epsilon_of  # noqa: E402
from shoal.gossip.events import Vector  # noqa: E402
from shoal.gossip.policies.privacy import Privacy, privatise  # noqa: E402
from shoal.methods.base import State  # noqa: E402
from shoal.methods.fedavg import FedAvg, FedAvgConfig  # noqa: E402
from shoal.methods.learning.learner import TorchLearner  # noqa: E402
from shoal.methods.learning.private_steps import PrivateSteps  # noqa: E402
from shoal.methods.learning.task import batch_of  # noqa: E402
from shoal.methods.tasks.digits import Digits, Images, Labels, load_split  # noqa: E402
from shoal.methods.tasks.label_noise import add_noise  # noqa: E402

Data = tuple[torch.Tensor, torch.Tensor]
Losses = np.ndarray[tuple[int], np.dtype[np.floating[Any]]]
DELTA = 1e-4
"""Less than one over the 1,347 training examples of all."""
STEPS, BATCH, RATE = 20, 32, 0.2
BY_HEART = ", by heart"
"""What the names of rows end with whose examples are few, and learned by heart."""
FEW, WRONG, LONGER = 60, 0.4, 4
"""Examples of a node, share of wrong labels, and times the rounds, where examples are learned by heart."""


class FewDigits(Digits):
    """A few digits of its own for each node; wrong labels in training and test alike."""

    def __init__(self, node: int, seed: int) -> None:
        """`node`: which, from 0."""
        super().__init__()
        x, x_test, y, y_test = load_split()
        order = np.random.default_rng(seed).permutation(len(y))[node * FEW : (node + 1) * FEW]
        wrong = {"level": WRONG, "sparsity": 0.0}
        self._few = as_data(x[order], add_noise(y[order], 10, seed=seed * 100 + node, **wrong))
        self._others = as_data(x_test, add_noise(y_test, 10, seed=seed * 100 + 99, **wrong))

    def train_data(self) -> Data:
        """See `Task`."""
        return self._few

    def test_data(self) -> Data:
        """Return examples that are drawn as those of training are, wrong labels and all."""
        return self._others


def as_data(x: Images, y: Labels) -> Data:
    """Return inputs float32 [n, 64] and labels int64 [n]."""
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training."""

    name: str
    privacy: Privacy
    lr: float = RATE

    @property
    def is_by_heart(self) -> bool:
        """Whether examples are few, and learned by heart."""
        return self.name.endswith(BY_HEART)


def rows() -> tuple[Row, ...]:
    """Return what is compared; values are round ones that nobody tuned on the test data."""
    return (
        Row("no noise", Privacy()),
        Row("examples, noise 0.6", Privacy(kind="examples", clip_norm=1.0, noise_multiplier=0.6)),
        Row("examples, noise 1", Privacy(kind="examples", clip_norm=1.0, noise_multiplier=1.0)),
        Row("examples, noise 2", Privacy(kind="examples", clip_norm=1.0, noise_multiplier=2.0)),
        Row("distributed, noise 0.5", Privacy(kind="distributed", clip_norm=1.0, noise_multiplier=0.5)),
        Row("distributed, noise 2", Privacy(kind="distributed", clip_norm=1.0, noise_multiplier=2.0)),
        Row("local, noise 0.5", Privacy(kind="local", clip_norm=1.0, noise_multiplier=0.5)),
        Row("no noise" + BY_HEART, Privacy()),
        Row("examples, noise 2" + BY_HEART, Privacy(kind="examples", clip_norm=1.0, noise_multiplier=2.0)),
        Row(
            "distributed, noise 0.5" + BY_HEART,
            Privacy(kind="distributed", clip_norm=1.0, noise_multiplier=0.5),
        ),
    )


def given_of(trained: Vector, state: Vector, privacy: Privacy, peers: int) -> Vector:
    """Return what a node gives to the mean, with its share of the noise."""
    given = trained.copy()
    if privacy.is_of_changes:
        # Of five members four open a sum, and three of these are the others than a curious one.
        others = max(1, peers - peers // 3 - 1) if privacy.kind == "distributed" else 1
        share = Privacy(
            kind="local",
            clip_norm=privacy.clip_norm,
            noise_multiplier=privacy.noise_multiplier / others**0.5,
        )
        privatise(given, state, share)
    return given


def task_of(row: Row, node: int, peers: int, seed: int) -> Digits:
    """Return a node's examples and its model."""
    if row.is_by_heart:
        return FewDigits(node, seed)
    return Digits(share=f"{node + 1}/{peers}", alpha=1.0, seed=seed)


def train(row: Row, seed: int, peers: int, rounds: int) -> tuple[Vector, list[TorchLearner], float]:
    """Return the final model, the peers, and the largest epsilon of any of them."""
    learners = [TorchLearner(task_of(row, i, peers, seed), seed=seed) for i in range(peers)]
    if row.privacy.kind == "examples":
        for learner in learners:
            learner.private = PrivateSteps(row.privacy)
    method = FedAvg(FedAvgConfig(steps=STEPS, lr=row.lr, batch_size=BATCH))
    state = learners[0].initial.copy()
    rounds *= LONGER if row.is_by_heart else 1
    for round_ in range(rounds):
        given = [
            given_of(method.local(State(state), learner, round_).params, state, row.privacy, peers)
            for learner in learners
        ]
        weights = [learner.examples if row.privacy.kind == "none" else 1 for learner in learners]
        state = np.average(np.array(given, np.float64), axis=0, weights=weights).astype(np.float32)
    if row.privacy.is_of_changes:
        noise = row.privacy.noise_multiplier
        return state, learners, epsilon_of([Release(noise_multiplier=noise, count=rounds)], DELTA)
    spent = [epsilon_of(each.private.take(), DELTA) for each in learners if each.private is not None]
    return state, learners, max(spent, default=float("inf"))


def attack(state: Vector, learners: Sequence[TorchLearner]) -> tuple[float, float]:
    """Return the best advantage of the loss threshold, and the area under its curve."""
    test = learners[0].task.test_data()
    assert test is not None
    inside = np.concatenate([losses(learners[0], state, each.data) for each in learners])
    outside = losses(learners[0], state, test)
    return curve(inside, outside)


def curve(inside: Losses, outside: Losses) -> tuple[float, float]:
    """Return what a threshold on the losses of members and of others tells: see `attack`."""
    thresholds = np.unique(np.concatenate([inside, outside]))
    true = np.searchsorted(np.sort(inside), thresholds, side="right") / inside.size
    false = np.searchsorted(np.sort(outside), thresholds, side="right") / outside.size
    area = float(np.trapezoid(np.append(0.0, true), np.append(0.0, false)))
    return float((true - false).max()), area


def losses(learner: TorchLearner, state: Vector, data: object) -> Losses:
    """Return the loss of each example, float32 [n]."""
    x, y = batch_of(data, torch.arange(len(data[0])))  # type: ignore[index]
    outputs, _ = learner.predict(state, x)
    return np.asarray(functional.cross_entropy(outputs, y, reduction="none").numpy(), np.float32)


def measure(row: Row, seed: int, peers: int, rounds: int) -> dict[str, float]:
    """Return what one way of training came to."""
    state, learners, epsilon = train(row, seed, peers, rounds)
    advantage, area = attack(state, learners)
    found = learners[0].evaluate(state)
    return {"accuracy": found["accuracy"], "epsilon": epsilon, "advantage": advantage, "area": area}


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return all of it in Markdown."""
    lines = ["| | accuracy | epsilon | attack's advantage | area under its curve |", "|---|---|---|---|---|"]
    for name, seeds in found.items():
        cells = [_cell([each[key] for each in seeds]) for key in ("accuracy", "advantage", "area")]
        epsilon = max(each["epsilon"] for each in seeds)
        shown = "none" if epsilon == float("inf") else f"{epsilon:.1f}"
        lines.append(f"| {name} | {cells[0]} | {shown} | {cells[1]} | {cells[2]} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{fmean(values):.3f} ± {spread:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="reproduce_privacy.py", description="What noise costs, and what it hides."
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="one seed and one round, to see that it works")
    parser.add_argument("--json", action="store_true", help="a line per way and seed")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds, rounds = (1, 1) if given.tiny else (given.seeds, given.rounds)
    found: dict[str, list[dict[str, float]]] = {}
    for row in rows():
        for seed in range(seeds):
            measured = measure(row, seed, given.peers, rounds)
            found.setdefault(row.name, []).append(measured)
            if given.json:
                finite = {key: value for key, value in measured.items() if value != float("inf")}
                print(json.dumps({"name": row.name, "seed": seed, **finite}), flush=True)
    if not given.json:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
