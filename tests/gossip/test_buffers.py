"""Buffers are used again but never while in use."""

import gc

import numpy as np
import pytest

from shoal.gossip.buffers import Buffers


def test_a_buffer_is_used_again_when_the_last_view_of_it_is_gone() -> None:
    buffers = Buffers()
    first = buffers.take(1000)
    first[:] = b"\x01" * 1000
    vector = np.frombuffer(first, np.uint8)[10:20]
    del first
    gc.collect()
    second = buffers.take(1000)
    second[:] = b"\x02" * 1000
    assert bytes(vector) == b"\x01" * 10
    del vector
    assert bytes(buffers.take(1000)) == b"\x01" * 1000


def test_free_buffers_are_bounded() -> None:
    buffers = Buffers(keep_bytes=5000)
    lent = [buffers.take(size) for size in range(1, 3000, 100)]
    del lent
    assert sum(size * len(same) for size, same in buffers._free.items()) <= 5000
    assert not buffers._lent


def test_what_is_kept_is_of_the_size_that_was_used_last() -> None:
    buffers = Buffers(keep_bytes=5000)
    lent = [buffers.take(size) for size in (700, 700, 700, *6 * (1000,))]
    del lent[:3]
    assert {size: len(same) for size, same in buffers._free.items()} == {700: 3}
    del lent
    assert {size: len(same) for size, same in buffers._free.items() if same} == {1000: 5}


@pytest.mark.parametrize("after", range(40))
def test_the_collector_may_give_buffers_back_while_another_comes_back(after: int) -> None:
    """It runs at any allocation of Python's, after so many of them here."""
    buffers = Buffers()
    free = [buffers.take(size) for size in range(1, 20)]
    del free
    last, thresholds = buffers.take(1000), gc.get_threshold()
    gc.disable()
    try:
        for size in range(2000, 2020):
            ring: list[object] = [buffers.take(size)]
            ring.append(ring)
        del ring
        gc.set_threshold(gc.get_count()[0] + after)
        gc.enable()
        del last
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    gc.collect()
    assert len(buffers._free) == 19 + 1 + 20
