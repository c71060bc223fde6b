"""What is said of memory before a run, and where it ran out."""

from pathlib import Path

import msgspec
import pytest

from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node.trainer.memory import (
    BASE,
    advice,
    free_bytes,
    machine_bytes,
    tight,
    too_large,
    vector_bytes,
)

N = 62_000_000
GB = 10**9
WEIGHTS = (TensorSpec("w", "float32", (N,)),)
DILOCO = RunSpec(
    method="diloco", task="own", tensors=WEIGHTS, shared=(TensorSpec("outer_momentum", "float32", (N,)),)
)
FEDAVG = RunSpec(method="fedavg", task="own", tensors=WEIGHTS)
SMALL = RunSpec(method="fedavg", task="own", tensors=(TensorSpec("w", "float32", (1000,)),))


def test_a_method_takes_the_vectors_that_the_page_of_sizes_names() -> None:
    assert vector_bytes(FEDAVG, N) == 20 * N
    assert vector_bytes(DILOCO, N) == 28 * N
    # What the last mean changed is remembered by who clips around it.
    assert vector_bytes(msgspec.structs.replace(FEDAVG, combine="clip"), N) == 22 * N


def test_a_run_that_can_never_fit_is_named_with_what_would_fit() -> None:
    assert too_large(DILOCO, N, BASE + 28 * N) == ""
    assert too_large(DILOCO, N, 2 * GB) == (
        "this run needs at least 2.19 GB of memory, for a model of 62,000,000 numbers, and this machine has"
        " 2 GB: take --method fedavg, whose vectors have 1.24 GB, or train a part of the model only"
    )
    assert too_large(FEDAVG, N, GB).endswith("has 1 GB: train a part of the model only")


def test_what_the_first_round_still_needs_is_compared_with_what_is_free() -> None:
    assert tight(DILOCO, N, 16 * N) == ""
    assert tight(DILOCO, N, 16 * N - 1).startswith("the first round needs 992 MB more of memory")


@pytest.mark.parametrize(
    ("spec", "numel", "others", "begins"),
    [
        (None, 0, None, "lower --option batch_size"),
        (SMALL, 1000, 5 * GB, "lower --option batch_size"),
        (DILOCO, N, 5 * GB, "lower --option batch_size (1.74 GB of it are vectors of a model of 62,000,000"),
        (DILOCO, N, GB, "1.74 GB of it are vectors of a model of 62,000,000 numbers: take --method fedavg"),
        (DILOCO, N, None, "1.74 GB of it are vectors"),
        (FEDAVG, N, None, "lower --option batch_size (1.24 GB"),
    ],
)
def test_the_larger_of_vectors_and_batch_is_named(
    spec: RunSpec | None, numel: int, others: int | None, begins: str
) -> None:
    assert advice(spec, numel, 3 * GB, others).startswith(begins)


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    whole = machine_bytes(tmp_path)
    assert whole > GB / 10
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_bytes(tmp_path) == whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine_bytes(tmp_path) == 1_000_000
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_bytes(tmp_path) == 600_000
