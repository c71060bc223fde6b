"""Chunks of the vector: what travels is what is stored."""

import numpy as np
import pytest

from shoal.gossip.averaging.chunks import Chunks
from shoal.gossip.averaging.tensor_codecs import CODECS


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize("how", ["store", "make", "take_back"])
def test_a_contribution_is_taken_back_before_its_memory_is_written(codec: str, how: str) -> None:
    chunks = Chunks(np.zeros(8, dtype=np.float32), (1, 1), 4, codec, None)
    lent, other = chunks.contribution(1, 0), chunks.contribution(0, 0)
    mean = np.ones(4, np.float32)
    if how == "store":
        chunks.store(1, 0, CODECS[codec].encode(mean), mean)
    elif how == "make":
        chunks.make(1, 0, mean)
    else:
        chunks.take_back()
    assert lent.is_over
    assert other.is_over == (how == "take_back")


def test_a_part_is_lent_to_one_owner_at_a_time() -> None:
    chunks = Chunks(np.zeros(8, dtype=np.float32), (1, 1), 2, "int8", None)
    lent = [chunks.contribution(part, chunk) for part in range(2) for chunk in range(2)]
    again = chunks.contribution(0, 1)
    assert [loan.is_over for loan in lent] == [False, True, False, False]
    assert not again.is_over


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
def test_a_mean_of_another_takes_the_place_of_one_that_we_made(codec: str) -> None:
    chunks = Chunks(np.zeros(8, dtype=np.float32), (1, 1), 4, codec, None)
    ours, theirs = np.full(4, 1.0, dtype=np.float32), np.full(4, 2.0, dtype=np.float32)
    chunks.make(1, 0, ours)
    made = bytes(chunks.mean(1, 0))
    data = CODECS[codec].encode(theirs)
    read = chunks.read(1, 0, data)
    assert read is not None
    chunks.store(1, 0, data, read)
    assert bytes(chunks.mean(1, 0)) == bytes(data) != made
    assert chunks.view(1, 0).tolist() == [2.0] * 4
