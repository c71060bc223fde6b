"""Check that every lower bound is a version that can be installed beside the others.

    python scripts/check_bounds.py BOUNDS RESOLVED

BOUNDS: requirements, one a line; RESOLVED: what `uv pip compile --resolution lowest-direct` makes of them. A
resolver goes above a bound where the bound itself fits nothing; then it promises what nobody can have.
"""

import re
import sys
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*])?>=([0-9.]+)")


def numbers(version: str) -> tuple[int, ...]:
    """Return a version without zeros at its end, to be compared."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def main(bounds: Path, resolved: Path) -> int:
    """Name every bound that is too low; returns how many are."""
    chosen = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", resolved.read_text(), flags=re.M))
    wrong = 0
    for name, least in BOUND.findall(bounds.read_text()):
        found = chosen[name.lower()]
        if numbers(found)[:3] != numbers(least)[:3]:
            wrong += 1
            print(f"{name}>={least} in pyproject.toml: the lowest that fits the others is {found}")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 0)
