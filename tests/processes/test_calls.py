"""Calls and roles between real processes: the toy of split learning (tests/tasks/split.py)."""

from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hosts import config
from swarm import Node, Swarm

from shoal.crypto.keys import new_key
from shoal.gossip.calls.answering import NO_VERB, OTHER_RUN
from shoal.gossip.events import PeerFound, PeerLost
from shoal.gossip.messages import Answer, Call
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.wire import Codec
from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPLIT: Final = ("--task", "split:Split", "--patience", "4")
ENVIRON: Final = {"SHOAL_TESTING_TRAINER": "split"}
ATTACKERS: Final = 4
DATA: Final = bytes(65536)
MALFORMED: Final = 2500
"""Calls of each attacker."""
MEGABYTES: Final = 250
"""By which they may let a host grow; they send 655. What a link may hold unread is 16."""


def start(swarm: Swarm, name: str, *flags: str, join: Node | None = None) -> Node:
    return swarm.start(name, *SPLIT, *flags, join=[join] if join else (), environ=ENVIRON)


def answered(status: Status) -> int:
    """Return how many rounds of late averaged with others and left no call unanswered."""
    rounds = [each for each in status.history if each.outcome == "averaged"]
    return sum(each.metrics.get("unanswered") == 0 for each in rounds[-3:])


async def attack(address: str, run: bytes) -> None:
    """Send malformed calls until the victim ends the link: first those that are counted, then strikes."""
    key, shapes = new_key(), (("v", (16384,)),)
    of_run: list[Any] = [Call(run, "other", b"1", shapes), Answer(run, "forward", b"1", shapes)]
    mild = [*of_run, Call(bytes(32), "forward", b"1", shapes)]
    codec = Codec(key, "shoal", 1)
    async with open_host(key, config()) as host:
        host.dial_nowait(address)
        with trio.fail_after(60):
            while not isinstance(found := await host.next_event(), PeerFound):
                pass
            for number in range(MALFORMED - 40):
                host.send_nowait(found.peer, codec.encode(mild[number % 3]), DATA)
            for number in range(40):
                wrong = Call(run, "forward", b"%d" % number, shapes)
                host.send_nowait(found.peer, codec.encode(wrong), DATA)
            while not isinstance(await host.next_event(), PeerLost):
                pass


async def attack_together(address: str, run: bytes) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(ATTACKERS):
            nursery.start_soon(attack, address, run)


def test_a_host_serves_under_a_flood_and_is_replaced_when_it_dies(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        host = start(swarm, "host", "--role", "host")
        one = start(swarm, "one", "--task-option", "x=1.0", join=host)
        two = start(swarm, "two", "--task-option", "x=2.0", "--role", "client", join=host)
        one.wait("three rounds without a call unanswered", lambda status: answered(status) == 3)
        assert max(each.contributors for each in one.status.history) == 3

        rss = host.status.rss_bytes
        run = host.status.run
        assert run is not None
        trio.run(attack_together, host.address, bytes.fromhex(run.run_id))
        drops = host.wait("all are counted", lambda status: sum(status.drops.values()) > 9900).drops
        for reason in (NO_VERB, OTHER_RUN):
            assert drops[f"call refused: {reason}"] > 3000, drops
        assert drops["answer that nobody waits for"] > 3000, drops
        assert drops["call with a shape outside its form"] >= ATTACKERS * 32, drops
        assert host.status.rss_bytes < rss + MEGABYTES * 2**20
        before = one.status.round
        one.wait("it serves on", lambda s: s.round > before + 3 and answered(s) == 3)

        host.kill()
        before = one.status.round
        two.wait("three more, served by the other", lambda s: s.round > before + 3 and answered(s) == 3)
        assert "holds the role host" in one.log
