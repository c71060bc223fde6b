"""Faults: what may happen to a simulated swarm, each a plain tuple ``(time, kind, arguments…)``.

crash    node, effects, power, down   dies after so many more effects; back after `down` seconds (0: never)
outage   nodes, power, down           these crash at once, and come back at once
leave    node, down                   says goodbye and ends
trainer  node, down                   the trainer process dies
freeze   node, seconds                SIGSTOP, SIGCONT
split    nodes, seconds, quiet        these against the rest; quiet: links break by keep-alive only
oneway   from, to, seconds            nothing arrives
break    one, other                   the link between two breaks
tired    node, factor                 its local work takes longer from now on
slow     node, rate, seconds          bulk leaves at this many bytes per second
jump     node, seconds                the clock leaps ahead; negative: it is set back at the next start
lossy    chance, seconds              frames have to be sent again
lie      node, how, seconds           see liars.py
unlike   node, seconds                its method asks for something else than that of the others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from sim.liars import stop_lying, tell_lies

from shoal.gossip.member import commands

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Fault, Sim

MAX_PACE: Final = 12.0
"""Seconds: a run has to end some time."""


def plan(sim: Sim, fault: Fault) -> None:
    """Put a fault into a world's plan."""
    when, kind, *arguments = fault
    _KINDS[kind](sim, when, *arguments)


def end_of(fault: Fault) -> float:
    """Return when a fault is over, so that peace may be expected from then on."""
    when, kind, *arguments = fault
    lasts: dict[str, Callable[[], float]] = {
        "crash": lambda: arguments[3],
        "outage": lambda: arguments[2],
        "leave": lambda: arguments[1],
        "trainer": lambda: arguments[1],
        "freeze": lambda: arguments[1],
        "split": lambda: arguments[1],
        "oneway": lambda: arguments[2],
        "slow": lambda: arguments[2],
        "lossy": lambda: arguments[1],
        "lie": lambda: arguments[2],
        "unlike": lambda: arguments[1],
    }
    return float(when + lasts.get(kind, lambda: 0.0)())


def _node(sim: Sim, number: int) -> SimNode:
    return sim.nodes[sim.name(number)]


def _crash(sim: Sim, when: float, number: int, effects: int, power: bool, down: float) -> None:
    node = _node(sim, number)

    def arm() -> None:
        if not node.is_alive:
            return
        if effects == 0:
            sim.crashed(node, power)
        else:
            node.die_in = effects

    sim.at(when, arm)
    if down > 0:
        # Armed and not yet dead by then: nothing more happened to it, so it dies now and comes back.
        sim.at(when + down, lambda: sim.crashed(node, power) if node.die_in >= 0 else None)
        sim.at(when + down, lambda: sim.started(node))


def _outage(sim: Sim, when: float, numbers: tuple[int, ...], power: bool, down: float) -> None:
    for number in numbers:
        _crash(sim, when, number, 0, power, down)


def _leave(sim: Sim, when: float, number: int, down: float) -> None:
    node = _node(sim, number)

    def end(life: int) -> None:
        if node.life == life:
            node.save_last()
            sim.crashed(node)

    def leave() -> None:
        if node.is_alive and not node.is_frozen:
            node.act(node.rounds.stop)
            node.act(lambda: node.command(commands.Goodbye()))
            sim.at(sim.now + 0.3, end, node.life)

    sim.at(when, leave)
    if down > 0:
        sim.at(when + down, lambda: sim.started(node))


def _trainer(sim: Sim, when: float, number: int, down: float) -> None:
    node = _node(sim, number)

    def kill() -> None:
        if node.is_alive and node.trainer is not None and not node.is_frozen:
            node.act(node.kill_trainer)

    def restart() -> None:
        if node.is_alive and node.trainer is None and not node.is_helper:
            node.act(node.start_trainer)

    sim.at(when, kill)
    sim.at(when + down, restart)


def _freeze(sim: Sim, when: float, number: int, seconds: float) -> None:
    node = _node(sim, number)
    sim.at(when, sim.freeze, node)

    def thaw() -> None:
        if node.is_frozen:
            node.thaw()

    sim.at(when + seconds, thaw)


def _split(sim: Sim, when: float, numbers: tuple[int, ...], seconds: float, quiet: bool) -> None:
    inside = [sim.name(number) for number in numbers]
    outside = [peer for peer in sim.names if peer not in inside]
    for one, other in product(inside, outside):
        for ends in ((one, other), (other, one)):
            sim.at(when, sim.block, *ends)
            sim.at(when + seconds, sim.unblock, *ends)
        if not quiet:
            sim.at(when, sim.break_link, one, other, 1.0)


def _oneway(sim: Sim, when: float, sender: int, to: int, seconds: float) -> None:
    sim.at(when, sim.block, sim.name(sender), sim.name(to))
    sim.at(when + seconds, sim.unblock, sim.name(sender), sim.name(to))


def _break(sim: Sim, when: float, one: int, other: int) -> None:
    sim.at(when, sim.break_link, sim.name(one), sim.name(other), 2.0)


def _slow(sim: Sim, when: float, number: int, rate: float, seconds: float) -> None:
    peer = sim.name(number)
    sim.at(when, lambda: sim.network.bandwidth.update({peer: rate}))

    def end() -> None:
        sim.network.quicken(peer, sim.now)

    sim.at(when + seconds, end)


def _tired(sim: Sim, when: float, number: int, factor: float) -> None:
    node = _node(sim, number)

    def tire() -> None:
        node.pace = min(MAX_PACE, factor * node.pace)
        if node.trainer is not None:
            node.trainer.pace = node.pace

    sim.at(when, tire)


def _jump(sim: Sim, when: float, number: int, seconds: float) -> None:
    node = _node(sim, number)

    def leap() -> None:
        if seconds < 0:
            node.set_back += seconds
            return
        node.clock.offset += seconds
        node.plan_timers()

    sim.at(when, leap)


def _lossy(sim: Sim, when: float, chance: float, seconds: float) -> None:
    calm = sim.network.weather

    def storm(weather: Any) -> None:
        sim.network.weather = weather

    sim.at(when, storm, replace(calm, loss=chance))
    sim.at(when + seconds, storm, calm)


def _lie(sim: Sim, when: float, number: int, how: str, seconds: float) -> None:
    # From the start, since what a liar said before may be used by it later.
    sim.oracle.liars[sim.name(number)] += 1
    sim.at(when, tell_lies, sim, _node(sim, number), how)
    sim.at(when + seconds, stop_lying, sim, _node(sim, number))


def _unlike(sim: Sim, when: float, number: int, seconds: float) -> None:
    node = _node(sim, number)
    sim.at(when, setattr, node, "tag", "something else")
    sim.at(when + seconds, setattr, node, "tag", "params")


_KINDS: dict[str, Callable[..., None]] = {
    "crash": _crash,
    "outage": _outage,
    "leave": _leave,
    "trainer": _trainer,
    "freeze": _freeze,
    "split": _split,
    "oneway": _oneway,
    "break": _break,
    "slow": _slow,
    "jump": _jump,
    "tired": _tired,
    "lossy": _lossy,
    "lie": _lie,
    "unlike": _unlike,
}
