"""What DiLoCo on digits loses by a codec, and what it saves: the table of docs/codecs.md, with fewer rounds.

Over real processes, with the bytes of their sockets: tests/processes/test_codecs.py.
"""

import numpy as np
import pytest

from scripts.reproduce_codecs import coded

SEEDS = range(3)
ROUNDS = 120


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lossy_codecs_with_error_feedback_cost_few_points_and_save_most_bytes() -> None:
    reached, share = {}, {}
    for codec in ("float32", "int8", "int4", "topk"):
        runs = [coded(codec, seed, ROUNDS) for seed in SEEDS]
        reached[codec] = np.array([run.accuracy for run in runs])
        share[codec] = sum(run.bytes_sent for run in runs)
        print(codec, reached[codec].round(4), f"{share[codec] / share['float32']:.4f} of the bytes")
    assert share["int8"] <= 0.27 * share["float32"]
    assert share["int4"] <= 0.15 * share["float32"]
    assert share["topk"] <= 0.05 * share["float32"]
    assert reached["int8"].mean() >= reached["float32"].mean() - 0.01
    assert reached["int4"].mean() >= reached["float32"].mean() - 0.005
    assert reached["topk"].mean() >= reached["float32"].mean() - 0.03
