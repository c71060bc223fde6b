"""Journal: what happened between two looks at a node's status, as events for the person who runs it.

    Status, Status, ... --look--> Event, Event, ...   (lines of a terminal, or JSON)

A pure function of what a node says of itself, so that nothing in the protocol has to call anybody. What comes
and goes between two looks is not told.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal

import msgspec

from shoal.crypto.keys import PeerId, short
from shoal.gossip.admission.charter import parse
from shoal.gossip.membership.company import Alone, InCompany
from shoal.node.config.settings import NodeConfig
from shoal.node.status import AloneStatus, BootstrapStatus, PeerStatus, RoundStatus, Status
from shoal.node.text import UNANCHORED, alone_for, duration, figure, printable, reach_line

MANY: Final = 8
"""Peers that come or go between two looks and are named; more are counted."""
TRAINER_STATES: Final = ("none", "running", "attached")
"""What a trainer is where nothing is wrong; else its status says why it ended."""
ADVICE: Final = {
    "refused": "nothing listens there, or a firewall says no: look whether that node runs, and at its port",
    "timeout": "no answer: look at the address, and at the firewalls between",
    "unreachable": "no way there: look at the address, and at this machine's network",
    "wrong key": "another node answers there: take the address that it prints itself",
    "wrong swarm": "that node is of another swarm: start with its --swarm",
    "same identity": "that node has this node's key: give one of them its own with shoal init --force",
    "other private network": "its key is another; ask a member for that of: shoal key show",
    "not a shoal node": "something else listens there: look at the port",
    "other protocol version": "that node has another version of shoal: install the same on both",
    "own fault": "this node cannot do what it should: its log says why; install the newest shoal",
    "too many links": "this node has as many links as it may",
    "no place there": "that node has as many links as it may: name others with --join too",
    "not for us to dial": "somebody else named what leads into another local network; --join dials it",
    "fast link denied": "somebody on the way meddles with the connection: try another network",
}
"""Why a dial failed -> what to do about it."""

UNREACHED: Final = "nobody can reach this node yet; this is said again once a relay carries it"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person wants to know of."""

    time: float
    """Unix seconds."""
    level: Literal["info", "warning", "error"] = "info"
    event: str
    """What kind it is, such as peer-joined."""
    text: str
    """For people."""
    fields: dict[str, bool | int | float | str] = {}
    """For programs."""


def greeting(status: Status, config: NodeConfig, now: float) -> Event:
    """Say which node is up, where it is reached, and what to type on another device; `now`: Unix seconds."""
    peer = short(PeerId(status.peer_id))
    name = f"{status.name} ({peer})" if status.name else peer
    lines = [f"node {name} of swarm {config.network.swarm!r} is up"]
    lines += [f"  reached at  {address}" for address in status.addresses]
    if status.page:
        lines.append(f"  status page {status.page}/")
    lines.append(f"  join with   {status.join_command or UNREACHED}")
    lines.append(f"  {door_line(config)}")
    if not config.run.has_trainer:
        lines.append("  no --task: this node helps others (relays, DHT, records) and does not train")
    fields: dict[str, bool | int | float | str] = {
        "peer": status.peer_id,
        "name": status.name,
        "addresses": " ".join(status.addresses),
        "page": status.page,
        "join": status.join_command,
    }
    return Event(time=now, event="up", text="\n".join(map(printable, lines)), fields=fields)


def door_line(config: NodeConfig) -> str:
    """Say in one line who may take part."""
    charter = parse(config.run.charter)
    if charter.founders:
        return f"{charter.mode} run: who takes part is told by shoal members"
    how = f", and combines by {config.run.combine}" if config.run.task else ""
    return f"open run: anyone may take part{how}; for one with a door that can be locked: shoal found"


def company(notice: Alone | InCompany, alone: AloneStatus | None, now: float) -> Event | None:
    """Tell for how long a node is or was alone; that it is so is a problem of the status.

    `alone`: what the status says of it. `now`: Unix seconds.
    """
    if isinstance(notice, InCompany):
        text = f"no longer alone, after {duration(notice.seconds)} and {notice.rounds} rounds alone"
    elif alone is not None and notice.seconds:
        text = f"still alone, for {alone_for(alone)}"
    else:
        return None
    fields: dict[str, bool | int | float | str] = {"seconds": notice.seconds, "rounds": notice.rounds}
    return Event(time=now, event="company", level="warning", text=text, fields=fields)


