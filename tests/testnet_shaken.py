"""A shaken swarm by hand: four nodes, twenty rounds, the fourth was killed once and came back.

A round ends every `ROUND` seconds; node 4 is killed after round 2, started again in round 4, has
loaded in the round before, and the swarm's state after, round `BACK_AT`.
"""

from collections.abc import Sequence

from testnet_fakes import status

from shoal.node.status import RoundStatus
from shoal.node.testnet.event_log import Event
from shoal.node.testnet.invariants import Shaken
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.watch import Observed

PLAN = Plan(nodes=4, rounds=20, bar=0.9)
ROUND = 10.0
BACK_AT = 7


def ended(round_: int, late: float = 0.0) -> float:
    return 100.0 + ROUND * round_ + late


def a_round(
    round_: int, *, outcome: str = "averaged", contributors: int = 4, late: float = 0.0, state: str = ""
) -> RoundStatus:
    hash_ = state or f"{round_:012x}"
    return RoundStatus(
        round_, outcome, contributors, 0.1, {"accuracy": 0.95}, 1, 1, 1, ended(round_, late), hash_
    )


def node(index: int, rounds: Sequence[RoundStatus]) -> Observed:
    found = Observed(f"node-{index}")
    found.take(status(name=found.name, history=sorted(rounds, key=lambda r: r.finished_at), pid=index))
    return found


def contributors(round_: int) -> int:
    return 3 if 2 < round_ <= BACK_AT else 4


def swarm() -> list[Observed]:
    whole = [a_round(r, contributors=contributors(r)) for r in range(20)]
    nodes = [node(i, whole) for i in (1, 2, 3)]
    synced = a_round(BACK_AT, outcome="synced", contributors=0, late=0.5)
    fourth = node(4, [*whole[:3], synced, *whole[BACK_AT + 1 :]])
    fourth.begin_again()
    fourth.take(status(name="node-4", history=[whole[-1]], pid=5))
    return [*nodes, fourth]


EVENTS = (
    *(Event(90.0, "start", (index,)) for index in (1, 2, 3, 4)),
    Event(95.0, "loaded", (1, 2, 3, 4)),
    Event(101.0, "running"),
    Event(ended(2, 1.0), "kill", (4,), "schedule"),
    Event(ended(4, 1.0), "restart", (4,), "schedule"),
    Event(ended(BACK_AT - 1), "loaded", (4,)),
)
SHAKEN = Shaken(events=EVENTS, began=90.0, ended=ended(20))
