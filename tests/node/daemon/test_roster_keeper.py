"""The keys of a private network that a node takes: by what founders signed, and by the wall clock."""

import time
from pathlib import Path

import pytest
import trio
from rosters import NOW, World, key, public

from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.rotations import Rotation, fingerprint, sealed_for
from shoal.gossip.member.commands import Event
from shoal.node.daemon.roster_keeper import RosterKeeper
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.storage.home import Home

WORLD = World()
OLD, NEW = bytes(32), bytes([1]) * 32
HOUR = 3600


class Deaf(Surroundings):
    def command(self, event: Event) -> None:
        pass


def rotation(*members: str) -> Rotation:
    return Rotation(
        charter=WORLD.charter.id,
        under=WORLD.charter.first_founders.id,
        epoch=1,
        former=fingerprint(OLD),
        new=fingerprint(NEW),
        until=NOW + 24 * HOUR,
        boxes=sealed_for(NEW, map(public, members)),
    ).signed_by(key("ann"), key("bob"))


class Noted:
    """Links that note which keys they are to use."""

    def __init__(self, keys: list[tuple[bytes, ...]]) -> None:
        self.use_network_keys = keys.append

    def show_invite(self, words: bytes) -> None:
        pass


def keeper(home: Path, told: list[tuple[bytes, ...]]) -> RosterKeeper:
    made = RosterKeeper(Home(home), key("carl"), Admission(8), Deaf(), Noted(told), OLD)
    made.use(str(WORLD.charter))
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("carl",), [(OLD,), (NEW, OLD), (NEW,)]),
        (("dora",), [(OLD,)]),
    ],
)
def test_a_node_takes_both_keys_for_a_day_and_finds_them_again_on_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], expected: list[tuple[bytes, ...]]
) -> None:
    clock = [float(NOW)]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    told: list[tuple[bytes, ...]] = []

    async def main() -> None:
        node = keeper(tmp_path, told)
        node.submit((*WORLD.admit("carl", "dora"), rotation(*given)))
        for hours in (23, 25):
            clock[0] = NOW + hours * HOUR
            node.see_to_keys()
        is_told = any("none to this node" in each for each in node.problems(b"", trio.current_time()))
        assert is_told == ("carl" not in given)
        again: list[tuple[bytes, ...]] = []
        keeper(tmp_path, again)
        assert again == expected[-1:]

    trio.run(main)
    assert told == expected
