"""Which runs a node hears of, and what it believes of them."""

import msgspec
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.heard_runs import MAX_RUNS, MAX_SPECS, HeardRuns
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.messages import Presence, Record
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id


def spec(name: str = "other", **settings: object) -> RunSpec:
    tensors = (TensorSpec("w", "float32", (4,)),)
    return RunSpec(method="diloco", task="digits", tensors=tensors, name=name, **settings)  # type: ignore[arg-type]


class Swarm:
    """What one node hears."""

    def __init__(self) -> None:
        self.table = PresenceTable(PeerId("me"))
        self.runs = HeardRuns(self.table)

    def hear(
        self, peer: str, run: bytes, name: str = "other", round_: int = 3, linked: bool = True
    ) -> PeerId:
        author = PeerId(peer)
        presence = Presence(run, "other", round_, b"s" * 32, b"", "working", 12.0)
        self.table.update(Record(author, 1, presence), 0.0, 0.0)
        if linked:
            self.table.connected.add(author)
        return author


def text(of: RunSpec) -> bytes:
    return msgspec.msgpack.encode(of)


def test_a_run_is_heard_of_by_records_and_known_by_its_settings() -> None:
    swarm, other = Swarm(), spec()
    for number, round_ in enumerate((7, 9, 1 << 39)):
        swarm.hear(f"p{number}", run_id(other), round_=round_, linked=number < 2)
    [heard] = swarm.runs.found({})
    assert (heard.name, heard.peers, heard.linked, heard.round, heard.spec) == ("other", 3, 2, 9, None)
    swarm.runs.told(PeerId("p0"), text(other))
    [heard] = swarm.runs.found({})
    assert heard.spec == other


def test_nobody_says_falsely_what_a_run_does() -> None:
    swarm, other = Swarm(), spec()
    liar = swarm.hear("liar", run_id(other))
    for said in (text(spec(quorum=3)), b"", b"\xc1", bytes(100)):
        swarm.runs.told(liar, said)
    swarm.runs.told(PeerId("stranger"), text(other))
    assert [each.spec for each in swarm.runs.found({})] == [None]


def test_ours_comes_first_and_then_those_of_the_most_linked_peers() -> None:
    swarm, ours, other = Swarm(), spec("ours"), spec()
    for number in range(40):
        swarm.hear(f"far{number}", bytes([number]) * 32, linked=False)
    swarm.hear("near", run_id(other))
    found = swarm.runs.found({run_id(ours): ours})
    assert len(found) == MAX_RUNS
    assert [(each.name, each.peers, each.spec) for each in found[:2]] == [
        ("ours", 0, ours),
        ("other", 1, None),
    ]


def test_a_helper_is_in_no_run() -> None:
    swarm = Swarm()
    swarm.hear("helper", b"")
    assert swarm.runs.found({}) == []


def test_the_settings_of_so_many_runs_are_kept_and_no_more() -> None:
    swarm = Swarm()
    for number in range(MAX_SPECS + 5):
        each = spec(quorum=number % 60 + 1, rounds=number)
        swarm.runs.told(swarm.hear(f"p{number}", run_id(each)), text(each))
    assert len(swarm.runs._specs) == MAX_SPECS


@pytest.mark.parametrize("again", [False, True])
def test_what_is_known_is_not_read_again(again: bool) -> None:
    swarm, other = Swarm(), spec()
    peer = swarm.hear("p", run_id(other))
    if again:
        swarm.runs.told(peer, text(other))
    assert swarm.runs.wants(peer) is not again
