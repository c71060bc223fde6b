"""Drive: the one trio loop around a `Member`: frames in, effects out, timers between.

    host events --decode--> Received ..--.
    commands of the node ----------------+--> Member.handle --> effects --> host, timers, notices
    timers that are due -----------------'

A timer that is late tells that this process, or the whole machine, stood still. What the others sent
meanwhile lies unread, and they may have stood still with us: so it fires once as much later again.

Everything runs in the trio thread and nothing here waits but for the next event, so a core is never
entered twice.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from shoal.crypto.keys import PeerId, short
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import (
    Dial,
    Drop,
    Effect,
    Notify,
    PeerFound,
    PeerLost,
    ProbeLink,
    Publish,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
)
from shoal.gossip.host import Announced, FrameReceived, Host
from shoal.gossip.member.commands import Averaged, Event, Measured
from shoal.gossip.member.member import Member
from shoal.gossip.wire import OTHER_RUN, Codec

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LATE: Final = 0.25
"""Seconds after which a timer is taken for late."""
LONGEST_PAUSE: Final = 10.0
"""Seconds by which a late timer is put off at most."""


class Driver:
    """Runs one member over one host."""

    def __init__(self, host: Host, member: Member, codec: Codec, notify: Callable[[Any], None]) -> None:
        """`notify` is called with every notice of the member, in the trio thread."""
        self.host, self.member, self.codec = host, member, codec
        self.admission = member.admission
        self.on_effect: Callable[[Effect], None] | None = None
        """For tests of crashes: called before an effect is carried out."""
        self.on_found: Callable[[PeerFound], None] | None = None
        """Called when a link to a peer is up."""
        self._notify = notify
        self._timers: dict[Timer, float] = {}
        self._put_off: set[Timer] = set()
        self._bulk = 0, 0.0
        """Sent in bulk by the end of the last exchange, and the seconds that took."""
        self._timers_changed = trio.Event()

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fire_timers)
            self._carry_out(self.member.begin(trio.current_time()))
            task_status.started()
            while True:
                self._host_event(await self.host.next_event())

    def command(self, event: Event) -> None:
        """Hand the member a command; its effects are carried out before this returns."""
        self._carry_out(self.member.handle(event, trio.current_time()))

    def _host_event(self, event: Any) -> None:
        try:
            match event:
                case FrameReceived():
                    message = self.codec.decode(event.peer, event.head, len(event.data))
                    self.command(Received(event.peer, message, event.data, event.head))
                case Announced():
                    record = self.codec.open_record(event.sealed)
                    self.command(Received(event.via, self.member.heard(record)))
                case _:
                    if isinstance(event, PeerLost):
                        self.admission.link_lost(event.peer)
                    self.command(event)
                    if isinstance(event, PeerFound) and self.on_found is not None:
                        self.on_found(event)
        except RemoteViolation as violation:
            self.admission.count(violation.reason)
            # A peer that hands an announcement on has not read it, and is not to blame.
            if violation.reason != OTHER_RUN and not isinstance(event, Announced):
                self._strike(event.peer, violation)

    def _strike(self, peer: PeerId, violation: RemoteViolation) -> None:
        log.debug("dropped a message of %s: %s", short(peer), violation)
        if self.admission.strike(peer):
            self.host.drop_nowait(peer, violation.reason)

    def _carry_out(self, effects: list[Effect]) -> None:
        # Notices last: they may lead to further commands, whose effects come after all of these.
        notices = []
        for effect in effects:
            if self.on_effect is not None:
                self.on_effect(effect)
            match effect:
                case Send():
                    self.host.send_nowait(effect.peer, self.codec.encode(effect.message), effect.data)
                case SetTimer():
                    self._timers[effect.name] = max(effect.at, trio.current_time())
                    self._put_off.discard(effect.name)
                    self._timers_changed.set()
                case Notify():
                    notices.append(effect.notice)
                case Dial():
                    self.host.dial_nowait(effect.address, effect.teller)
                case Publish():
                    self.host.announce_nowait(self.codec.encode_announcement(effect.message))
                case Drop():
                    self.admission.count(effect.reason)
                    self.host.drop_nowait(effect.peer, effect.reason)
                case ProbeLink():
                    self.host.probe_nowait(effect.peer)
        for notice in notices:
            if isinstance(notice, Averaged):
                sent, busy = self.host.statistics().bulk
                self.member.handle(Measured(sent - self._bulk[0], busy - self._bulk[1]), trio.current_time())
                self._bulk = sent, busy
            self._notify(notice)

    async def _fire_timers(self) -> None:
        while True:
            self._timers_changed = trio.Event()
            soonest = min(self._timers.values(), default=float("inf"))
            with trio.move_on_at(soonest):
                await self._timers_changed.wait()
                continue
            now = trio.current_time()
            for name in [name for name, at in self._timers.items() if at <= now]:
                # An earlier one of these may have moved it.
                if (at := self._timers.get(name, float("inf"))) > now:
                    continue
                if now - at > LATE and name not in self._put_off:
                    self._put_off.add(name)
                    self._timers[name] = now + min(now - at, LONGEST_PAUSE)
                    continue
                del self._timers[name]
                self._put_off.discard(name)
                self.command(TimerFired(name))
