"""Arrays as a safetensors file, without a copy."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from shoal.methods.base import Array
from shoal.node.storage.arrays import pieces

ARRAYS: dict[str, Array] = {
    "bytes": np.arange(5, dtype=np.uint8),
    "scalar": np.array(3.5),
    "none": np.zeros((0, 3), np.float32),
    "grid": np.arange(6, dtype=np.float32).reshape(2, 3),
    "mask": np.array([True, False]),
    "count": np.arange(3),
    "half": np.ones(3, np.float16),
    "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
}


@pytest.mark.parametrize("extra", [{}, {"odd": np.ones(2, np.uint16)}])
def test_what_is_written_is_what_is_read(extra: dict[str, Array]) -> None:
    arrays = ARRAYS | extra
    back = load(b"".join(bytes(piece) for piece in pieces(arrays)))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert np.array_equal(back[name], array), name


def test_no_array_is_copied() -> None:
    large = np.ones(100_000, np.float32)
    _, piece = pieces({"large": large})
    assert np.shares_memory(np.frombuffer(piece, np.uint8), large)


def test_nothing_has_a_file_too() -> None:
    assert load(b"".join(bytes(piece) for piece in pieces({}))) == load(save({})) == {}
