"""The house stays as it was put in order: what scripts/house.py counts does not grow again."""

import ast
from functools import cache
from typing import Any, Final

import pytest

from scripts import house

MAX_MODULES: Final = 16
"""Per package; methods may have more, one file each."""
MAX_METHODS: Final = 22


@cache
def figures() -> dict[str, Any]:
    return house.figures()


def test_a_phase_is_assigned_in_one_module() -> None:
    assert figures()["phase_assigned_in"] == ["gossip/lifecycle.py"]


def test_the_cores_write_no_any() -> None:
    assert not figures()["explicit_any_in_cores"]


def test_few_parameters_of_constructors_are_callables() -> None:
    assert len(figures()["callable_parameters"]) < 12


def test_no_package_has_more_modules_than_one_can_look_over() -> None:
    crowded = {
        package: count
        for package, count in figures()["modules"].items()
        if count > (MAX_METHODS if package == "methods" else MAX_MODULES)
    }
    assert not crowded


def test_the_text_of_an_address_is_made_and_read_in_one_module() -> None:
    """Another transport begins there, and not in nine files."""
    naming = {
        path
        for path, tree in house.sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "/tcp/" in node.value
        and not node.value.count("\n")
    }
    assert naming == {"gossip/addresses.py"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("self.phase = 1", True),
        ("a.b.phase, c = 1, 2", True),
        ("x = self.phase", False),
        ("self.phases = 1", False),
        ("phase: int = 1", False),
        ("f(self.phase).x = 1", False),
    ],
)
def test_an_assignment_of_a_phase_is_seen(source: str, found: bool) -> None:
    assert house.assigns_phase(ast.parse(source)) is found


def test_any_and_callables_and_statements_are_counted() -> None:
    tree = ast.parse(
        '''"""Doc."""
from typing import Any

class A:
    """Doc."""
    def __init__(self, a: Any, b: "Callable[[], Any]", c: Callable[[], int]) -> None:
        """Doc."""
        self.a = a
    field: int = 0
    """Doc."""
'''
    )
    assert len(house.any_lines(tree)) == 1
    assert list(house.callable_parameters(tree)) == ["A.b", "A.c"]
    assert house.statements(tree) == 5
