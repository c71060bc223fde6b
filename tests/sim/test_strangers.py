"""Strangers in a simulated swarm: what an outsider with many keys comes to, and a member that cuts all."""

import pytest
from sim.lineage_liars import state_of
from sim.world import Scenario, Sim

from shoal.crypto.keys import PeerId

OUTSIDER = 3


def outsider(lie: str) -> Sim:
    """Return a swarm of three that know each other well when a fourth comes and lies."""
    fault = (61.0, "lie", OUTSIDER, lie, 40.0)
    starts = (0.0, 0.0, 0.0, 60.0)
    return Sim(Scenario(1, 4, (fault,), starts=starts, trust=(3, 8.0), calm_rounds=5))


def states_held(sim: Sim) -> set[bytes]:
    """Return the states that the three held since the outsider came, after a run."""
    held: set[bytes] = set()
    names: list[PeerId] = sim.names[:OUTSIDER]
    look = sim.handled

    def handled(node: object, event: object) -> None:
        look(node, event)  # type: ignore[arg-type]
        held.update(node.member.state for node in map(sim.nodes.get, names) if node is not None and node.life)

    sim.handled = handled  # type: ignore[method-assign]
    violations = sim.run().violations
    assert not violations, violations
    return held


@pytest.mark.parametrize("lie", ["lineage", "nan-state"])
def test_an_outsider_with_many_keys_moves_nobody_from_its_colleagues(lie: str) -> None:
    sim = outsider(lie)
    assert state_of(lie) not in states_held(sim)
    assert all(sim.nodes[name].member.view.colleagues.colleagues() for name in sim.names[:OUTSIDER])
