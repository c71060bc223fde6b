"""Hosting: the generator of a peer that holds a stage of the body.

    wait ──forward of all that called the last time, or the deadline──> one pass ── answers ──> wait for grads
      ^                                                                                            |
      '──── the body steps; answers ──── grads of all of them, or the deadline: who is gone is zero ─┘

A forward that comes meanwhile is kept for the next pass. A client that is late is refused, and goes on with
its next step. Calls are idempotent by (peer, verb, step), so that nothing acts twice.

Hosts of one stage, and spares, hold the same params after each averaging: every `average_every` passes a host
gives its own to the first host by name, and takes back the mean; that one gives to the spares. What each
counts is the rows since the last averaging with it; a change longer than our own is shortened to that.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.asks import Everyone, Refusal, Request
from shoal.gossip.calls.forms import Tensors
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Array as StateArray
from shoal.methods.base import Steps, here
from shoal.methods.mpsl.copies import Copies
from shoal.methods.mpsl.tokens import Array, Number, heard, most_rows, told
from shoal.methods.mpsl.wire import IS_OVER, MOST_ROWS, NO_STAGE, Names
from shoal.methods.roles.serves import call, look, next_calls, reply

if TYPE_CHECKING:
    from shoal.methods.mpsl.sides import HostSide, Passed

LATE, ENDS_HERE = Refusal(IS_OVER), Refusal(NO_STAGE)
STRANGER: Final = Refusal("only hosts of the stage average")
MISFIT: Final = Refusal("other sizes than the step's")
FULL: Final = Refusal("full: too many rows in one step")
VERSIONS: Final = 1 << 22
"""Numbers for params: few enough that float32 holds four times as many exactly."""
RESTS: Final = 16
"""Averagings for which a holder that did not answer one is left out."""
MOST_HELD: Final = 4
"""Passes of which a later stage holds the graph: one per host before it, and no more."""


class Hosting:
    """One stage at one peer. The same for a host and for a spare."""

    def __init__(
        self,
        side: "HostSide",
        names: Names,
        entry: tuple[int, ...],
        *,
        average_every: int,
        number: Number,
        first_turn: int,
    ) -> None:
        """`entry`: the shape of an example's activations. `number`: how these travel.

        `first_turn`: far from those of other hostings of this node. Turns name steps, and a peer that knows
        a name answers what it answered before.
        """
        self.side, self._names, self._entry, self._number = side, names, entry, number
        self.copies, self._every = Copies(side, average_every), average_every
        self._is_resumed = False
        self.steps = 0
        """Steps that the body took here."""
        self.rows = 0
        """Of these steps."""
        self.missed = 0
        """Clients whose gradients did not come."""
        self._me, self._wrong = PeerId(""), set[PeerId]()
        self._kept: list[Request] = []
        self._turns, self._round = first_turn, 0
        self._hashed = (-1, -1), 0
        self._rests = Counter[PeerId]()

    def resume(self, saved: Mapping[str, StateArray], prefix: str) -> None:
        """Go on from what this node saved of the stage, unless it has taken a step or another's params."""
        if self._is_resumed or self.steps or self.copies.averaged:
            return
        self._is_resumed = True
        found = {name.removeprefix(prefix): each for name, each in saved.items() if name.startswith(prefix)}
        if self.side.restore(found):
            self.copies = Copies(self.side, self._every)

    def run(self) -> Steps[None]:
        """Serve for ever."""
        yield from self._join()
        while True:
            forwards, self._kept = self._kept, []
            if not forwards:
                asked = yield from next_calls(*self._names.all, until=Everyone())
                forwards = yield from self._aside(asked.calls)
            if forwards:
                yield from self._catch_up()
                yield from self._pass(forwards)
            yield from self._average()

    # --- a step -----------------------------------------------------------------------------------

    def _pass(self, forwards: Sequence[Request]) -> Steps[None]:
        """Make one pass for these rows, wait for their gradients, and take a step."""
        forwards = yield from self._admitted(forwards)
        outputs, passed = yield from self._forward([heard("z", each.tensors) for each in forwards])
        if passed is None:
            yield from reply((each, ENDS_HERE) for each in forwards)
            return
        yield from reply((each, {"y": y}) for each, y in zip(forwards, outputs, strict=True))
        everyone = Everyone(tuple(each.peer for each in forwards))
        asked = yield from next_calls(*self._names.all, until=everyone)
        wanted = {(each.peer, each.step): place for place, each in enumerate(forwards)}
        grads: dict[int, Request] = {}
        others = []
        for each in asked.calls:
            place = wanted.get((each.peer, each.step)) if each.verb == self._names.grad else None
            if place is not None and each.tensors["g"].shape == outputs[place].shape:
                grads[place] = each
            else:
                others.append(each)
        self.missed += len(forwards) - len(grads)
        if grads:
            yield from self._step(passed, grads)
        # Afterwards: what others give us changes the params that the pass was made with.
        self._kept = yield from self._aside(others)

    def _admitted(self, forwards: Sequence[Request]) -> Steps[list[Request]]:
        """Return those whose rows one call to the next stage holds, and refuse the others."""
        if self._names.after is None:
            return list(forwards)
        most = min(MOST_ROWS, most_rows(self._entry, self._number))
        total, kept = 0, []
        for each in forwards:
            total += len(each.tensors["z"])
            kept += [each] if total <= most else []
        yield from reply((each, FULL) for each in forwards[len(kept) :])
        return kept

    def _step(self, passed: "Passed", grads: Mapping[int, Request]) -> Steps[None]:
        """Take a step with the gradients that came; the rows of the others count for nothing."""
        came = float(sum(passed.rows[place] for place in grads))
        told_ = [grads[place].tensors["g"] if place in grads else None for place in range(len(passed.rows))]
        back = yield from self._backward(passed, told_, came)
        if back is None:
            yield from reply((each, ENDS_HERE) for each in grads.values())
            return
        self._count(came)
        divisor = np.array([came], np.float32)
        yield from reply(
            (each, {**told("dz", back[place], self._number), "n": divisor}) for place, each in grads.items()
        )

    def _count(self, rows: float) -> None:
        self.steps += 1
        self.rows += int(rows)
        self.copies.passes += 1
        self.copies.rows += rows

    def _forward(self, rows: Sequence[Array]) -> "Steps[tuple[list[Array], Passed | None]]":
        """Return outputs, through the later stages too, and what `_backward` needs; None: no next stage."""
        outputs, passed = self.side.forward(rows)
        after = self._names.after
        if after is None:
            return outputs, passed
        self._turns += 1
        step = b"%d" % self._turns
        joined = np.concatenate(outputs)
        to, tensors = (yield from self._onward(after)), told("z", joined, self._number)
        try:
            answer = yield from call(to, after.forward, tensors, step=step)
        except Unanswered:
            return [], None
        if len(answer.tensors["y"]) != len(joined):
            self._wrong.add(answer.peer)
            return [], None
        cuts = np.cumsum(passed.rows)[:-1]
        onward = replace(passed, onward=(answer.peer, step), left=joined.shape)
        return np.split(answer.tensors["y"], cuts), onward

    def _onward(self, after: Names) -> Steps[list[PeerId]]:
        """Return the holders of the next stage; who answered as no honest one does comes last."""
        found = yield from holders(after)
        self._wrong.intersection_update(found)
        return sorted(found, key=lambda peer: peer in self._wrong)

    def _backward(
        self, passed: "Passed", gradients: Sequence[Array | None], came: float
    ) -> Steps[list[Array] | None]:
        """Return the gradients of what came in; all divided by the rows that came."""
        after = self._names.after
        if after is None:
            return self.side.step(passed, gradients, came)
        assert passed.onward is not None
        peer, step = passed.onward
        shape = next(each.shape[1:] for each in gradients if each is not None)
        whole = [
            np.zeros((count, *shape), np.float32) if each is None else each
            for each, count in zip(gradients, passed.rows, strict=True)
        ]
        tensors = {"g": np.concatenate(whole), "n": np.array([came], np.float32)}
        try:
            answer = yield from call((peer,), after.grad, tensors, step=step)
        except Unanswered:
            return None
        between = heard("dz", answer.tensors)
        if between.shape != passed.left:
            self._wrong.add(peer)
            return None
        # The last stage has divided already.
        return self.side.step(passed, np.split(between, np.cumsum(passed.rows)[:-1]), 1.0, bounded=False)

    # --- calls beside the steps -------------------------------------------------------------------

    def _aside(self, calls: Iterable[Request]) -> Steps[list[Request]]:
        """Answer all that is no forward; returns those that are one, of the right sizes."""
        forwards, answers = [], list[tuple[Request, Tensors | Refusal]]()
        trusted: Sequence[PeerId] | None = None
        for each in calls:
            if "z" in each.tensors and not self._fits(each):
                answers.append((each, MISFIT))
            elif each.verb == self._names.forward:
                forwards.append(each)
            elif each.verb == self._names.predict:
                answers.append((each, (yield from self._predict(each))))
            elif each.verb == self._names.grad:
                answers.append((each, LATE))
            else:
                trusted = (yield from holders(self._names)) if trusted is None else trusted
                answers.append((each, self._copy(each) if each.peer in trusted else STRANGER))
        if answers:
            yield from reply(answers)
        return forwards

    def _fits(self, request: Request) -> bool:
        shape = request.tensors["z"].shape
        return shape[0] > 0 and shape[1:] == self._entry

    def _predict(self, request: Request) -> Steps[Tensors | Refusal]:
        y, version = self.side.predict(heard("z", request.tensors)), self._version()
        after = self._names.after
        if after is None:
            return {"y": y, "v": version}
        self._turns += 1
        to, tensors = (yield from self._onward(after)), told("z", y, self._number)
        try:
            answer = yield from call(to, after.predict, tensors, step=b"%d" % self._turns, is_last=True)
        except Unanswered:
            return ENDS_HERE
        theirs = answer.tensors["v"]
        mixed = (version * 3 + theirs) % VERSIONS if theirs.shape == (1,) else theirs
        return {"y": answer.tensors["y"], "v": mixed}

    def _version(self) -> Array:
        """Return a number for the params, float32 [1]: the same for the same bytes."""
        at = (self.steps, self.copies.averaged)
        if self._hashed[0] != at:
            digest = blake2b(self.side.vector().tobytes(), digest_size=8).digest()
            self._hashed = at, int.from_bytes(digest, "big") % VERSIONS
        return np.array([self._hashed[1]], np.float32)

    def _copy(self, request: Request) -> Tensors | Refusal:
        """Take in a piece of another holder's params, or give out one of ours."""
        n = request.tensors["n"]
        if n.shape != (2,):
            return MISFIT
        if request.verb == self._names.give:
            fits = self.copies.arrive(request.peer, int(n[0]), float(n[1]), request.tensors["w"])
            return {"n": n} if fits else MISFIT
        piece = self.copies.leave(request.peer, int(n[0]))
        return MISFIT if piece is None else {"w": piece}

    # --- the other holders ------------------------------------------------------------------------

    def _join(self) -> Steps[None]:
        """Begin with what another holder has; in round 0 all hold the same."""
        me = yield from here()
        self._me, self._round = me.peer, me.round
        if me.round == 0:
            return
        for peer in (yield from holders(self._names)):
            if peer != self._me and (yield from self._take(peer)):
                return

    def _catch_up(self) -> Steps[None]:
        """Take another holder's params where rounds passed without a step here.

        This node was frozen or cut off, and a spare served in its place. It does not tell us: two that call
        each other at once would wait for each other.
        """
        round_ = (yield from here()).round
        if round_ > self._round + 1:
            yield from self._join()
        self._round = round_

    def _average(self) -> Steps[None]:
        """Agree with the first host where it is time to; that one hands on to the spares."""
        if not self.copies.is_due:
            return
        self.copies.begin()
        hosts = sorted(each.peer for each in (yield from look(self._names.role)))
        if self._me in hosts[1:]:
            if (yield from self._give(hosts[0])):
                yield from self._take(hosts[0])
            return
        for peer in (yield from holders(self._names)):
            if peer not in hosts and peer != self._me:
                yield from self._give(peer)

    def _give(self, peer: PeerId) -> Steps[bool]:
        """Send our params to a holder; tells whether it has them."""
        if self._rests[peer] > 0:
            self._rests[peer] -= 1
            self._rests = +self._rests  # forgets those that have none
            return False
        vector, rows = self.side.vector(), self.copies.since(peer)
        self._turns += 1
        for index in range(self.copies.n_chunks):
            tensors = {"w": self.copies.chunk(index, vector), "n": np.array([index, rows], np.float32)}
            step = b"%d/%d" % (self._turns, index)
            try:
                yield from call((peer,), self._names.give, tensors, step=step, is_last=True)
            except Unanswered:
                # All clients have waited for that deadline.
                self._rests[peer] = RESTS
                return False
        self.copies.settle(peer, vector)
        return True

    def _take(self, peer: PeerId) -> Steps[bool]:
        """Go on from another holder's params; tells whether they came."""
        pieces = []
        self._turns += 1
        for index in range(self.copies.n_chunks):
            tensors = {"n": np.array([index, 0], np.float32)}
            step = b"%d/%d" % (self._turns, index)
            try:
                answer = yield from call((peer,), self._names.take, tensors, step=step, is_last=True)
            except Unanswered:
                return False
            pieces.append(answer.tensors["w"])
        params = np.concatenate(pieces)
        if params.shape != (self.side.numel,):
            return False
        self.side.load(params)
        self.copies.settle(peer, params)
        return True


