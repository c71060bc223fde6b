"""Whether another engine can be had and fits a run. Launchers look too, so nothing of an engine is loaded."""

from importlib.util import find_spec
from typing import Final

from shoal.gossip.run_spec import NATIVE
from shoal.methods.base import Method
from shoal.node.errors import BadConfig

COMPRESSIONS: Final = ("float32", "float16", "int8")
"""Codecs that hivemind has too; its int8 is one of its own, and owes nothing to the next round."""
INSTALL: Final = "pip install -e '.[hivemind]'"


def check_engine(engine: str, method: Method, name: str, codec: str) -> None:
    """Refuse an engine that is not installed, or not for this method (its name is `name`) or codec.

    Raises:
        BadConfig: it does not fit.
    """
    if engine == NATIVE:
        return
    if not is_installed():
        raise BadConfig(f"engine {engine} is not installed: {INSTALL}, or leave out --engine {engine}")
    if not hasattr(method, "outer"):
        raise BadConfig(
            f"engine {engine} makes means and has no other exchange, which {name} needs:"
            f" take --method fedavg, fedprox or diloco, or leave out --engine {engine}"
        )
    if codec not in COMPRESSIONS:
        raise BadConfig(
            f"engine {engine} has no codec {codec}; choose --codec {', '.join(COMPRESSIONS)},"
            f" or leave out --engine {engine}"
        )


def is_installed() -> bool:
    """Tell whether hivemind could be imported, without doing so."""
    return find_spec("hivemind") is not None
