"""The daemon's parts that need no network: what it loads, what it prints, what it makes of errors."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from rosters import World

from shoal.crypto.keys import PeerId, key_from_seed
from shoal.gossip.host import HostStatistics
from shoal.gossip.member.commands import RosterChanged
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import Libp2pHost
from shoal.node.cli import main as cli
from shoal.node.cli import start
from shoal.node.config.settings import NodeConfig, RunConfig, load
from shoal.node.daemon.daemon import Daemon, Ground
from shoal.node.daemon.disk import _is_owed, disk_advice
from shoal.node.daemon.journal import door_line
from shoal.node.daemon.process import _only_user_error
from shoal.node.daemon.status_report import added, best_address, dialled_at, join_command
from shoal.node.errors import BadConfig, BadHome, UserError
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home
from shoal.node.storage.roster_file import load_roster

ADDRESS = "/ip4/192.0.2.1/tcp/4710/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_whatever_the_daemon_may_need_loads_neither_torch_nor_the_learning() -> None:
    script = """
import sys
import shoal.node.cli.main
import shoal.node.cli.start
import shoal.node.daemon.process
import shoal.node.testnet.cli
print(sorted({"torch", "sklearn", "scipy", "hivemind", "shoal.methods.learning.learner"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network": HostConfig(swarm="a swarm of two words")},
        {
            "run": RunConfig(
                task="digits", rounds=7, seed=3, group_size=4, quorum=2, codec="float16", name="x", delay=1
            )
        },
        {
            "run": RunConfig(
                task="my.task:Mine",
                method="fedprox",
                options={"mu": 0.1, "steps": 5, "on": True, "of": "a b"},
            )
        },
    ],
)
def test_the_printed_command_joins_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = NodeConfig(home=tmp_path, **changes)
    given: list[dict[str, object]] = []

    def run(home: object, flags: dict[str, object]) -> int:
        given.append(flags)
        return 0

    monkeypatch.setattr(start, "_run", run)
    words = shlex.split(join_command(config, ["/ip4/127.0.0.1/tcp/4710", ADDRESS]))
    assert words[0] == "shoal"
    assert cli.main(words[1:]) == 0
    joined, _ = load(tmp_path, given[0], {})
    assert joined.join == (ADDRESS,)
    assert joined.network.swarm == config.network.swarm
    assert joined.run == config.run


@pytest.mark.parametrize(("flags", "said"), [({}, "by clip"), ({"run.combine": "mean"}, "by mean")])
def test_an_open_run_says_at_its_start_how_it_combines(
    tmp_path: Path, flags: dict[str, object], said: str
) -> None:
    config, _ = load(tmp_path, {"run.task": "digits", **flags}, {})
    assert f"open run: anyone may take part, and combines {said};" in door_line(config)


def test_the_address_shown_is_one_that_others_can_reach() -> None:
    loopback = "/ip4/127.0.0.1/tcp/4710"
    assert best_address([loopback, "/ip6/::1/tcp/4710", ADDRESS]) == ADDRESS
    assert best_address([loopback]) == loopback
    assert best_address([]) == ""
    # A command without an address would start a swarm of its own.
    assert join_command(NodeConfig(home=Path()), []) == ""


def test_a_reason_that_two_layers_count_adds_up() -> None:
    assert added({"handshake": 2, "queue full": 1}, {"handshake": 3}, {}) == {"handshake": 5, "queue full": 1}


def test_the_address_shown_of_a_peer_is_one_that_can_be_dialled() -> None:
    peer, other = PeerId("peer"), PeerId("other")
    told = ("/ip4/10.0.0.1/tcp/4710/p2p/peer", "/ip4/192.0.2.9/tcp/4710/p2p/peer")
    inbound = HostStatistics(
        links={peer: ("/ip4/192.0.2.9/tcp/50123/p2p/peer", "direct")}, inbound=frozenset({peer})
    )
    assert dialled_at(peer, told, inbound) == told[1]
    assert dialled_at(peer, told[:1], inbound) == told[0]
    assert dialled_at(peer, (), inbound) == ""
    assert dialled_at(other, told, inbound) == told[0]
    outbound = HostStatistics(links={peer: ("/ip4/198.51.100.1/tcp/9/p2p/peer", "direct")})
    assert dialled_at(peer, told, outbound) == "/ip4/198.51.100.1/tcp/9/p2p/peer"


def test_an_error_that_a_user_made_is_found_in_the_nurseries_around_it() -> None:
    mistake = BadConfig("port 1 is not for you")
    assert _only_user_error(ExceptionGroup("", [ExceptionGroup("", [mistake])])) is mistake
    assert _only_user_error(ExceptionGroup("", [mistake, ValueError()])) is None
    assert _only_user_error(ExceptionGroup("", [ValueError()])) is None


def test_an_error_of_the_disk_says_what_to_do() -> None:
    text = disk_advice(Path("home/shoal.db"), OSError("disk I/O error"))
    assert text.startswith("cannot write home/shoal.db: disk I/O error; ")
    assert "--home" in text
    own: UserError = BadHome("says it already")
    assert disk_advice(Path(), own) == "says it already"


def ground(home: Path, nursery: trio.Nursery) -> Ground:
    """Return what a daemon stands on, with a host that does not run."""
    key, made = key_from_seed(bytes(32)), Home(home)
    host = Libp2pHost(key, HostConfig(listen=()))
    return Ground(made, key, b"", Store(made.database), host, nursery, trio.Event())


def test_a_killed_node_whose_clock_was_set_back_goes_on_above_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, now = NodeConfig(home=tmp_path), time.time_ns()

    async def start_and_die() -> int:
        async with trio.open_nursery() as nursery:
            daemon = Daemon(config, ground(tmp_path, nursery), lambda events, status: None)
            said = daemon.driver.member.sequence
            daemon.disk._jobs.receive_nowait()()
            daemon.disk._store._database.close()
        return said

    first = trio.run(start_and_die)
    assert first >= now // 1000
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    assert trio.run(start_and_die) > first


def test_what_founders_signed_is_on_its_way_to_the_disk_as_soon_as_it_is_heard(tmp_path: Path) -> None:
    world = World()
    config = NodeConfig(home=tmp_path, run=RunConfig(charter=str(world.charter)))

    async def hear_and_die() -> None:
        async with trio.open_nursery() as nursery:
            stands_on = ground(tmp_path, nursery)
            daemon = Daemon(config, stands_on, lambda events, status: None)
            roster = stands_on.host.admission.roster
            assert roster is not None
            roster.add(world.edict("admit", "dora"))
            daemon._notice(RosterChanged())
            while (jobs := daemon.disk._jobs).statistics().current_buffer_used:
                jobs.receive_nowait()()
            daemon.disk._store._database.close()

    trio.run(hear_and_die)
    assert load_roster(Home(tmp_path), world.charter)[0].words


@pytest.mark.parametrize(
    ("name", "vector", "is_owed"),
    [
        ("0.sent", np.ones(3, np.float32), True),
        ("12.made", np.zeros(3, np.float32), True),
        ("0.kept", np.ones(3, np.float32), False),
        ("one.sent", np.ones(3, np.float32), False),
        ("9999999.sent", np.ones(3, np.float32), False),
        ("0.sent", np.ones(3), False),
        ("0.sent", np.ones((3, 1), np.float32), False),
        ("0.sent", np.array([np.nan], np.float32), False),
    ],
)
def test_only_what_codecs_may_owe_is_taken_from_the_disk(name: str, vector: Any, is_owed: bool) -> None:
    assert _is_owed(name, vector) == is_owed
