"""Which engine a node averages with, and what is asked of it."""

from collections.abc import Callable, Iterator

from shoal.gossip.events import Vector
from shoal.gossip.member.commands import Averaged, Event, Failed
from shoal.gossip.member.member import Member
from shoal.gossip.run_spec import NATIVE
from shoal.node.config.settings import NodeConfig
from shoal.node.hivemind_engine.engine import Ask, Engine
from shoal.node.trainer import ipc


def engine_of(
    config: NodeConfig,
    member: Member,
    *,
    command: Callable[[Event], None],
    answer: Callable[[Averaged | Failed], None],
    problem: Callable[[str], None],
) -> Engine | None:
    """Return the engine that a node is set to, unless that is the member itself."""
    if config.run.engine == NATIVE:
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
    there = 1 + len(member.view.expected(now)) + strangers
    return Ask(
        message.round,
        message.index,
        vector,
        message.weight * message.discount,
        expected=max(there, config.run.wait_for) if is_first else there,
        seconds=config.gossip.patience * (2 if is_first else 1),
        quorum=member.view.least,
        base="" if member.view.mergeable else member.state.hex(),
        waits=is_first,
    )
