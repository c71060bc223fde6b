"""What a testnet's launcher has seen of its nodes: their statuses over time, gathered side by side.

A node tells its last 200 rounds; a testnet may run for more, so rounds are collected while it runs. Every
node is asked in a thread of its own: one that is frozen must not keep the table of the others from moving.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import CallsStatus, HandoverStatus, RoundStatus, Status
from shoal.node.web import client

FetchStatus: TypeAlias = Callable[[Path], Status | None]

UNSEEN: Final = 20.0
"""Seconds for which a node that was not seen since is taken to hold its roles still."""


def fetch_status(home: Path) -> Status | None:
    """Return the status of the node in a home, or None where none answers."""
    try:
        return client.fetch_status(home)
    except (NotRunning, Refused):
        return None


@dataclass(slots=True)
class Held:
    """A role that a node held, in Unix seconds of the first and the last look that showed it."""

    role: str
    first: float
    last: float

    def at(self, moment: float) -> bool:
        """Tell whether it was held at a moment."""
        return self.first <= moment <= self.last + UNSEEN


@dataclass(slots=True)
class Observed:
    """All that is known of one node."""

    name: str
    status: Status | None = None
    """The last one it gave."""
    rounds: dict[int, RoundStatus] = field(default_factory=dict)
    """The rounds that led to a state."""
    failed: set[tuple[int, float]] = field(default_factory=set)
    """Tries that did not: round and time."""
    tries: dict[float, RoundStatus] = field(default_factory=dict)
    """All of them, over all its lives, by the time at which they ended."""
    restarts: int = 0
    """How often it was started again on purpose."""
    sent_before: int = 0
    """Bytes of its former lives, as far as it had told of them."""
    received_before: int = 0
    loaded: bool = False
    """Whether it was seen to work in this life."""
    wished: bool = False
    """Whether its process was meant to end."""
    pids: set[int] = field(default_factory=set)
    answers: bool = False
    """Whether it answered when it was asked last."""
    exit_code: int | None = None
    """Of its process; None while it runs."""
    last_words: str = ""
    """The last line of its log, where it ended by itself."""
    left: int | None = None
    """The exit code after it was asked to leave; None where it ended before, or was not asked."""
    process: str = ""
    """What the system says of its process where that explains silence: not running, frozen."""
    peer: str = ""
    """Its peer id, which outlives its process; empty until it has answered once."""
    held: list[Held] = field(default_factory=list)
    """Its roles, where the model is split, in the order in which it took them."""
    handovers: dict[HandoverStatus, float] = field(default_factory=dict)
    """With whom its calls went on, without their age; and when, in Unix seconds."""

    @property
    def is_loading(self) -> bool:
        """Whether its process or its trainer has not begun to work yet."""
        waits = self.status is None or self.status.phase == "starting"
        return waits and self.exit_code is None

    @property
    def is_away(self) -> bool:
        """Whether it was ended on purpose, and not started again."""
        return self.wished and self.exit_code is not None

    @property
    def finished(self) -> bool:
        """Whether it has said that the run is over."""
        return self.status is not None and self.status.phase == "finished"

    @property
    def last(self) -> RoundStatus | None:
        """The last round that led to a state."""
        return self.rounds[max(self.rounds)] if self.rounds else None

    @property
    def accuracy(self) -> float | None:
        """Its accuracy now, or None where the task measures none."""
        for source in (self.last, self.status):
            if source is not None and "accuracy" in source.metrics:
                return source.metrics["accuracy"]
        return None

    def take(self, status: Status | None, at: float = 0.0) -> None:
        """Learn from an answer, or from silence. `at`: Unix seconds."""
        self.answers = status is not None
        if status is None:
            return
        self.status, self.peer = status, status.peer_id
        self.pids.add(status.pid)
        self.take_rounds(status.history)
        if status.calls is not None:
            self._take_calls(status.calls, status.peer_id, at)

    def _take_calls(self, calls: CallsStatus, me: str, at: float) -> None:
        for role in (role for role, peers in calls.hosts.items() if me in peers):
            known = next((each for each in reversed(self.held) if each.role == role and each.at(at)), None)
            if known is None:
                self.held.append(Held(role, at, at))
            else:
                known.last = at
        for each in calls.handovers:
            ageless = msgspec.structs.replace(each, age_seconds=0.0)
            self.handovers.setdefault(ageless, at - each.age_seconds)

    def take_rounds(self, history: Sequence[RoundStatus]) -> None:
        """Learn of rounds, from an answer or from its database; what is known already changes nothing."""
        for round_ in history:
            self.tries[round_.finished_at] = round_
            if round_.outcome == "failed":
                self.failed.add((round_.round, round_.finished_at))
                continue
            known = self.rounds.get(round_.round)
            if known is None or known.finished_at <= round_.finished_at:
                self.rounds[round_.round] = round_

    def begin_again(self) -> None:
        """Its process was started again: what it said before is of its last life."""
        self.restarts += 1
        if self.status is not None:
            self.sent_before += self.status.bytes_sent
            self.received_before += self.status.bytes_received
        self.status, self.answers, self.wished, self.loaded = None, False, False, False
        self.exit_code, self.last_words = None, ""


class Watcher:
    """Asks all nodes again and again."""

    def __init__(self, homes: Sequence[tuple[str, Path]], fetch: FetchStatus = fetch_status) -> None:
        """`homes`: the names of the nodes and where they live."""
        self.nodes = [Observed(name) for name, _ in homes]
        self._homes = [home for _, home in homes]
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(homes)), thread_name_prefix="status")
        self._asked: dict[int, Future[Status | None]] = {}

    def look(self, patience: float = 1.0) -> None:
        """Ask everyone who owes no answer; take what comes within `patience` seconds."""
        for i, home in enumerate(self._homes):
            if i not in self._asked:
                self._asked[i] = self._pool.submit(self._fetch, home)
        wait(self._asked.values(), timeout=patience)
        for i, future in list(self._asked.items()):
            if future.done():
                del self._asked[i]
                self.nodes[i].take(future.result(), time.time())
            else:
                self.nodes[i].answers = False

    def close(self) -> None:
        """Ask no more. An answer that is still awaited is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def holders(nodes: Sequence[Observed], role: str) -> list[int]:
    """Return the numbers of the nodes that hold a role, as they say themselves."""
    return [
        number
        for number, node in enumerate(nodes, start=1)
        if node.status is not None
        and node.status.calls is not None
        and node.status.peer_id in node.status.calls.hosts.get(role, [])
    ]


