"""Effective rank: from summed Gram matrices, what the embeddings themselves would give."""

import numpy as np
import numpy.typing as npt
import pytest

from shoal.gossip.errors import RemoteViolation
from shoal.methods.fedcompress.effective_rank import (
    WIRE_NOISE,
    effective_rank,
    gram,
    jacobi_eigenvalues,
    merged,
    pack,
    unpack,
)

Rows = npt.NDArray[np.float32]


def by_svd(rows: Rows) -> float:
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    singular = np.linalg.svd(exact, compute_uv=False)
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def embeddings(seed: int, rows: int, width: int) -> Rows:
    # Rectified, as the activations of a network are.
    found: Rows = np.maximum(np.random.default_rng(seed).standard_normal((rows, width)), 0).astype(np.float32)
    return found[found.any(axis=1)]


@pytest.mark.parametrize("width", [2, 3, 10, 32, 64])
def test_summed_gram_matrices_give_what_stacked_embeddings_give(width: int) -> None:
    parts = [embeddings(seed, rows, width) for seed, rows in enumerate((20, 31, 107))]
    matrix = merged([gram(part) for part in parts], [len(part) for part in parts])
    assert effective_rank(matrix) == pytest.approx(by_svd(np.concatenate(parts)), abs=1e-4)


def test_fewer_rows_than_directions_are_no_trouble() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    assert effective_rank(merged([gram(rows)], [20])) == pytest.approx(by_svd(rows), abs=1e-4)


def test_parallel_rows_have_rank_one_and_orthogonal_ones_their_number() -> None:
    parallel = np.outer(np.arange(1, 31), np.random.default_rng(0).random(64)).astype(np.float32)
    assert effective_rank(merged([gram(parallel)], [30])) == 1.0
    assert effective_rank(merged([gram(np.eye(64, dtype=np.float32))], [64])) == 64.0


def test_nothing_at_all_has_rank_zero() -> None:
    assert effective_rank(merged([gram(np.zeros((5, 4), np.float32))], [5])) == 0.0


def test_the_order_of_peers_does_not_matter() -> None:
    grams, counts = [gram(embeddings(seed, 20, 8)) for seed in range(4)], [3, 1, 4, 1]
    forth, back = merged(grams, counts), merged(grams[::-1], counts[::-1])
    assert forth.tobytes() == back.tobytes()


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_eigenvalues_are_right(size: int) -> None:
    half = np.random.default_rng(size).standard_normal((size, size))
    matrix = half + half.T
    assert np.sort(jacobi_eigenvalues(matrix)) == pytest.approx(np.linalg.eigvalsh(matrix), abs=1e-12)


def test_a_matrix_of_a_liar_ends_too() -> None:
    matrix = np.full((6, 6), 2.0**62)
    matrix[0, 0] = -(2.0**62)
    assert np.isfinite(effective_rank(matrix))


@pytest.mark.parametrize("width", [3, 32, 64])
def test_what_travels_gives_the_rank_to_a_few_percent(width: int) -> None:
    parts = [embeddings(seed, 60, width) for seed in range(3)]
    told = [unpack(pack(gram(part)), width) for part in parts]
    found = effective_rank(merged(told, [60] * 3), WIRE_NOISE)
    assert found == pytest.approx(by_svd(np.concatenate(parts)), rel=0.02)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(5),
        bytes(8),
        b"\xff\xff\x00\x00\x00\x00",
        b"\x01\x40\x00\x00\x00\x00",
        b"\x00\x40\x00\x00\x00\x40",
    ],
    ids=["empty", "short", "long", "negative", "above one", "rows above one"],
)
def test_a_matrix_of_no_normalised_rows_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteViolation):
        unpack(data, 2)
