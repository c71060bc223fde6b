"""Liars of split learning: hosts and clients whose words keep their forms, and some that do not.

split-host      answers nothing, too few rows or none, numbers beyond use or that are none, another step's
                answer; says that it holds roles that it does not hold
split-client    calls again with other tensors, out of order, with gradients of what it never sent, of no
                rows; floods all verbs, of later stages and of copies too
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from sim.split import NAMED, ROWS, split_of

from shoal.gossip import messages as m
from shoal.gossip.calls.forms import Form, Tensors, pack, unpack
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Send

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Sim

    from shoal.crypto.keys import PeerId

FLOOD: Final = 3
"""Calls of a flood, to one peer and of one verb at a time."""
HUGE: Final = np.float32(3e38)
_HELD: WeakKeyDictionary[SimNode, dict[str, Any]] = WeakKeyDictionary()
"""What each said last."""


def bend_host(node: SimNode, effect: Send) -> list[Send]:
    """Answer as no honest host does."""
    message = effect.message
    form = _forms(node).get(message.verb) if isinstance(message, m.Answer) else None
    if form is None or form.gives is None:
        return [effect]
    assert isinstance(message, m.Answer)
    tensors = _read(message.shapes, effect.data, form.gives)
    held = _HELD.setdefault(node, {})
    before, held[message.verb] = held.get(message.verb), tensors
    match node.dice.randrange(8):
        case 0:
            return []
        case 1 if before is not None:
            told = before
        case 2:
            told = {name: array[:-1] for name, array in tensors.items()}
        case 3:
            told = {name: array[:0] for name, array in tensors.items()}
        case 4:
            told = {name: np.full_like(array, HUGE) for name, array in tensors.items()}
        case 5:
            return [Send(effect.peer, message, _nan(effect.data))]
        case 6:
            told = {name: -array if name != "n" else 0 * array for name, array in tensors.items()}
        case _:
            return [effect]
    shapes, data = pack(told, form.gives)
    return [Send(effect.peer, m.Answer(message.run, message.verb, message.step, shapes), data)]


def claim_roles(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    """Say that one holds every role."""
    roles = split_of(max(1, sim.scenario.stages)).roles
    return [Send(peer, m.Roles(tuple(m.RoleOffer(role, True) for role in roles), 1e9, False, 60.0))]


def bend_client(node: SimNode, effect: Send) -> list[Send]:
    """Call as no honest client does."""
    message = effect.message
    form = _forms(node).get(message.verb) if isinstance(message, m.Call) else None
    if form is None:
        return [effect]
    assert isinstance(message, m.Call)
    tensors = _read(message.shapes, effect.data, form.takes)
    held: dict[Any, Any] = _HELD.setdefault(node, {})
    before, held["call"] = held.get("call"), effect
    match node.dice.randrange(8):
        case 0:
            return [effect] * 3
        case 1:
            others = {name: array * np.float32(3) for name, array in tensors.items()}
            return [effect, _call(message, effect.peer, others, form)]
        case 2 if before is not None:
            # What it said before comes after what it says now.
            return [effect, Send(effect.peer, before.message, before.data)]
        case 3:
            return [_call(message, effect.peer, {k: each[:-1] for k, each in tensors.items()}, form)]
        case 4:
            return [_call(message, effect.peer, {k: each[:0] for k, each in tensors.items()}, form)]
        case 5:
            return [Send(effect.peer, message, _nan(effect.data))]
        case 6:
            # Gradients of a pass that nobody made, and no pass for those that come.
            return [] if message.verb.startswith("forward") else [effect]
        case _:
            return [effect]


def flood(sim: Sim, node: SimNode, peer: PeerId) -> list[Send]:
    """Call all verbs without end, within their forms."""
    run, said = node.member.run or bytes(32), list[Send]()
    for verb, form in _forms(node).items():
        for _ in range(FLOOD):
            told = {
                name: np.full(_size(each.most, node.dice.randint(0, ROWS)), node.dice.choice((0, 1, HUGE)))
                for name, each in form.takes.items()
            }
            shapes, data = pack(told, form.takes)
            step = b"%d" % node.dice.randrange(1 << 40)
            said.append(Send(peer, m.Call(run, verb, step, shapes), data))
    return said


def _size(most: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (min(most[0], rows), *most[1:])


def _forms(node: SimNode) -> dict[str, Form]:
    return dict(split_of(max(1, node.sim.scenario.stages)).verbs(None))


def _read(shapes: m.Shapes, data: Any, forms: Any) -> Tensors:
    try:
        return unpack(shapes, bytes(data), forms)
    except RemoteViolation:
        return {name: np.zeros(_size(each.most, NAMED), np.float32) for name, each in forms.items()}


def _nan(data: Any) -> bytes:
    return np.full(len(bytes(data)) // 4, np.nan, np.float32).tobytes()


def _call(message: m.Call, peer: PeerId, tensors: Tensors, form: Form) -> Send:
    shapes, data = pack(tensors, form.takes)
    return Send(peer, m.Call(message.run, message.verb, message.step, shapes, message.is_last), data)
