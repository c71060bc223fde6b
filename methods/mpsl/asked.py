"""Asked: which of the hosts a client asks first."""

import logging

from shoal.crypto.keys import PeerId
from shoal.methods.base import Steps
from shoal.methods.mpsl.wire import Names
from shoal.methods.roles.serves import look

log = logging.getLogger(__name__)


class Asked:
    """Whom a client asks: hosts before spares, begun at a place that differs from client to client.

    Whoever answered as no honest host does comes last.
    """

    def __init__(self, names: Names, me: PeerId, wrong: set[PeerId]) -> None:
        """`wrong`: who answered so; it is added to."""
        self.names, self._me, self._wrong = names, me, wrong
        self.hosts: list[PeerId] = []
        self.n_wrong = 0
        """Answers that no honest host gives."""

    def look(self) -> Steps[None]:
        """See who is there."""
        hosts = [each.peer for each in (yield from look(self.names.role))]
        spares = [each.peer for each in (yield from look(self.names.spare))]
        start = sum(self._me.encode()) % len(hosts) if hosts else 0
        ordered = [*hosts[start:], *hosts[:start], *(peer for peer in spares if peer not in hosts)]
        self._wrong.intersection_update(ordered)
        self.hosts = sorted(ordered, key=lambda peer: peer in self._wrong)

    def answered(self, peer: PeerId) -> None:
        """Ask this one first from now on: those before it did not answer."""
        self.hosts = [peer, *(other for other in self.hosts if other != peer)]

    def unanswered(self, peer: PeerId) -> None:
        """Ask this one last: it was silent, or is gone."""
        self.hosts = [*(other for other in self.hosts if other != peer), peer]

    def answered_wrongly(self, peer: PeerId) -> None:
        """Ask this one last for as long as it hosts."""
        self.n_wrong += 1
        self._wrong.add(peer)
        log.warning("%s: the host answers with what no host of this model can; it is asked last", peer[-6:])
