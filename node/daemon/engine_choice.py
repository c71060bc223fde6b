"""Which engine a node averages with, and what is asked of it."""

from collections.abc import Iterator

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import listen_at, parse_listen
from shoal.gossip.events import Vector
from shoal.gossip.member.commands import Averaged, Event, Failed
from shoal.gossip.member.member import Member
from shoal.gossip.run_spec import NATIVE
from shoal.node.config.settings import NodeConfig
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.hivemind_engine.engine import Ask, Engine
from shoal.node.trainer import ipc


class Owned:
    """A node, as its engine sees it; see `Owner`."""

    def __init__(self, node: Surroundings, member: Member, rounds: Rounds) -> None:
        """`rounds` get what becomes of an ask."""
        self._node, self._member, self._rounds = node, member, rounds

    def command(self, event: Event) -> None:
        """See `Owner`."""
        self._node.command(event)

    def others(self) -> Iterator[str]:
        """See `Owner`."""
        for _, entry in self._member.table.in_run(self._member.run):
            yield from entry.presence.engine

    def answer(self, result: Averaged | Failed) -> None:
        """See `Owner`."""
        self._rounds.notice(result)

    def problem(self, text: str) -> None:
        """See `Owner`."""
        self._node.problem("engine", text)


def engine_of(config: NodeConfig, owner: Owned, me: PeerId) -> Engine | None:
    """Return the engine that a node is set to, unless that is the member itself."""
    if config.run.engine == NATIVE:
        return None
    port = config.averaging.hivemind_port
    listen = tuple(listen_at(parse_listen(each).host, port) for each in config.network.listen)
    return Engine(me, listen, config.gossip.patience, owner)


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
