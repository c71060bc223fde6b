"""Whether a codec fits a run's method, before anything is sent in it."""

from typing import Final

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.run_spec import RunSettings
from shoal.methods.base import Method, averages_changes
from shoal.node.errors import BadConfig

MOST_MOMENTUM: Final = 0.5
"""Of an outer optimizer, beside the coarsest codecs. What they leave out comes late and in large pieces, and
momentum repeats it: with the default of 0.9 the loss rises (docs/codecs.md)."""


def check_codec(run: RunSettings, method: Method) -> None:
    """Refuse a codec that there is not, or that would ruin what a method averages.

    Raises:
        BadConfig: it does not fit.
    """
    codec = CODECS.get(run.codec)
    if codec is None:
        raise BadConfig(f"no codec {run.codec!r}; there are {', '.join(CODECS)}: choose one with --codec")
    if codec.deltas_only and not averages_changes(method):
        fitting = ", ".join(name for name, each in CODECS.items() if not each.deltas_only)
        raise BadConfig(
            f"codec {run.codec} is too coarse for params, and {run.method} averages params, not changes:"
            f" take --method diloco, or --codec {fitting}"
        )
    name = "outer_momentum" if hasattr(method.config, "outer_momentum") else "beta1"
    if codec.deltas_only and getattr(method.config, name, 0.0) > MOST_MOMENTUM:
        plain = "--option outer_lr=1 and --option outer_momentum=0"
        less = plain if run.method == "diloco" else f"--option {name}={MOST_MOMENTUM}"
        raise BadConfig(
            f"codec {run.codec} and outer momentum amplify each other: take --codec int4, or {less}"
        )
