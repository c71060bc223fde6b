"""Named tensors, vectors and manifests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import State
from shoal.methods.params import copied, flatten, numel, read_state, shared_specs, views, write_state

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7.0, np.float32)}


def manifest_of(tensors: dict[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, str(array.dtype), array.shape) for name, array in tensors.items())


def test_a_vector_holds_the_tensors_row_by_row() -> None:
    specs = manifest_of(TENSORS)
    assert specs == (TensorSpec("w", "float32", (2, 3)), TensorSpec("b", "float32", ()))
    assert flatten(TENSORS, specs).tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_views_write_through_to_the_vector() -> None:
    vector = np.zeros(7, np.float32)
    views(vector, manifest_of(TENSORS))["w"][1, 0] = 5
    assert vector.tolist() == [0, 0, 0, 5, 0, 0, 0]


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=5))
def test_what_is_flattened_comes_back(shapes: list[list[int]]) -> None:
    dice = np.random.default_rng(0)
    tensors = {str(i): dice.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    specs = manifest_of(tensors)
    back = views(flatten(tensors, specs), specs)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)
    assert numel(specs) == sum(tensor.size for tensor in tensors.values())


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(ValueError, match="tensor b is missing"):
        flatten({"w": TENSORS["w"]}, manifest_of(TENSORS))


def test_a_tensor_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"tensor w has shape \(6,\), not \(2, 3\)"):
        flatten(TENSORS | {"w": np.zeros(6, np.float32)}, manifest_of(TENSORS))


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="manifest of 7 numbers"):
        views(np.zeros(8, np.float32), manifest_of(TENSORS))


def test_a_state_goes_into_one_vector_and_is_read_where_it_lies() -> None:
    state = State(
        np.array([1, 2], np.float32),
        {"z": np.array([5], np.float32), "a": np.array([3, 4], np.float32)},
        {"mine": np.array([9], np.float32)},
    )
    out = np.zeros(5, np.float32)
    write_state(state, out)
    assert out.tolist() == [1, 2, 3, 4, 5]
    back = read_state(out, 2, shared_specs(state), state.private)
    kept = copied(back)
    assert np.shares_memory(back.params, out)
    assert np.shares_memory(back.shared["z"], out)
    assert not back.params.flags.writeable
    assert not back.shared["z"].flags.writeable
    out[:] *= 2
    assert back.params.tolist() == [2, 4]
    assert back.room is None
    back = kept
    assert back.params.tolist() == [1, 2]
    assert {name: vector.tolist() for name, vector in back.shared.items()} == {"a": [3, 4], "z": [5]}
    assert back.private == state.private


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a state of 3 numbers for memory of 4"):
        write_state(State(np.zeros(3, np.float32)), np.zeros(4, np.float32))


def test_the_next_state_has_room_of_the_same_form_and_what_is_made_there_is_not_copied() -> None:
    state = State(np.array([1, 2], np.float32), {"a": np.array([3, 4], np.float32)})
    slots = np.zeros(4, np.float32), np.zeros(4, np.float32)
    write_state(state, slots[0])
    room = read_state(slots[0], 2, shared_specs(state), {}, room=slots[1]).room
    assert room is not None
    room.params[:] = 5
    room.shared["a"][:] = 6
    other = slots[1].copy()
    slots[1].flags.writeable = False
    write_state(room, slots[1])
    assert slots[1].tolist() == other.tolist() == [5, 5, 6, 6]
