"""DiLoCo on digits with every codec: what it reaches, and how many bytes its numbers take.

Five peers with very unlike shares (Dirichlet 0.1), 200 rounds of 20 steps, the same for every codec, but
that the coarsest go with plain averaging, as a node demands. The all-reduce is the swarm's
(gossip/averaging/all_reduce.py), every message handed on in order in one process.
"""

from typing import Final

from exchange import CodedRun

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.methods.diloco import DiLoCo, DiLoCoConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.tasks.digits import Digits

PEERS: Final = 5
ROUNDS: Final = 200
CONFIG: Final = DiLoCoConfig(steps=20, lr=0.1)
PLAIN: Final = DiLoCoConfig(steps=20, lr=0.1, outer_lr=1.0, outer_momentum=0.0)
"""For the coarsest codecs, which a node refuses beside so much momentum."""


def coded(
    codec: str, seed: int, rounds: int = ROUNDS, *, has_feedback: bool = True, is_plain: bool = False
) -> CodedRun:
    """Run DiLoCo in a codec; `is_plain`: with plain averaging though momentum would do."""
    learners = [TorchLearner(Digits(f"{i + 1}/{PEERS}", seed=seed), seed=seed) for i in range(PEERS)]
    config = PLAIN if is_plain or CODECS[codec].deltas_only else CONFIG
    done = CodedRun(DiLoCo(config), learners, codec, has_feedback=has_feedback)
    done.run(rounds)
    return done


def systems(seed: int) -> dict[str, dict[str, float]]:
    """Return accuracy and bytes of every codec, and of the lossiest without error feedback."""
    runs = {name: coded(name, seed) for name in CODECS}
    runs["float32, plain averaging"] = coded("float32", seed, is_plain=True)
    for name, codec in CODECS.items():
        if codec.needs_feedback:
            runs[f"{name}, no feedback"] = coded(name, seed, has_feedback=False)
    exact = runs["float32"]
    return {
        name: {
            "accuracy": run.accuracy,
            "points below float32": 100 * (exact.accuracy - run.accuracy),
            "bytes a round and peer": run.bytes_sent / ROUNDS / PEERS,
            "share of float32's bytes": run.bytes_sent / exact.bytes_sent,
        }
        for name, run in runs.items()
    }
