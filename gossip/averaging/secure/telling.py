"""Telling: every member's small body to all others, once, and no more.

Unlike in a gather (gather.py) members may end with unlike sets of bodies, and nobody commits itself first. So
this is for words of which it does not matter who hears them, but that enough are heard: that a member saw the
same, and shares, of which any set opens the same secret. It takes one message for each pair of members.
"""

from shoal.gossip.averaging.gather import Gather, Step
from shoal.gossip.deadlines import Progress
from shoal.gossip.events import Data, Drop, Effects, SetTimer, Timer
from shoal.gossip.messages import Reveal


class Telling(Gather):
    """One member's side. A member that is lost before it told anything is waited for no longer."""

    def begin(self, now: float) -> Effects:
        """Tell all others."""
        self._heard = dict.fromkeys(range(len(self._members)), now)
        self._began, self._due = now, now + self.config.silence_timeout
        for member in self._others:
            patience, longest = self.config.silence_timeout * self._patience_with(member), self.config.longest
            self._progress[member] = Progress(now, patience, longest, len(self._held[self._mine]))
        self.step = Step.REVEALING
        told = self._to_all(Reveal(self.group.id, self.index, self._mine), self._held[self._mine])
        return [*told, *self._tick(now), *self._advance(now)]

    def _handle_reveal(self, sender: int, message: Reveal, data: Data, now: float) -> Effects:
        if len(data) > len(self._held[self._mine]) or message.member != sender:
            return [Drop(self._members[sender], "told something else"), *self._lose(sender, now)]
        self._held.setdefault(sender, bytes(data))
        self._note_given("body", sender, now)
        return self._advance(now)

    def _advance(self, now: float) -> Effects:
        if self.step is not Step.REVEALING or self._awaited():
            return []
        self.step = Step.DONE
        self.bodies = tuple(sorted((self._members[m], body) for m, body in self._held.items()))
        return [SetTimer(float("inf"), Timer.GATHER)]
