"""Why the coarsest codecs are refused beside outer momentum: on a quadratic they end ever farther off.

Three peers step towards targets of their own, and average what they changed; the best is the mean of the
targets. docs/codecs.md shows the same of a language model.
"""

import numpy as np
import pytest
from exchange import Exchange

from shoal.gossip.averaging.tensor_codecs import CODECS, Feedback
from shoal.methods.base import AllReduce, Averaged, State
from shoal.methods.diloco import DiLoCo, DiLoCoConfig

PEERS = 3
NUMEL = 2000
COARSE = [name for name, codec in CODECS.items() if codec.deltas_only]
FINE = [name for name, codec in CODECS.items() if not codec.deltas_only]


def distances(codec: str, outer_lr: float, outer_momentum: float, rounds: int = 100) -> list[float]:
    """Return how far the state of all is from the best after each round, where the start is at 1."""
    rng = np.random.default_rng(0)
    pull = np.exp(rng.uniform(np.log(0.01), np.log(0.1), NUMEL)).astype(np.float32)
    common = rng.normal(size=NUMEL)
    targets = [(common + 0.3 * rng.normal(size=NUMEL)).astype(np.float32) for _ in range(PEERS)]
    best = np.mean(targets, axis=0)
    method = DiLoCo(DiLoCoConfig(outer_lr=outer_lr, outer_momentum=outer_momentum))
    states = [method.init(np.zeros(NUMEL, np.float32)) for _ in range(PEERS)]
    feedback = [Feedback(NUMEL) for _ in range(PEERS)]
    found = []
    for _ in range(rounds):
        states = one_round(
            method,
            states,
            [pull * (t - s.params) for s, t in zip(states, targets, strict=True)],
            codec,
            feedback,
        )
        found.append(float(np.linalg.norm(states[0].params - best) / np.linalg.norm(best)))
    return found


def one_round(
    method: DiLoCo, states: list[State], changes: list[np.ndarray], codec: str, feedback: list[Feedback]
) -> list[State]:
    steps = [
        method.outer(state, state.params + change, 1.0) for state, change in zip(states, changes, strict=True)
    ]
    asks = [next(each) for each in steps]
    vectors = [np.array(ask.vector) for ask in asks if isinstance(ask, AllReduce)]
    Exchange(vectors, [1.0] * PEERS, codec, feedback).run()
    after = []
    for each, vector in zip(steps, vectors, strict=True):
        with pytest.raises(StopIteration) as end:
            each.send(Averaged(vector, ()))
        after.append(end.value.value[0])
    return after


@pytest.mark.parametrize("codec", COARSE)
def test_beside_momentum_the_coarsest_codecs_lead_astray(codec: str) -> None:
    found = distances(codec, 0.7, 0.9)
    assert found[99] > 1.5 * found[29]


@pytest.mark.parametrize("codec", COARSE)
def test_with_plain_averaging_they_do_not(codec: str) -> None:
    found = distances(codec, 1.0, 0.0)
    assert found[99] < 0.7 * found[29]


@pytest.mark.parametrize("codec", FINE)
def test_the_others_end_near_the_best_beside_momentum(codec: str) -> None:
    assert distances(codec, 0.7, 0.9)[99] < 0.01
