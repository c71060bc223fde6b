"""Scenario files, simulated: the plan that real processes are put through, in virtual time.

    plan of a TOML file --actions of its schedule--> faults of the simulator --Sim--> Result

The schedule is the testnet's own (testnet/fault_schedule.py), so the same nodes are killed, frozen and cut
off at the same moments. What a node trains, and for how long, is the simulator's: a vector of some numbers,
a second per round. Lines keep their delay and loss; a slow one is as much slower as the model is smaller.
What must hold is what holds in every simulated run (docs/simulation.md): the `[holds]` of a file are bounds
in seconds and points of accuracy, which only processes have.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sim.network import Weather
from sim.world import Fault, Scenario

from shoal.node.testnet.fault_injection.schedule import AFTER, Action, actions
from shoal.node.testnet.plan import BadPlan

if TYPE_CHECKING:
    from shoal.node.testnet.plan import Plan

FIRST_ROUND: Final = 6.0
"""Virtual seconds: a schedule counts from the first round, which has ended by then."""
ROUND: Final = 1.0
"""Seconds of local work."""
LONGEST: Final = 600.0
"""Seconds of a schedule that are simulated at most."""
SMALLER: Final = 280
"""By how much the simulated vector is smaller than the perceptron of the digits."""
MAX_NODES: Final = 64
KINDS: Final = {"kill": "crash", "pause": "freeze", "split": "split", "slow": "slow"}


def scenario_of(plan: Plan, seed: int) -> Scenario:
    """Return a plan as the simulator's scenario; the seed draws who is hit, delays and dice.

    Raises:
        BadPlan: the plan is none that can be simulated.
    """
    if plan.nodes > MAX_NODES:
        raise BadPlan(
            f"{plan.nodes} nodes are too many to simulate whole: at most {MAX_NODES}; see make scale"
        )
    if not plan.shares:
        raise BadPlan(f"method {plan.method} exchanges nothing that could be simulated")
    plan = msgspec.structs.replace(plan, seed=seed)
    link, pairwise = plan.link, plan.exchange == "pairwise"
    return Scenario(
        seed,
        plan.nodes,
        faults=tuple(_faults(plan)),
        paces=(ROUND,),
        topology="star",
        group_size=plan.group_size,
        quorum=plan.effective_quorum,
        wait_for=plan.nodes,
        pushes=plan.pushes_per_round if pairwise else 0,
        weather=Weather(
            latency=max(link.latency, 0.001),
            spread=1.2,
            jitter=min(1.0, link.jitter / link.latency) if link.latency else 0.1,
            loss=link.loss,
        ),
    )


def _faults(plan: Plan) -> list[Fault]:
    end = min(plan.seconds - plan.quiet_end if plan.seconds else plan.rounds * ROUND, LONGEST)
    planned = list(takewhile(lambda action: action.at <= end, actions(plan)))
    found = []
    for number, action in enumerate(planned):
        if action.kind in KINDS:
            over = (a.at for a in planned[number + 1 :] if _ends(a, action))
            lasts = next(over, end if not action.lasts else action.at + _default(plan)) - action.at
            found += _one(action, round(max(lasts, 0.1), 3))
    return found


def _default(plan: Plan) -> float:
    """Return how long a fault lasts whose end is beyond the schedule's."""
    return max([fault.seconds for fault in plan.faults], default=0.0) or 5.0


def _ends(later: Action, action: Action) -> bool:
    return later.kind == AFTER[action.kind] and later.nodes == action.nodes


def _one(action: Action, seconds: float) -> list[Fault]:
    at = FIRST_ROUND + action.at
    numbers = tuple(node - 1 for node in action.nodes)
    each: dict[str, tuple[Any, ...]] = {
        "kill": (0, False, seconds if action.lasts else 0.0),
        "pause": (seconds,),
        "slow": (_rate(action), seconds),
    }
    if action.kind == "split":
        # As a cable that is pulled: nobody is told.
        return [(at, "split", numbers, seconds, True)]
    return [(at, KINDS[action.kind], number, *each[action.kind]) for number in numbers]


def _rate(action: Action) -> float:
    mbit = action.link.bandwidth_mbit if action.link is not None else 0.0
    return max(50.0, (mbit or 1000.0) * 125_000 / SMALLER)
