"""The door of a testnet: a roster of its own nodes, found by each of them on its disk."""

import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.gossip.admission.charter import parse
from shoal.node.storage.home import Home
from shoal.node.storage.roster_file import load_roster
from shoal.node.testnet.network.door import KEY_NAME, with_door
from shoal.node.testnet.plan import Plan, start_command


@pytest.mark.parametrize("mode", ["closed", "invite"])
def test_each_node_finds_all_nodes_on_its_roster(tmp_path: Path, mode: str) -> None:
    plan = replace(Plan(nodes=3), mode=mode)
    made = with_door(plan, tmp_path, lambda index: tmp_path / f"node-{index}")
    homes = [Home(tmp_path / f"node-{index}") for index in (1, 2, 3)]
    charter = parse(made.charter)
    assert charter.mode == mode
    for home in homes:
        assert load_roster(home, charter)[0].members(time.time()) == {each.peer_id() for each in homes}
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert made.charter in start_command(made, 1, homes[0].path, (), ())


def test_a_plan_that_was_run_in_peace_first_gets_a_door_of_its_own(tmp_path: Path) -> None:
    plan = Plan(nodes=2)
    one = with_door(plan, tmp_path, lambda index: tmp_path / "a" / str(index))
    other = with_door(plan.calm, tmp_path, lambda index: tmp_path / "b" / str(index))
    assert one.charter != other.charter


@pytest.mark.parametrize("change", [{"mode": "open"}, {"engine": "hivemind"}])
def test_an_open_testnet_has_no_charter(tmp_path: Path, change: dict[str, str]) -> None:
    plan = replace(Plan(nodes=2), **change)
    assert with_door(plan, tmp_path, lambda index: tmp_path / str(index)) == plan
    assert not list(tmp_path.iterdir())
