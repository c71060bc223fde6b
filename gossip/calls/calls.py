"""Calls: all that one node does about calls and roles, as one core.

The member hands it messages, links and timers; the node, what its trainer asks. It sends, and tells the node
what came of it. It never waits, and nothing of a round waits for it.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.calls.answering import Answering, StepName
from shoal.gossip.calls.asking import Asking
from shoal.gossip.calls.asks import Holder, Next
from shoal.gossip.calls.forms import Forms
from shoal.gossip.calls.role_table import RoleTable
from shoal.gossip.calls.tally import Tally
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Data, Drop, Effect, Effects, Notify, Send, SetTimer, Timer
from shoal.gossip.messages import Answer, Call, CallMessage, Roles, Shapes, Unserved

INFINITY: Final = float("inf")


@dataclass(frozen=True, slots=True)
class RoleTaken:
    """This node holds the role from now on: its trainer is to serve it."""

    role: str


class Calls:
    """See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        patience: float,
        lease: float,
        linked: AbstractSet[PeerId],
        admission: Admission,
    ) -> None:
        """`linked`: the peers with links, as they are at any time.

        `admission`: counts what is dropped, and says whose links are to be cut.
        """
        self._me, self._linked, self._admission = me, linked, admission
        self._run = b""
        self.roles = RoleTable(me, lease, linked)
        self.answering = Answering(me, patience, linked, admission)
        self.tally = Tally()
        self.asking = Asking(me, patience, linked, admission, self.tally)
        self._timer = INFINITY

    @property
    def is_on(self) -> bool:
        """Whether the run has roles."""
        return bool(self.roles.of_run)

    # --- the trainer ------------------------------------------------------------------------------

    def attach(
        self,
        run: bytes,
        forms: Forms,
        roles: tuple[str, ...],
        ability: float,
        now: float,
        *,
        is_willing: bool,
        takes: frozenset[str],
    ) -> Effects:
        """A trainer of a method with roles is there; see `RoleTable.attach`."""
        self._run = run
        self.tally.clear()
        self.answering.attach(run, forms)
        self.asking.attach(run, forms)
        self.roles.attach(roles, ability, now, is_willing=is_willing, takes=takes)
        return self._after([*self._take_roles(now), *self._tell()], now)

    def detach(self, now: float) -> Effects:
        """The trainer is gone, and with it what it held."""
        if not self.is_on:
            return []
        effects: Effects = [Send(peer, told) for peer, told in self.answering.detach() if peer != self._me]
        self.asking.detach()
        self.roles.detach()
        return self._after([*effects, *self._tell()], now)

    def call(
        self,
        id_: int,
        to: tuple[PeerId, ...] | str,
        verb: str,
        step: bytes,
        shapes: Shapes,
        data: Data,
        now: float,
        *,
        is_last: bool = False,
    ) -> Effects:
        """The trainer calls; see `asks.Call`. Tensors come packed."""
        if isinstance(to, str):
            peers = tuple(each.peer for each in self.holders(to, now))
            to = peers if to in self.roles.of_run else (PeerId(to),)
        message = Call(self._run, verb, step, shapes, is_last)
        return self._after(self.asking.call(id_, to, message, data, now), now)

    def want(self, role: str, ask: Next, now: float) -> Effects:
        """The trainer, in one of its roles, asks for calls."""
        self.answering.want(role, ask, now)
        return self._after([], now)

    def reply(self, answers: Iterable[tuple[StepName, Shapes, Data, str]], now: float) -> Effects:
        """The trainer answers: the step, and tensors or why not."""
        effects: Effects = []
        for name, shapes, data, refusal in answers:
            self.tally.replied(name, now)
            told = self.answering.reply(name, shapes, data, refusal)
            if told is not None:
                effects.append(Send(name[0], *told))
        return self._after(effects, now)

    def leave(self, role: str, now: float) -> Effects:
        """The trainer serves a role no longer, and does not take it again."""
        self.roles.leave(role)
        self.answering.leave(role)
        return self._after(self._tell(), now)

    def holders(self, role: str, now: float) -> tuple[Holder, ...]:
        """Return who holds a role, in the order in which a call tries them."""
        ability = dict(self.roles.holders(role, now))
        ordered = self.asking.order(list(ability.items()), now)
        return tuple(Holder(peer, ability[peer], seconds) for peer, seconds in ordered)

    # --- peers ------------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: CallMessage | Roles, data: Data, now: float) -> Effects:
        """Take a message of a peer."""
        try:
            effects = self._take(peer, message, data, now)
        except RemoteViolation as violation:
            self._admission.count(violation.reason)
            effects = []
            if isinstance(message, Answer):
                effects = self.asking.broke(peer, message.verb, message.step, now)
            if self._admission.strike(peer):
                effects.append(Drop(peer, violation.reason))
        return self._after(effects, now)

    def _take(self, peer: PeerId, message: CallMessage | Roles, data: Data, now: float) -> Effects:
        match message:
            case Roles():
                self.roles.told(peer, message, now)
                return self._take_roles(now)
            case Call():
                return [Send(*said) for said in self.answering.called(peer, message, data, now)]
            case Answer():
                self.asking.answered(peer, message, data, now)
                return []
            case Unserved():
                return self.asking.unserved(peer, message, now)

    def found(self, peer: PeerId, now: float) -> Effects:
        """A link to this peer is up."""
        if not self.is_on:
            return []
        return self._after([Send(peer, self.roles.ours()), *self.asking.found(peer)], now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """The last link to this peer is gone."""
        self.roles.lost(peer)
        self.answering.lost(peer)
        return self._after(self.asking.lost(peer, now), now)

    def arriving(self, peer: PeerId, now: float) -> None:
        """Bytes of a bulk message of this peer have come."""
        self.asking.arriving(peer, now)

    # --- time -------------------------------------------------------------------------------------

    def timer(self, now: float) -> Effects:
        """`Timer.CALLS` has fired."""
        self._timer = INFINITY
        return self._after(self.asking.timer(now), now)

    def beat(self, now: float) -> Effects:
        """Say what we hold, and look whether we should hold more."""
        if not self.is_on:
            return []
        return self._after([*self._take_roles(now), *self._tell()], now)

    # --- inside -----------------------------------------------------------------------------------

    def _tell(self) -> Effects:
        return [Send(peer, self.roles.ours()) for peer in sorted(self._linked)]

    def _take_roles(self, now: float) -> Effects:
        taken = self.roles.to_take(self.asking.longest_wait, now)
        self.answering.roles |= set(taken)
        effects: Effects = [Notify(RoleTaken(role)) for role in taken]
        return [*effects, *self._tell()] if taken else effects

    def _after(self, effects: Effects, now: float) -> Effects:
        """Settle what this node says to itself, tell the node what is ready, and set the timer."""
        done: Effects = []
        while effects:
            effect, *effects = effects
            if isinstance(effect, Send) and effect.peer == self._me:
                effects = [*effects, *self._to_self(effect, now)]
            else:
                done.append(effect)
        done += self._notices(now)
        soonest = min(self.asking.due, self.answering.due)
        if soonest != self._timer:
            self._timer = soonest
            done.append(SetTimer(soonest, Timer.CALLS))
        return done

    def _to_self(self, effect: Send, now: float) -> Effects:
        message, data = effect.message, effect.data
        assert isinstance(message, Call | Answer | Unserved)
        return self._take(self._me, message, bytes(data), now)

    def _notices(self, now: float) -> list[Effect]:
        ended, self.asking.ended = self.asking.ended, []
        handed = self.answering.ready(now)
        for call in (call for each in handed for call in each.calls):
            self.tally.handed(call.name, call.since, now)
        return [*map(Notify, ended), *map(Notify, handed)]
