"""Whether noise can protect what a run's method averages, and this node's budget, before anything is sent."""

from typing import Final

from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE, RunSettings
from shoal.methods.base import Method, gathers
from shoal.node.config.settings import NodeConfig
from shoal.node.errors import BadConfig
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.storage.home import Home

OF_CHANGES: Final = (
    *("fedavg", "fedprox", "diloco", "fedavgm", "fedadam", "fedyogi", "fedspeed", "feddyn", "fedpeft"),
)
"""Methods all of whose asks are of a change of the whole model."""
OF_STEPS: Final = ("fedavg", "fedprox", "diloco", "fedavgm", "fedadam", "fedyogi", "fedpeft")
"""Of these the ones whose steps are plain ones on the task's own loss."""


def check_privacy(run: RunSettings, method: Method) -> None:
    """Refuse noise where what a node gives is not one bounded change in a sum.

    Raises:
        BadConfig: it does not fit the method, the exchange, the engine or the delay, or is not asked for and
            tuned all the same.
    """
    plain = RunSettings()
    if run.privacy == "none":
        for name in ("clip_norm", "noise_multiplier"):
            if getattr(run, name) != getattr(plain, name):
                raise BadConfig(
                    f"--{name.replace('_', '-')} is for runs that add noise: add --privacy local,"
                    " distributed or examples"
                )
        return
    fitting = OF_STEPS if run.privacy == "examples" else OF_CHANGES
    listed = ", ".join(fitting)
    if gathers(method):
        raise BadConfig(
            f"privacy: {run.method} gathers bodies, whose influence has no norm that could be clipped:"
            f" take --method {fitting[0]}, or leave out --privacy; it is for {listed}"
        )
    if run.method not in fitting:
        raise BadConfig(
            f"privacy {run.privacy}: {run.method} is not known to give one bounded change a round: take"
            f" --method {fitting[0]}, or leave out --privacy; it is for {listed}"
        )
    if PATTERNS[run.exchange].has_own_states:
        raise BadConfig(
            f"privacy: with exchange {run.exchange} what a node gives is its whole state: leave out"
            " --exchange"
        )
    if run.engine != NATIVE:
        raise BadConfig(f"privacy: engine {run.engine} adds no noise: leave out --engine or --privacy")
    if run.delay:
        raise BadConfig(
            "privacy: with a delay a change is measured from an earlier state, and its norm says nothing:"
            " leave out --delay"
        )


def check_budget(config: NodeConfig) -> None:
    """Refuse a budget that nothing is counted against, and a ledger that cannot be read.

    Raises:
        BadConfig: the run adds no noise.
        BadHome: the ledger is damaged.
    """
    if config.run.privacy != "none":
        PrivacyLedger(Home(config.home).state_dir)
    elif config.privacy.budget:
        raise BadConfig(
            "--privacy-budget: without noise there is no epsilon: add --privacy local, distributed or"
            " examples"
        )
