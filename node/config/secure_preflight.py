"""Whether a run can sum under masks what its method averages, before anything is sent in it."""

from shoal.gossip.admission.charter import Mode
from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE, RunSettings
from shoal.methods.base import Method, gathers, masks, why_not_gather_secure
from shoal.node.errors import BadConfig


def check_secure(run: RunSettings, method: Method, mode: Mode) -> None:
    """Refuse a secure run whose contributions somebody has to see. `mode`: who may take part in it.

    Raises:
        BadConfig: it does not fit the exchange, the engine, the method or the mode, or it says how secure
            sums are made where there are none.
    """
    if run.group_size < 3 and (run.secure or masks(method)):
        who = "secure" if run.secure else run.method
        raise BadConfig(f"{who}: of two peers each knows what the other gave: take --group-size 3 or more")
    if not run.secure:
        if run.accept_unseen_updates:
            raise BadConfig("--accept-unseen-updates is for runs that sum under masks: add --secure")
        return
    if PATTERNS[run.exchange].has_own_states:
        raise BadConfig(
            f"secure: with exchange {run.exchange} a neighbour sees what a peer gives: leave out --exchange"
        )
    if run.engine != NATIVE:
        raise BadConfig(f"secure: engine {run.engine} knows no masks: leave out --engine or --secure")
    if gathers(method):
        raise BadConfig(why_not_gather_secure(run.method))
    if mode != "closed" and not run.accept_unseen_updates:
        raise BadConfig(
            f"secure: in a run of mode {mode} peers that founders did not choose may contribute, and nobody"
            " can look at what they give: one of them may turn the model as far as a round reaches. Give"
            " --charter of a closed run (shoal found --mode closed), or accept that by"
            " --accept-unseen-updates"
        )
