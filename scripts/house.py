"""Count what keeps the house in order, by the syntax tree.

    python scripts/house.py            # a line per count
    python scripts/house.py --json

Counts: modules that assign a phase; explicit `Any` in the cores of gossip; constructor parameters of type
`Callable`; assignments to what belongs to the view of the swarm, from outside; modules per package.
"""

import argparse
import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("crypto", "gossip", "methods", "node")
CORES: Final = ("admission", "averaging", "matchmaking", "member", "membership", "state")
VIEW: Final = ("view", "_view")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """Go through all modules of the four folders, by their path from the root."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def is_core(path: Path) -> bool:
    """Tell whether a module is a core of gossip, or one of the words that they speak."""
    return path.parts[0] == "gossip" and (len(path.parts) == 2 or path.parts[1] in CORES)


def targets(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Return the attributes that a module assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            several = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in several:
                each = target.elts if isinstance(target, ast.Tuple) else [target]
                yield from (one for one in each if isinstance(one, ast.Attribute))


def name_of(node: ast.AST) -> str:
    """Return the last name in an expression: `b` of `a.b`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def callables(tree: ast.AST) -> int:
    """Return how many constructor parameters are callbacks: of `__init__`s and of data classes."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count += sum(
                any(name_of(each) == "Callable" for each in ast.walk(argument.annotation))
                for argument in given
                if argument.annotation is not None
            )
    return count


def count() -> dict[str, int | dict[str, int] | list[str]]:
    """Return all counts."""
    phases: list[str] = []
    foreign: list[str] = []
    untyped = callbacks = 0
    packages: Counter[str] = Counter()
    for path, tree in modules():
        packages[path.parent.as_posix()] += path.name != "__init__.py"
        callbacks += callables(tree)
        if path.parts[0] != "gossip":
            continue
        assigned = list(targets(tree))
        if any(target.attr in ("phase", "_phase") for target in assigned):
            phases.append(path.as_posix())
        if path.name != "swarm_view.py":
            foreign += [f"{path}:{each.lineno}" for each in assigned if name_of(each.value) in VIEW]
        if is_core(path):
            untyped += sum(name_of(node) == "Any" for node in ast.walk(tree))
    return {
        "modules that assign a phase": phases,
        "explicit Any in cores": untyped,
        "constructor parameters of type Callable": callbacks,
        "assignments to the view from outside": foreign,
        "modules per package": dict(sorted(packages.items())),
    }


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    counts = count()
    if parser.parse_args().json:
        print(json.dumps(counts))
        return
    for name, value in counts.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
