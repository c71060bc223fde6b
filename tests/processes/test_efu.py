"""Real nodes of which one forgets: nothing that another node shows, and no log, tells which."""

from pathlib import Path

import pytest
from swarm import Swarm, wait_agreement, wait_until

from shoal.methods.learning.forgetting import Note, Request
from shoal.node.storage.forget_file import ForgetFile
from shoal.node.storage.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EFU = (
    *("--task", "paced:Paced", "--task-option", "pause=0.01", "--method", "efu"),
    *("--option", "steps=12", "--option", "attack_steps=2", "--wait-for", "3"),
)


def test_what_a_node_takes_back_only_its_own_disk_knows(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *EFU)
        nodes = [one, *(swarm.start(name, *EFU, join=one) for name in ("two", "three"))]
        one.wait("makes a round with all", lambda s: any(each.contributors == 3 for each in s.history))
        file = ForgetFile(Home(one.home).state_dir)
        file.ask(Request(classes=(0,), rounds=2))

        def unlearned() -> tuple[Note, ...]:
            found = file.read()
            notes = () if found is None else found.notes
            return notes if sum(note.unlearned for note in notes) == 2 else ()

        notes = wait_until("two rounds unlearn", unlearned)
        wait_agreement(nodes, least=notes[-1].round + 1)
        for node in nodes:
            states = {each.round: each.state_hash for each in node.status.history}
            # What the forgetter noted is what all hold.
            assert all(note.state_after.startswith(states[note.round]) for note in notes)
            assert all(len(note.peers) == 3 for note in notes)
            assert not {word for word in ("forg", "unlearn") if word in node.log.lower()}
            told = {name for each in node.status.history for name in each.metrics}
            assert told == {"clipped"}
