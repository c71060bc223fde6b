"""Neighbours: who is linked and who is there, what they say of themselves, and what follows for this node."""

from shoal.crypto.keys import PeerId
from shoal.gossip.events import (
    BANNED,
    Drop,
    Effects,
    Notify,
    PeerFound,
    Send,
)
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import (
    PeerAddresses,
    Refused,
)
from shoal.gossip.member.own_round import OwnRound
from shoal.gossip.messages import (
    Near,
    NotHeld,
    PeerMessage,
    Records,
    Want,
)


class Neighbours(OwnRound):
    """What a member does about links and records. See the module's docstring."""

    # --- links ------------------------------------------------------------------------------------

    def _peer_found(self, event: PeerFound, now: float) -> Effects:
        if self.admission.is_refused(event.peer, now):
            return [*self.dial_plan.found(event.peer, event.address, now), Drop(event.peer, BANNED)]
        self.view.link_up(event.peer)
        self.view.together.found(event.peer)
        effects = self.dial_plan.found(event.peer, event.address, now)
        effects += self.nearby.link_up(event.peer, event.host, is_relayed=event.link == "relayed")
        self.view.colleagues.named = self.dial_plan.named()
        effects += self.dissemination.greet(event.peer, now)
        effects += self.roster_sync.greet(event.peer, now)
        effects += self.calls.found(event.peer, now)
        return effects + self.pairwise.found(event.peer, now) + self._view_changed(now)

    def _peer_lost(self, peer: PeerId, now: float) -> Effects:
        self.view.link_down(peer, now)
        self.nearby.link_down(peer)
        return self.dial_plan.lost(peer, now) + self._gone(peer, now)

    def _left(self, peer: PeerId, now: float) -> Effects:
        self.view.table.forget(peer, now)
        self.view.together.left(peer)
        return self._gone(peer, now, is_dead=True)

    def _gone(self, peer: PeerId, now: float, *, is_dead: bool = False) -> Effects:
        effects = [*self.pairwise.lost(peer, now, is_dead=is_dead), *self.calls.lost(peer, now)]
        self.serving.lost(peer)
        # A group that comes about without it begins its exchange, before that loses it too.
        effects = [*effects, *self.group_search.lost(peer, now), *self._settle(now)]
        effects += self.asks.lost(peer, now) + self.state_sync.lost(peer, now)
        return effects + self.base_sync.lost(peer, now)

    # --- what they say ----------------------------------------------------------------------------

    def _near(self, peer: PeerId, message: Near, now: float) -> Effects:
        before = self.nearby.said_by(peer)
        effects = self.nearby.take(peer, message)
        if (said := self.nearby.said_by(peer)) != before:
            effects.append(Notify(PeerAddresses(peer, said)))
        return effects + self._hear(peer, message.addresses, now)

    def _hear(self, teller: PeerId, addresses: tuple[str, ...], now: float) -> Effects:
        """Take note of addresses that a linked peer named."""
        return self.dial_plan.hear(addresses, teller, self.nearby.host_of(teller), now)

    def _records(self, peer: PeerId, message: Records, now: float) -> Effects:
        effects: Effects = []
        changed = False
        for record, age in message.records:
            if record.author == self.me:
                if record.sequence > self._numbers.last:
                    # A twin, or ourselves before a restart with a clock set back: nobody would listen.
                    self._numbers.last = record.sequence
                    reason = "another node runs with this node's identity: give one of them a new key"
                    effects += [*self.dissemination.push(now), Notify(Refused(record.author, reason))]
                continue
            if (
                self.run
                and record.presence.run == self.run
                and not self.admission.is_inside(record.author, now)
            ):
                continue  # it says that it is in our run, and may not be: nobody goes by that
            if self.view.table.is_of_before(record, age, now, teller=peer):
                # Shown it, its author says something newer.
                effects.append(Send(record.author, Records(((record, age),))))
                continue
            known = self.view.table.get(record.author)
            if not self.view.table.update(record, age, now, teller=peer):
                if record.author == peer and known is not None and now - known.heard >= known.lease:
                    # Started again with a clock set back. What we know is too old to be handed on, and is
                    # prolonged whenever its author speaks: shown it, that says something newer.
                    effects.append(Send(peer, Records(((known.record, 0.0),))))
                continue
            if known is not None and known.presence == record.presence:
                if record.author not in self.view.table.connected and self.dial_plan.seeks_links:
                    # A teller may name few at a time.
                    effects += self._hear(peer, record.presence.addresses, now)
                continue
            changed = True
            effects += self.group_search.moved(record.author, record.presence, now)
            addresses = record.presence.addresses
            if record.author not in self.view.table.connected:
                effects += self._hear(peer, addresses, now)
            elif addresses and (known is None or known.presence.addresses != addresses):
                effects.append(Notify(PeerAddresses(record.author, addresses)))
            if record.author == peer:
                effects += self.run_mismatch.met(peer, record.presence, now)
                if known is None and not self.view.is_large_swarm():
                    effects += self.dissemination.introduce(record, age)
        if message.reply:
            effects += self.dissemination.answer(peer, now)
        self.foreign_lineages.heard((record for record, _ in message.records), now)
        return effects + (self._view_changed(now) if changed else [])

    def _from_outsider(self, peer: PeerId, message: PeerMessage, now: float) -> Effects:
        """Refuse what only those do that take part in the run."""
        self.admission.count("not on the roster")
        return [Send(peer, NotHeld(message.state))] if isinstance(message, Want) else []

    def _roster_changed(self, now: float) -> Effects:
        """Greet those that have come to take part, and forget those that no longer do."""
        sync, effects = self.roster_sync, Effects()
        left, sync.left = sync.left, []
        for peer in left:
            effects += self._left(peer, now)
        joined, sync.joined = sync.joined, []
        for peer in joined:
            # What it said before it was one of us was not listened to.
            effects += [*self.roster_sync.greet(peer, now), *self.dissemination.ask(peer, now)]
        return effects + (self._view_changed(now) if left else [])

    # --- the view ---------------------------------------------------------------------------------

    def _view_changed(self, now: float) -> Effects:
        effects = [*self.group_search.view_changed(now), *self._settle(now), *self.base_sync.look(now)]
        if self.view.is_large_swarm() and self.view.phase is not Phase.SYNCING:
            # Where there are many something changes all the time, and nothing that cannot wait for the beat.
            return effects
        effects += self.state_sync.look_for_donors(now) + self._check_behind(now)
        return effects + self.group_search.wait_for_no_more(now)
