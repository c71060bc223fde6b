"""Task table: who gets a slot, who keeps it, and that it survives as a shared state."""

import numpy as np

from shoal.methods.base import State
from shoal.methods.matu.task_table import TaskTable
from shoal.methods.params import read_state, shared_specs, write_state


def id_of(letter: str) -> bytes:
    return letter.encode() * 16


def vector(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def zeros(slots: int) -> np.ndarray:
    return np.zeros((slots, slots), np.float32)


def test_new_tasks_take_the_lowest_free_slots_in_the_order_of_their_ids() -> None:
    table = TaskTable.empty(4, 3).admitting([id_of("c"), id_of("a")])
    assert table.ids == (id_of("a"), id_of("c"), b"", b"")
    assert table.admitting([id_of("b"), id_of("a")]).ids == (id_of("a"), id_of("c"), id_of("b"), b"")


def test_a_full_table_carries_no_more() -> None:
    table = TaskTable.empty(2, 3).admitting([id_of(letter) for letter in "dcba"])
    assert table.ids == (id_of("a"), id_of("b"))
    assert table.slot(id_of("c")) is None
    assert table.vector(id_of("c")).tolist() == [0, 0, 0]


def test_a_task_without_holders_keeps_its_vector_for_a_while_and_then_leaves() -> None:
    table = TaskTable.empty(2, 3).admitting([id_of("a"), id_of("b")])
    similar = np.array([[0, 0.7], [0.7, 0]], np.float32)
    table = table.after({0: vector(1), 1: vector(2)}, similar, keep=2)
    for _ in range(2):
        table = table.after({0: vector(5)}, table.similarities, keep=2)
    assert table.vector(id_of("b")).tolist() == [2, 2, 2]
    assert table.ages.tolist() == [0, 2]
    table = table.after({0: vector(5)}, table.similarities, keep=2)
    assert table.ids == (id_of("a"), b"")
    assert not table.vectors[1].any()
    assert not table.similarities.any()
    assert table.admitting([id_of("z")]).ids == (id_of("a"), id_of("z"))


def test_a_holder_that_comes_back_makes_its_task_young() -> None:
    table = TaskTable.empty(1, 3).admitting([id_of("a")]).after({}, zeros(1), keep=5)
    assert table.ages.tolist() == [1]
    assert table.after({0: vector(1)}, zeros(1), keep=5).ages.tolist() == [0]


def test_the_table_survives_as_a_shared_state() -> None:
    table = TaskTable.empty(3, 5).admitting([bytes(range(16)), b"\xff" * 16])
    table = table.after({0: np.arange(5, dtype=np.float32)}, np.eye(3, dtype=np.float32), keep=9)
    state = State(np.zeros(5, np.float32), table.shared())
    specs = shared_specs(state)
    memory = np.empty(5 + sum(spec.numel for spec in specs), np.float32)
    write_state(state, memory)
    again = TaskTable.of(read_state(memory, 5, specs, {}).shared)
    assert again.ids == table.ids
    assert again.vectors.tolist() == table.vectors.tolist()
    assert again.ages.tolist() == table.ages.tolist()
    assert again.similarities.tolist() == table.similarities.tolist()


def test_a_round_leaves_the_table_before_it_untouched() -> None:
    before = TaskTable.empty(2, 3).admitting([id_of("a")])
    before.after({0: vector(7)}, before.similarities, keep=0)
    assert not before.vectors.any()
