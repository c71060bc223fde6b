"""Whether records of a run can say whose data is in a state, and whether a file is one to begin with."""

from pathlib import Path

from shoal.gossip.patterns import PATTERNS
from shoal.gossip.run_spec import NATIVE
from shoal.methods.base import Method
from shoal.methods.roles.serves import Serves
from shoal.node.config.settings import NodeConfig, RunConfig
from shoal.node.errors import BadConfig
from shoal.node.retraining.round_records import by_place, checked, past_of
from shoal.node.retraining.start_file import StartFile, read_start
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home


def check_keeping(run: RunConfig, method: Method) -> None:
    """Refuse to keep states where a round does not name all whose data comes in with it.

    Raises:
        BadConfig: it is such a run.
    """
    if not run.keep_states:
        return
    why = ""
    if PATTERNS[run.exchange].has_own_states:
        why = f"with exchange {run.exchange} a neighbour brings what others gave it: leave out --exchange"
    elif run.engine != NATIVE:
        why = f"engine {run.engine} does not say who was in a round: leave out --engine"
    elif run.delay:
        why = "with a delay a round has the work of two: leave out --delay"
    elif isinstance(method, Serves):
        why = f"peers of {run.method} also send work outside of rounds: take --method fedavg"
    if why:
        raise BadConfig(f"keep_states: {why}, or keep no states: --keep-states 0")


def check_start(config: NodeConfig, home: Home) -> None:
    """Look at the file with which a run is to begin; this home's own records must not contradict it.

    Raises:
        BadConfig: it is no such file, or the peer's data is in its state.
    """
    if not config.run.start_from:
        return
    start = read_start(Path(config.run.start_from))
    of = start.origin
    if of.name == config.run.name:
        raise BadConfig(
            f"--from {config.run.start_from}: it is of run {of.name}; give the run that goes on without"
            f" {of.without} another name: --run {of.name}-anew"
        )
    if of.without in of.members or (home.database.exists() and _contradicts(home, start)):
        raise BadConfig(
            f"--from {config.run.start_from}: contributions of {of.without} are in its state, by the records"
            " of this node: take a file of another node, or train anew without one"
        )


def _contradicts(home: Home, start: StartFile) -> bool:
    """Tell whether the peer is in the state by this home's own records, if it has any."""
    if not home.key_file.exists():
        return False
    store, of = Store(home.database), start.origin
    try:
        records, _ = checked(home.peer_id(), of.run, store.records(of.run))
    finally:
        store.close()
    return of.without in past_of(by_place(records), of.round, of.state).members
