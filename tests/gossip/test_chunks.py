"""Chunks of the vector: what travels is what is stored."""

import numpy as np
import pytest

from gossip.chunks import Chunks
from gossip.codecs import CODECS


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
