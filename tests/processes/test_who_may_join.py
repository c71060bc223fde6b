"""Real processes behind a door: founded, invited, admitted, banned; and a private network."""

import json
import subprocess
from pathlib import Path

import pytest
from swarm import NODE, TRAIN, Node, Swarm, environment

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


LIGHT = {"SHOAL_TESTING_TRAINER": "light"}


def says(status: Status, problem: str) -> bool:
    return any(problem in each for each in status.problems)


def shoal(*words: str) -> str:
    """Run a command of shoal and return what it prints."""
    ran = subprocess.run([*NODE, *words], capture_output=True, text=True, env=environment(), check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def averaged_with(status: Status, least: int) -> bool:
    return any(each.outcome == "averaged" and each.contributors >= least for each in status.history)


def founded(swarm: Swarm, tmp_path: Path, *words: str) -> tuple[Node, Path]:
    """Return the running first node of a run with a door, and its founder's key."""
    shoal("found", "--home", str(tmp_path / "one"), "--out", str(tmp_path), *words)
    one = swarm.start("one", *TRAIN)
    one.wait("trains", lambda status: status.round >= 1)
    return one, tmp_path / "founder-1.key"


def peer_of(home: Path) -> str:
    return str(json.loads(shoal("init", "--home", str(home), "--json"))["peer_id"])


def test_an_invite_is_all_that_a_newcomer_types_and_an_outsider_gets_nothing(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one, key = founded(swarm, tmp_path)
        two = swarm.start("two", "--invite", shoal("invite", "--home", str(one.home)), environ=LIGHT)
        two.wait("averages", lambda status: averaged_with(status, 2))
        outsider = peer_of(tmp_path / "out")
        out = swarm.start("out", *TRAIN, "--charter", one.status.charter, join=one)
        out.wait(
            "knows that it is out",
            lambda status: says(status, "not on the roster"),
        )
        out.wait("hears of the state", lambda status: bool(status.peers) and status.run is not None)
        one.wait("refuses it", lambda status: status.drops.get("not on the roster", 0) > 0)
        assert out.status.round == 0

        shoal("admit", outsider, "--sign", str(key), "--home", str(two.home))
        out.wait("averages once it is admitted", lambda status: averaged_with(status, 3))
        assert not out.status.problems
        members = json.loads(shoal("members", "--home", str(out.home), "--json"))
        assert len(members["members"]) == 3

        shoal("ban", outsider, "--sign", str(key), "--home", str(one.home), "--reason", "it lies")
        for node in (one, two):
            node.wait("goes on without it", lambda status: len(status.peers) == 1)
        out.wait("hears of its ban", lambda status: says(status, "banned this node"))


def test_a_founder_s_words_hold_after_all_nodes_were_started_again(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one, key = founded(swarm, tmp_path, "--mode", "closed")
        two_home = tmp_path / "two"
        two_peer = peer_of(two_home)
        shoal("admit", two_peer, "--sign", str(key), "--home", str(one.home))
        flags = (*TRAIN, "--charter", one.status.charter)
        two = swarm.start("two", *flags, join=one)
        two.wait("averages", lambda status: averaged_with(status, 2))
        for node in (one, two):
            node.kill()
        two.start(*flags)  # the book knows where the first is reached, and it is not there
        two.wait("is on the roster", lambda status: status.run is not None and not says(status, "roster"))
        one.start(*TRAIN, "--join", two.address)
        for node in (one, two):
            node.wait("averages again", lambda status: averaged_with(status, 2))


def test_without_the_key_of_a_private_network_nobody_gets_in(tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("swarm.key", "other.key")]
    for path in keys:
        path.write_text(shoal("key", "new") + "\n")
        path.chmod(0o600)
    private = {"SHOAL_NETWORK_KEY_FILE": str(keys[0])}
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, environ=private)
        two = swarm.start("two", *TRAIN, join=one, environ=private)
        two.wait("averages", lambda status: averaged_with(status, 2))
        other = swarm.start("other", *TRAIN, join=one, environ={"SHOAL_NETWORK_KEY_FILE": str(keys[1])})
        none = swarm.start("none", *TRAIN, join=one)
        for node in (other, none):
            node.wait("is refused", lambda status: any(each.state == "failed" for each in status.bootstrap))
        assert other.status.bootstrap[0].reason == "other private network"
        assert not none.status.peers


def test_the_key_of_a_private_network_changes_under_a_running_swarm(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(shoal("key", "new") + "\n")
    path.chmod(0o600)
    private = {"SHOAL_NETWORK_KEY_FILE": str(path), **LIGHT}
    with Swarm(tmp_path) as swarm:
        shoal("found", "--home", str(tmp_path / "one"), "--out", str(tmp_path))
        one = swarm.start("one", *TRAIN, environ=private)
        one.wait("trains", lambda status: status.round >= 1)
        word = shoal("invite", "--uses", "2", "--home", str(one.home))
        two = swarm.start("two", "--invite", word, environ=private)
        two.wait("averages", lambda status: averaged_with(status, 2))
        two.kill()

        sign = ("--sign", str(tmp_path / "founder-1.key"))
        environ = environment(**private)
        said = subprocess.run(
            [*NODE, "key", "rotate", *sign, "--home", str(one.home), "--json"],
            capture_output=True, text=True, env=environ, check=True,
        )  # fmt: skip
        assert json.loads(said.stdout)["added"]
        shown = subprocess.run(
            [*NODE, "key", "show", "--home", str(one.home)],
            capture_output=True, text=True, env=environ, check=True,
        ).stdout  # fmt: skip
        assert shown.split() != path.read_text().split()

        two.start("--invite", word, environ=private)  # it was away, and comes with the former key
        two.wait("averages again", lambda status: averaged_with(status, 2))
        new = tmp_path / "new.key"
        new.write_text(shown)
        new.chmod(0o600)
        three = swarm.start(
            "three", "--invite", word, environ={**private, "SHOAL_NETWORK_KEY_FILE": str(new)}
        )
        three.wait("averages with the new key alone", lambda status: averaged_with(status, 3))
