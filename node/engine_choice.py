"""Which engine a node averages with, whether it can be had, and what is asked of it."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Final

from gossip.commands import Averaged, Failed
from gossip.core import Event, Vector
from gossip.member import Member
from gossip.runspec import NATIVE
from methods.base import Method
from node import ipc
from node.config import NodeConfig
from node.engine import Ask, Engine
from node.engine_line import COMPRESSIONS
from node.errors import BadConfig

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


def engine_of(
    config: NodeConfig,
    member: Member,
    *,
    command: Callable[[Event], None],
    answer: Callable[[Averaged | Failed], None],
    problem: Callable[[str], None],
) -> Engine | None:
    """Return the engine that a node is set to, unless that is the member itself."""
    if config.averaging.engine == NATIVE:
        return None
    port = config.averaging.hivemind_port
    listen = tuple(f"{address.rpartition('/')[0]}/{port}" for address in config.network.listen)

    def others() -> Iterator[str]:
        for _, entry in member.table.in_run(member.run):
            yield from entry.presence.engine

    return Engine(
        member.me,
        listen,
        config.gossip.patience,
        command=command,
        others=others,
        answer=answer,
        problem=problem,
    )


def ask_of(
    message: ipc.AskAllReduce, vector: Vector, member: Member, config: NodeConfig, strangers: int, now: float
) -> Ask:
    """Return the ask of a trainer, and whom to wait for."""
    is_first = member.round == 0
    there = 1 + len(member.at.expected(now)) + strangers
    spec = member.at.spec
    assert spec is not None
    return Ask(
        message.round,
        message.index,
        vector,
        message.weight,
        expected=max(there, config.run.wait_for) if is_first else there,
        seconds=config.gossip.patience * (2 if is_first else 1),
        quorum=spec.quorum,
        base="" if member.at.mergeable else member.state.hex(),
        waits=is_first,
    )


def is_installed() -> bool:
    """Tell whether hivemind could be imported, without doing so."""
    return find_spec("hivemind") is not None
