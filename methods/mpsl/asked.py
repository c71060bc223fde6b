"""Asked: which of the hosts a client asks first."""

import logging
from dataclasses import dataclass, field
from typing import Final

from shoal.crypto.keys import PeerId, short
from shoal.methods.base import Steps
from shoal.methods.mpsl.wire import Names
from shoal.methods.roles.serves import look

log = logging.getLogger(__name__)

FORGIVEN: Final = 1000
"""Answers of others after which a host that was silent is asked in its turn again."""


@dataclass(slots=True)
class Known:
    """What a client remembers of hosts, from round to round."""

    wrong: set[PeerId] = field(default_factory=set)
    """Those that answered as no honest host does; each for as long as it hosts."""
    silent: dict[PeerId, int] = field(default_factory=dict)
    """Those that did not answer, with the number of answers of others since."""

    audited: dict[PeerId, int] = field(default_factory=dict)
    """How often another host said the same as this one."""
    doubted: tuple[PeerId, ...] = ()
    """Two that said unlike things of the same body, without a third that would say which of them lies."""

    def heard(self, peer: PeerId) -> None:
        """A host answered."""
        self.silent = {other: n + 1 for other, n in self.silent.items() if other != peer and n < FORGIVEN}

    def keep(self, hosts: list[PeerId]) -> None:
        """Forget all but these, who host."""
        self.wrong.intersection_update(hosts)
        self.silent = {peer: n for peer, n in self.silent.items() if peer in hosts}
        self.audited = {peer: n for peer, n in self.audited.items() if peer in hosts}

    @property
    def problem(self) -> str:
        """Name who answered wrongly, for the owner of this node; empty: nobody."""
        if self.doubted and not self.wrong:
            names = " and ".join(short(peer) for peer in self.doubted)
            return f"{names}: return unlike outputs of the same body, so one of them lies; look at both"
        if not self.wrong:
            return ""
        names = ", ".join(short(peer) for peer in sorted(self.wrong))
        return (
            f"{names}: answered as no honest host of this model does, and is asked last;"
            " look at that node, or keep it out (docs/who-may-join.md)"
        )


class Asked:
    """Whom a client asks: hosts before spares, begun at a place that differs from client to client.

    One that did not answer comes after all others. One that answered as no honest host does comes last.
    """

    def __init__(self, names: Names, me: PeerId, known: Known) -> None:
        """`known`: what is remembered beyond this round; it is added to."""
        self.names, self._me, self.known = names, me, known
        self.hosts: list[PeerId] = []
        self.n_wrong = 0
        """Answers that no honest host gives."""

    @property
    def trusted(self) -> list[PeerId]:
        """Those that neither were silent nor answered wrongly, in order."""
        return [peer for peer in self.hosts if peer not in self.known.wrong and peer not in self.known.silent]

    def look(self) -> Steps[None]:
        """See who is there."""
        hosts = [each.peer for each in (yield from look(self.names.role))]
        spares = [each.peer for each in (yield from look(self.names.spare))]
        # By name: by their speed the order would differ from look to look.
        hosts.sort()
        start = sum(self._me.encode()) % len(hosts) if hosts else 0
        ordered = [*hosts[start:], *hosts[:start], *(peer for peer in spares if peer not in hosts)]
        self.known.keep(ordered)
        self._sort(ordered)

    def answered(self, peer: PeerId) -> None:
        """Ask this one first from now on: those before it did not answer."""
        at = self.hosts.index(peer) if peer in self.hosts else 0
        self.known.heard(peer)
        self.known.silent |= dict.fromkeys(self.hosts[:at], 0)
        self._sort(self.hosts)

    def unanswered(self, peer: PeerId) -> None:
        """Ask this one after all others: it was silent, or is gone."""
        self.known.silent[peer] = 0
        self._sort(self.hosts)

    def answered_wrongly(self, peer: PeerId) -> None:
        """Ask this one last for as long as it hosts."""
        self.n_wrong += 1
        self.known.wrong.add(peer)
        self._sort(self.hosts)
        log.warning("%s: the host answers with what no host of this model can; it is asked last", peer[-6:])

    def _sort(self, hosts: list[PeerId]) -> None:
        known = self.known
        self.hosts = sorted(hosts, key=lambda peer: (peer in known.wrong, peer in known.silent))
