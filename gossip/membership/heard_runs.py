"""HeardRuns: which runs there are in the swarm, as a newcomer wants to know.

Of each run the signed records of its peers tell name and round. A run is named by the hash of its settings,
so a peer can prove what its run does by showing them (`Describe`), and nobody can say so falsely. One spec is
kept per run, and at most `MAX_SPECS` in all.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.run_spec import RunSpec, run_id

MAX_SPECS: Final = 64
"""Specs that are kept of runs which are not ours; what was told last stays."""
MAX_RUNS: Final = 32
"""Runs that are listed: those of the most peers."""


@dataclass(frozen=True, slots=True)
class HeardRun:
    """A run, as it is heard of."""

    run: bytes
    name: str
    """As its peers call it: anything."""
    peers: int
    """That say they are in it."""
    linked: int
    """Of these, linked to us."""
    round: int
    """Which half of them have reached: one peer alone may say anything."""
    spec: RunSpec | None
    """Where a peer has shown it."""


class HeardRuns:
    """What one node knows of runs. See the module's docstring."""

    def __init__(self, table: PresenceTable) -> None:
        """`table`: who is there."""
        self._table = table
        self._specs: OrderedDict[bytes, RunSpec] = OrderedDict()

    def wants(self, teller: PeerId) -> bool:
        """Whether it is worth reading what a peer says of its run."""
        entry = self._table.get(teller)
        return entry is not None and bool(entry.presence.run) and entry.presence.run not in self._specs

    def told(self, teller: PeerId, text: bytes) -> None:
        """Take what a peer says of its run; what is no spec, or of another run, is passed over."""
        if not self.wants(teller):
            return
        entry = self._table.get(teller)
        assert entry is not None
        try:
            spec = msgspec.msgpack.decode(text, type=RunSpec)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if run_id(spec) != entry.presence.run:
            return
        self._specs[entry.presence.run] = spec
        while len(self._specs) > MAX_SPECS:
            self._specs.popitem(last=False)

    def found(self, ours: Mapping[bytes, RunSpec]) -> list[HeardRun]:
        """Return the runs that live records name, ours first, then those of the most linked peers.

        `ours`: the run that this node is in, if any.
        """
        rounds: dict[bytes, list[int]] = {}
        names: dict[bytes, str] = {run: spec.name for run, spec in ours.items()}
        linked: dict[bytes, int] = {}
        for peer, entry in self._table:
            run = entry.presence.run
            if not run:
                continue
            names.setdefault(run, entry.presence.run_name)
            rounds.setdefault(run, []).append(entry.presence.round)
            linked[run] = linked.get(run, 0) + (peer in self._table.connected)
        found = [
            HeardRun(
                run,
                name,
                len(rounds.get(run, ())),
                linked.get(run, 0),
                median_low(rounds[run]) if run in rounds else 0,
                ours.get(run) or self._specs.get(run),
            )
            for run, name in names.items()
        ]
        return sorted(found, key=lambda each: (each.run not in ours, -each.linked, -each.peers, each.run))[
            :MAX_RUNS
        ]