class Journal:
    """Tells what is new in a status."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._before: Status | None = None
        self._told_until = 0.0
        """When the last round that was told had ended."""
        self._told: set[tuple[str, str]] = set()
        """Why which bootstrap address failed, since it answered last."""
        self._was_linked = False
        self._has_trained = False
        self._now = 0.0

    def look(self, status: Status, now: float) -> list[Event]:
        """Return what has happened since the last look; `now`: Unix seconds."""
        self._now = now
        before, self._before = self._before, status
        found = [
            *self._bootstrap(status),
            *self._peers(before, status),
            *self._company(before, status),
            *self._pause(before, status),
            *self._reach(before, status),
            *self._run(before, status),
            *self._trainer(before, status),
            *self._rounds(status),
            *self._news(before, status),
        ]
        if status.phase != (before.phase if before else "") and status.phase in ("finished", "stopping"):
            found.append(self._end(status))
        return found

    def _event(
        self,
        event: str,
        text: str,
        level: Literal["info", "warning", "error"] = "info",
        metrics: Mapping[str, float] | None = None,
        **fields: object,
    ) -> Event:
        # Metrics have the names that the user gave them: they must not take the place of ours.
        every = {**(metrics or {}), **fields}
        kept = {key: value for key, value in every.items() if isinstance(value, bool | int | float | str)}
        return Event(time=self._now, level=level, event=event, text=printable(text), fields=kept)

    def _pause(self, before: Status | None, status: Status) -> Iterable[Event]:
        former = before.pause if before is not None else ""
        if status.pause and not former:
            yield self._event(
                "paused", f"this node trains no more for now: {status.pause}", reason=status.pause
            )
        elif former and not status.pause:
            yield self._event("resumed", "this node trains again")

    def _reach(self, before: Status | None, status: Status) -> Iterable[Event]:
        old = before.port_mapping if before is not None else None
        new = status.port_mapping
        if new is None or (old is not None and old.text == new.text):
            return
        if new.is_unreachable:
            yield self._event("unreachable", reach_line(new), reason=new.text)
        elif new.state == "mapped":
            yield self._event("port-mapped", new.text)

    def _bootstrap(self, status: Status) -> Iterable[Event]:
        for each in status.bootstrap:
            if each.state == "connected":
                if any(address == each.address for address, _ in self._told):
                    self._told = {told for told in self._told if told[0] != each.address}
                    yield self._event("bootstrap-answers", f"{each.address} answers", address=each.address)
            elif each.state in ("failed", "own") and (each.address, each.reason) not in self._told:
                self._told.add((each.address, each.reason))
                yield self._failed(each)

    def _failed(self, each: BootstrapStatus) -> Event:
        if each.state == "own":
            text = (
                f"{each.address} is this node itself, and is not dialled: give --join another node's address"
            )
        else:
            advice = ADVICE.get(each.reason, "")
            text = f"{each.address} failed: {each.reason}{advice and f' ({advice})'}; it is tried again"
        return self._event("bootstrap-failed", text, "warning", address=each.address, reason=each.reason)

    def _peers(self, before: Status | None, status: Status) -> Iterable[Event]:
        old, new = _linked(before), _linked(status)
        joined = [new[peer] for peer in new if peer not in old]
        left = [old[peer] for peer in old if peer not in new]
        there = f"{len(new)} linked"
        if len(joined) > MANY:
            yield self._event("peers-joined", f"{len(joined)} peers joined; {there}", count=len(joined))
        else:
            for peer in joined:
                # The peer has been named before; without it the line fits a terminal.
                at = f" at {peer.address.rpartition('/p2p/')[0] or peer.address}" if peer.address else ""
                text = f"peer {short(PeerId(peer.peer))} joined{at} ({peer.link}, {peer.role})"
                yield self._event("peer-joined", text, peer=peer.peer, address=peer.address, link=peer.link)
        if len(left) > MANY:
            yield self._event("peers-left", f"{len(left)} peers left; {there}", "warning", count=len(left))
        else:
            for peer in left:
                text = f"peer {short(PeerId(peer.peer))} left; {there}"
                yield self._event("peer-left", text, "warning", peer=peer.peer, linked=len(new))

    def _company(self, before: Status | None, status: Status) -> Iterable[Event]:
        is_linked = bool(_linked(status))
        if before is None or status.phase in ("finished", "stopping"):
            self._was_linked = is_linked
            return
        if self._was_linked and not is_linked:
            yield self._event("alone", "this node is alone: no peer is linked any more", "warning")
        elif is_linked and not self._was_linked and status.peers_met > len(_linked(status)):
            yield self._event("in-company", "this node is in company again")
        self._was_linked = is_linked

    def _run(self, before: Status | None, status: Status) -> Iterable[Event]:
        run = status.run
        if run is not None and (before is None or before.run is None or before.run.run_id != run.run_id):
            begins = f"going on after round {status.round}" if status.round else "from the start"
            text = f"{run.method} on {run.task}, {run.parameters:,} parameters, {begins}"
            yield self._event("run", text, method=run.method, task=run.task, round=status.round)
        if status.phase == "syncing" and (before is None or before.phase != "syncing"):
            text = f"the swarm is elsewhere than this node (round {status.round}): fetching its state"
            yield self._event("fetching", text, round=status.round)

    def _trainer(self, before: Status | None, status: Status) -> Iterable[Event]:
        old, new = before.trainer if before is not None else "none", status.trainer
        if new == old or status.phase in ("finished", "stopping"):
            return
        if new not in TRAINER_STATES:
            yield self._event("trainer-ended", f"{new}; it is started again", "error", reason=new)
        elif new == "running":
            again = " again" if self._has_trained else ""
            self._has_trained = True
            yield self._event("trainer-started", f"the trainer is started{again}")
        elif new == "attached":
            yield self._event("trainer-attached", "a process of yours has attached to train")
        elif old == "attached":
            yield self._event("trainer-detached", "the process that trained is gone", "warning")

    def _rounds(self, status: Status) -> Iterable[Event]:
        new = [done for done in status.history if done.finished_at > self._told_until]
        if not new:
            return
        self._told_until = max(done.finished_at for done in new)
        of = f" of {status.run.rounds}" if status.run is not None and status.run.rounds else ""
        for done in new:
            yield self._round(done, of)

    def _round(self, done: RoundStatus, of: str) -> Event:
        number = done.round + 1
        figures = {
            name: value
            for name, value in {**done.metrics, "loss": done.loss}.items()
            if not (name == "loss" and done.outcome in ("failed", "synced"))
        }
        shown = "".join(f", {name} {figure(value)}" for name, value in figures.items())
        seconds = done.work_seconds + done.matchmaking_seconds + done.exchange_seconds
        fields: dict[str, Any] = {
            "round": number,
            "contributors": done.contributors,
            "seconds": round(seconds, 3),
        }
        match done.outcome:
            case "failed":
                text = f"round {number}{of} lost, and begun again: {done.reason or 'no reason was told'}"
                return self._event("round-lost", text, "warning", figures, reason=done.reason, **fields)
            case "synced":
                text = f"took over the swarm's state after round {number}{of}"
                return self._event("state-fetched", text, metrics=figures, **fields)
            case "alone":
                text = f"round {number}{of}: alone{shown}, {duration(seconds)}"
                return self._event("round-alone", text, metrics=figures, **fields)
        text = f"round {number}{of}: the mean of {done.contributors}{shown}, {duration(seconds)}"
        return self._event("round", text, metrics=figures, **fields)

    def _news(self, before: Status | None, status: Status) -> Iterable[Event]:
        if status.unanchored != (before is not None and before.unanchored):
            text = UNANCHORED if status.unanchored else "no longer unanchored"
            yield self._event("trust", text, unanchored=status.unanchored)
        for kind, level, new, old in (
            ("problem", "error", status.problems, before.problems if before else []),
            ("refused", "warning", status.refusals, before.refusals if before else []),
        ):
            for line in new:
                if line not in old:
                    text = f"not averaging with {line}" if kind == "refused" else line
                    yield self._event(kind, text, level)  # type: ignore[arg-type]  # one of the two above

    def _end(self, status: Status) -> Event:
        if status.phase == "stopping":
            return self._event("leaving", "leaving the swarm", round=status.round)
        shown = "".join(f", {name} {figure(value)}" for name, value in status.metrics.items())
        text = (
            f"the run is over after {status.round} rounds{shown}; the state is served on until this node ends"
        )
        return self._event("finished", text, metrics=status.metrics, round=status.round)


def merged(events: Sequence[Event]) -> list[Event]:
    """Put rounds of one kind in a row into one event, for a terminal: nobody reads ten lines a second."""
    found: list[Event] = []
    for kind, group in groupby(events, key=lambda event: event.event):
        same = list(group)
        if kind in ("round", "round-alone") and len(same) > 1:
            first, last = same[0].fields["round"], same[-1]
            text = last.text.replace("round ", f"rounds {first} to ", 1)
            found.append(msgspec.structs.replace(last, text=text))
        else:
            found += same
    return found


def _linked(status: Status | None) -> dict[str, PeerStatus]:
    return {} if status is None else {peer.peer: peer for peer in status.peers if peer.link != "none"}
