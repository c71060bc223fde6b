"""Count how the house stands, by the syntax tree: one owner per thing, small packages, typed cores.

    python scripts/house.py          # a line per figure
    python scripts/house.py --json   # one JSON object, with the places

    phase_assigned_in          modules that assign an attribute `phase` or `_phase`
    explicit_any_in_cores      places in the core packages of gossip where `Any` is written
    callable_parameters        parameters of constructors that are of type Callable
    modules                    modules per package, those of its sub-packages not counted
    statements                 statements, without docstrings, of all four folders

tests/test_house.py holds what was reached.
"""

import argparse
import ast
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("node", "methods", "gossip", "crypto")
NOT_CORES: Final = ("gossip/net/", "gossip/network_interfaces.py")
"""What stands in gossip/ and is no core: it waits, or asks the system."""


def sources() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by path."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in sorted(found)}


def is_core(path: str) -> bool:
    """Tell whether a module is one of the pure cores."""
    return path.startswith("gossip/") and not path.startswith(NOT_CORES)


def assigns_phase(tree: ast.Module) -> bool:
    """Tell whether a module assigns the phase of anything."""
    targets: list[ast.expr] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assign():
                targets += node.targets
            case ast.AugAssign() | ast.AnnAssign():
                targets.append(node.target)
    flat = [each for target in targets for each in ast.walk(target)]
    return any(
        isinstance(each, ast.Attribute)
        and each.attr in ("phase", "_phase")
        and isinstance(each.ctx, ast.Store)
        for each in flat
    )


def any_lines(tree: ast.Module) -> list[int]:
    """Return the lines in which `Any` is written, its import left out."""
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute))
    return [node.lineno for node in names if (node.id if isinstance(node, ast.Name) else node.attr) == "Any"]


def callable_parameters(tree: ast.Module) -> Iterator[str]:
    """Go through the parameters of constructors that are of type Callable, as Class.parameter."""
    for class_ in ast.walk(tree):
        if not isinstance(class_, ast.ClassDef):
            continue
        for function in class_.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                arguments = function.args
                for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    if each.annotation is not None and "Callable" in ast.unparse(each.annotation):
                        yield f"{class_.name}.{each.arg}"


def statements(tree: ast.Module) -> int:
    """Count the statements of a module, docstrings of modules, classes, functions and fields left out."""
    return sum(
        1
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    )


def packages(paths: list[str]) -> dict[str, int]:
    """Return how many modules each package has, `__init__` not counted."""
    modules = (Path(path) for path in paths)
    return dict(Counter(str(path.parent) for path in modules if path.name != "__init__.py"))


def figures() -> dict[str, Any]:
    """Return all figures, and where they come from."""
    trees = sources()
    return {
        "phase_assigned_in": [path for path, tree in trees.items() if assigns_phase(tree)],
        "explicit_any_in_cores": {
            path: lines for path, tree in trees.items() if is_core(path) and (lines := any_lines(tree))
        },
        "callable_parameters": [
            f"{path}: {each}" for path, tree in trees.items() for each in callable_parameters(tree)
        ],
        "modules": packages(list(trees)),
        "statements": sum(statements(tree) for tree in trees.values()),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Count how the house stands, by the syntax tree.")
    parser.add_argument("--json", action="store_true", help="one JSON object, with the places")
    found = figures()
    if parser.parse_args().json:
        json.dump(found, sys.stdout, indent=2)
        print()
        return 0
    print(f"modules that assign a phase: {len(found['phase_assigned_in'])}")
    print(f"Any in cores: {sum(len(lines) for lines in found['explicit_any_in_cores'].values())}")
    print(f"parameters of constructors that are callables: {len(found['callable_parameters'])}")
    package, most = max(found["modules"].items(), key=lambda item: item[1])
    print(f"modules per package: at most {most} ({package})")
    print(f"statements without docstrings: {found['statements']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
