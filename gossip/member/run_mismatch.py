"""RunMismatch: peers that mean to be in one run, and are not, tell each other what their specs differ in.

A run is named by the hash of its spec, so of another's one cannot see what is other. Who hears of a peer in
a run of the same name, but of another hash, sends it the spec; the receiver says where the two differ.

A helper is told the spec too, unless the run is closed: its user sees which runs there are (heard_runs.py).
"""

from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import parse
from shoal.gossip.events import Effects, Notify, Send
from shoal.gossip.member.commands import Refused
from shoal.gossip.membership.heard_runs import HeardRuns
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Describe, Presence
from shoal.gossip.run_spec import RunSpec, difference

DESCRIBE_EVERY: Final = 30.0
"""Seconds between two copies of our spec to one peer: it is large, and a peer may name any number of runs."""
TELL_EVERY: Final = 600.0
"""The same, to a helper."""
MAX_DESCRIBED: Final = 128
"""Peers of another spec that are remembered."""
MAX_SPEC_BYTES: Final = 200_000
UNKNOWN_SETTINGS: Final = (
    "other run spec: it has settings that this node does not know; run the same shoal on both"
)


class RunMismatch:
    """What one node tells of its spec. See the module's docstring."""

    def __init__(self, view: SwarmView) -> None:
        """`view`: what the node knows of its swarm."""
        self._view = view
        self.heard = HeardRuns(view.table)
        self.described: dict[PeerId, float] = {}
        """Until when a peer of another spec is not told ours again."""

    def met(self, peer: PeerId, presence: Presence, now: float) -> Effects:
        """A linked peer said which run it is in: tell it our spec if it means to be in ours."""
        spec, is_helper = self._view.spec, not presence.run
        if spec is None or presence.run == self._view.run or now < self.described.get(peer, 0.0):
            return []
        if parse(spec.charter).mode == "closed" if is_helper else presence.run_name != spec.name:
            return []
        if len(self.described) > MAX_DESCRIBED:
            self.described.clear()
        self.described[peer] = now + (TELL_EVERY if is_helper else DESCRIBE_EVERY)
        text = msgspec.msgpack.encode(spec)
        return [Send(peer, Describe(text))] if len(text) <= MAX_SPEC_BYTES else []

    def handle(self, peer: PeerId, message: Describe) -> Effects:
        """A peer told its spec: say what is other than in ours."""
        self.heard.told(peer, message.spec)
        if self._view.spec is None:
            return []
        try:
            theirs = msgspec.msgpack.decode(message.spec, type=RunSpec)
        except msgspec.ValidationError:
            # A newer build may know a setting that this one does not, or allow other values.
            return [Notify(Refused(peer, UNKNOWN_SETTINGS))]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return []
        text = difference(self._view.spec, theirs)
        return [Notify(Refused(peer, f"other run spec: {text}"))] if text else []
