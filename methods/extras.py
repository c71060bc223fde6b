"""Packages that only some tasks and plots need, and what to type where one is missing."""

from typing import Final

EXTRAS: Final = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
"""Import name -> name of the package."""


def how_to_get(module: str) -> str:
    """Say in half a line what to type to have a package, by the name that is imported."""
    if module in EXTRAS:
        return f"install {EXTRAS[module]} with: pip install -e '.[testnet]'"
    return "install it"