class HostCost(msgspec.Struct, frozen=True, kw_only=True):
    """What it cost the others that a node with roles was gone."""

    roles: tuple[str, ...]
    """That it held."""
    lost_steps: int
    """Of the others' training, in the round into which it fell."""
    seconds: float | None
    """Until the last of them that called it had an answer of another; None: nobody noticed."""
    went_on_with: tuple[int, ...]
    """The nodes that answered in its place."""
    taken_by: dict[str, int]
    """Role -> who holds it next; without an entry nobody does."""


def host_cost(nodes: Sequence[Observed], number: int, at: float, until: float) -> HostCost | None:
    """Return what the end of a node cost the others; None: it held no role. `at`, `until`: Unix seconds."""
    if number > len(nodes):
        return None
    gone, others = nodes[number - 1], {n: node for n, node in enumerate(nodes, start=1) if n != number}
    roles = tuple(dict.fromkeys(each.role for each in gone.held if each.at(at)))
    if not roles:
        return None
    numbers = {node.peer: n for n, node in others.items()}
    went_on = list[HandoverStatus]()
    for node in others.values():
        own = [
            (when, each)
            for each, when in node.handovers.items()
            if each.left == gone.peer and at <= when < until
        ]
        went_on += [min(own, key=lambda pair: pair[0])[1]] if own else []
    taken = {role: _taken_by(others, role, at) for role in roles}
    return HostCost(
        roles=roles,
        lost_steps=sum(_lost_steps(node, at) for node in others.values()),
        seconds=max((round(each.seconds, 3) for each in went_on), default=None),
        went_on_with=tuple(sorted({numbers[each.to] for each in went_on if each.to in numbers})),
        taken_by={role: n for role, n in taken.items() if n is not None},
    )


def _taken_by(others: dict[int, Observed], role: str, at: float) -> int | None:
    """Return who held a role after a moment: whoever took it then, or else whoever held it already."""
    spans = [(each.first, n) for n, node in others.items() for each in node.held if each.role == role]
    later = [span for span in spans if span[0] > at]
    here = [
        (first, n)
        for first, n in spans
        if any(each.role == role and each.last > at for each in others[n].held)
    ]
    found = min(later, default=None) or min(here, default=None)
    return None if found is None else found[1]


def _lost_steps(node: Observed, at: float) -> int:
    ended = [node.tries[when] for when in sorted(node.tries) if when >= at]
    return int(ended[0].metrics.get("unanswered", 0)) if ended else 0