class LaterStage(Hosting):
    """A stage after the first: hosts of the one before call it, and it waits for nobody."""

    def run(self) -> Steps[None]:
        """Serve for ever."""
        yield from self._join()
        held: dict[tuple[PeerId, bytes], tuple[Passed, list[Array]]] = {}
        while True:
            asked = yield from next_calls(*self._names.all)
            grads = [each for each in asked.calls if (each.peer, each.step) in held and "g" in each.tensors]
            others = [each for each in asked.calls if each not in grads]
            for each in grads:
                yield from self._answer_grad(each, held.pop((each.peer, each.step)))
            if any(each.verb == self._names.forward for each in others):
                yield from self._catch_up()
            for each in (yield from self._aside(others)):
                outputs, passed = yield from self._forward([heard("z", each.tensors)])
                if passed is None:
                    yield from reply([(each, ENDS_HERE)])
                    continue
                held[each.peer, each.step] = passed, outputs
                if len(held) > MOST_HELD:
                    assert self._names.before is not None
                    del held[given_up(held, (yield from holders(self._names.before)))]
                yield from reply([(each, {"y": outputs[0]})])
            yield from self._average()

    def _answer_grad(self, request: Request, held: "tuple[Passed, list[Array]]") -> Steps[None]:
        passed, outputs = held
        g, n = request.tensors["g"], request.tensors["n"]
        if g.shape != outputs[0].shape or n.shape != (1,) or not 1 <= n[0] <= len(g):
            yield from reply([(request, MISFIT)])
            return
        back = yield from self._backward(passed, [g], float(n[0]))
        if back is None:
            yield from reply([(request, ENDS_HERE)])
            return
        self._count(float(n[0]))
        yield from reply([(request, {**told("dz", back[0], self._number), "n": n})])


def given_up(held: Iterable[tuple[PeerId, bytes]], before: Container[PeerId]) -> tuple[PeerId, bytes]:
    """Return the pass to give up: anybody may call, so those of the holders of the stage before go last.

    `held`: peer and step of each, the oldest first. Of equals the oldest goes, and of those who have more
    passes than others, before any of theirs.
    """
    passes = list(held)
    many = Counter(peer for peer, _ in passes)
    return min(passes, key=lambda each: (each[0] in before, -many[each[0]]))


def holders(names: Names) -> Steps[list[PeerId]]:
    """Return the hosts of a stage, the quickest first, then those that hold a copy."""
    hosts = [each.peer for each in (yield from look(names.role))]
    spares = [each.peer for each in (yield from look(names.spare))]
    return hosts + [peer for peer in spares if peer not in hosts]
