"""A pytest plugin for `make test-core`: refuse to import what takes longer to load than to test."""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

REFUSED: Final = ("torch", "trio", "sklearn", "libp2p")


class Refusing(MetaPathFinder):
    """Refuses to find these packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for any other module.

        Raises:
            ModuleNotFoundError: it is one of them.
        """
        if fullname in REFUSED:
            raise ModuleNotFoundError(
                f"the core tests do without {fullname}: list this file in NOT_CORE of scripts/run_tests.py",
                name=fullname,
            )
        return None


# Trio brings a plugin for hypothesis, which would load it.
os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"
sys.meta_path.insert(0, Refusing())
