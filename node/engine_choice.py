"""Which engine a node averages with, and what is asked of it."""

from collections.abc import Callable, Iterator

from gossip.commands import Averaged, Failed
from gossip.core import Event, Vector
from gossip.member import Member
from gossip.runspec import NATIVE
from node import ipc
from node.config import NodeConfig
from node.engine import Ask, Engine


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
