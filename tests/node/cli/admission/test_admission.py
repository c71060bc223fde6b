"""Commands that decide who may join, on homes without a running node; each ends in words or one line."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.crypto.keys import PeerId, public_key_of
from shoal.gossip.admission.grants import Grant
from shoal.gossip.admission.tokens import Token
from shoal.node.cli.main import main


class Homes:
    """Commands in the homes of one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def run(self, *words: str, home: str = "one", code: int = 0) -> str:
        """Run a command; returns what it printed, errors where it failed."""
        self._capsys.readouterr()
        assert main([*words, "--home", str(self.folder / home)]) == code
        out = self._capsys.readouterr()
        return (out.out if code == 0 else out.err).strip()

    def json(self, *words: str, home: str = "one") -> Any:
        return json.loads(self.run(*words, "--json", home=home))

    def peer(self, home: str) -> str:
        return str(self.json("init", home=home)["peer_id"])

    def key(self, number: int) -> str:
        return str(self.folder / f"founder-{number}.key")

    def found(self, *words: str) -> Any:
        return self.json("found", "--out", str(self.folder), *words)


@pytest.fixture
def homes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Homes:
    monkeypatch.chdir(tmp_path)
    return Homes(tmp_path, capsys)


def members(homes: Homes) -> set[str]:
    return {each["peer"] for each in homes.json("members")["members"]}


def test_founding_sets_the_charter_and_admits_this_node(homes: Homes) -> None:
    made = homes.found("--founders", "3", "--threshold", "2", "--mode", "closed")
    assert [Path(each).stat().st_mode & 0o777 for each in made["keys"]] == [0o600] * 3
    assert made["charter"].startswith("closed:2:1:")
    assert homes.json("config", "show")["run.charter"]["value"] == made["charter"]
    assert members(homes) == {made["peer_id"]}


def test_nobody_founds_twice_in_a_home_nor_over_a_key(homes: Homes) -> None:
    homes.found()
    assert "has a charter already" in homes.run("found", code=1)
    assert "choose another folder with --out" in homes.run(
        "found", "--out", str(homes.folder), home="two", code=1
    )


def test_one_founder_of_one_admits_bans_and_pardons(homes: Homes) -> None:
    homes.found()
    dora, sign = homes.peer("dora"), ("--sign", homes.key(1))
    assert homes.json("admit", dora, *sign)["added"] is True
    assert dora in members(homes)
    homes.run("ban", dora, *sign, "--for", "7d", "--reason", "noise")
    assert dora not in members(homes)
    (ban,) = homes.json("members")["bans"]
    assert (ban["peer"], ban["by"], ban["reason"]) == (dora, "founders", "noise")
    assert ban["until"] > 0
    homes.run("pardon", dora, *sign)
    assert dora in members(homes)
    assert [each["verb"] for each in homes.json("edict", "list")].count("ban") == 1


def word_of(charter: str, inviter: PeerId, **changes: Any) -> str:
    """Return what `shoal invite` of a node prints."""
    token = Token(run=bytes(32), swarm="s", settings={"charter": charter}, inviter=public_key_of(inviter))
    return msgspec.structs.replace(token, **changes).text()


def test_a_newcomer_is_admitted_by_the_word_that_its_own_node_printed(homes: Homes) -> None:
    charter = homes.found("--mode", "closed")["charter"]
    other = PeerId(homes.peer("two"))
    homes.json("admit", word_of(charter, other), "--sign", homes.key(1))
    assert other in members(homes)


def test_a_word_for_one_node_admits_that_node_and_not_the_one_that_printed_it(homes: Homes) -> None:
    charter = homes.found("--mode", "closed")["charter"]
    inviter, guest = PeerId(homes.peer("two")), PeerId(homes.peer("three"))
    grant = Grant(bytes(32), public_key_of(inviter), public_key_of(guest), bytes(16), 1, is_named=True)
    homes.json("admit", word_of(charter, inviter, chain=(grant,)), "--sign", homes.key(1))
    assert guest in members(homes)
    assert inviter not in members(homes)


def test_a_word_of_another_run_or_a_cut_one_admits_nobody(homes: Homes) -> None:
    charter = homes.found()["charter"]
    other = PeerId(homes.peer("two"))
    word = word_of("", other)
    sign = ("--sign", homes.key(1))
    assert "of another run" in homes.run("admit", word, *sign, code=2)
    cut = word_of(charter, other)[:-3]
    assert "copy all of what shoal invite printed" in homes.run("admit", cut, *sign, code=2)
    assert len(members(homes)) == 1


def test_two_of_three_founders_sign_one_after_the_other_in_any_place(homes: Homes) -> None:
    homes.found("--founders", "3", "--threshold", "2")
    dora = homes.peer("dora")
    part = homes.json("admit", dora, "--sign", homes.key(1))
    assert (part["added"], dora in members(homes)) == (False, False)
    assert "1 of the 2 founders" in part["lacking"]
    (homes.folder / "part.txt").write_text(part["text"])
    whole = homes.json("cosign", "part.txt", "--sign", homes.key(3), home="elsewhere")
    assert whole["added"] is False  # no node of the run
    assert "1 of the 2" in homes.run("edict", "add", part["text"], code=1)
    homes.run("edict", "add", whole["text"])
    assert dora in members(homes)


def test_without_a_founder_s_key_a_ban_is_of_this_node_and_says_so(homes: Homes) -> None:
    dora = homes.peer("dora")
    assert "this node refuses" in homes.run("ban", dora)
    (ban,) = homes.json("members")["bans"]
    assert (ban["peer"], ban["by"]) == (dora, "this node")
    homes.run("pardon", dora)
    assert homes.json("members")["bans"] == []


def test_founders_are_replaced_once_old_and_new_have_signed(homes: Homes) -> None:
    homes.found("--founders", "2", "--threshold", "1")
    old = homes.json("members")["founders"]
    changed = homes.json("edict", "founders", old[1], "--threshold", "1", "--sign", homes.key(2))
    assert changed["added"] is True
    assert homes.json("members")["founders"] == [old[1]]
    assert "no founder of the run" in homes.run("admit", homes.peer("dora"), "--sign", homes.key(1), code=2)


@pytest.mark.parametrize(
    ("words", "why", "code"),
    [
        (("admit", "PEER"), "--sign founder-1.key", 2),
        (("admit", "nobody", "--sign", "KEY"), "shoal id prints", 2),
        (("ban", "PEER", "--for", "soon", "--sign", "KEY"), "such as 7d", 2),
        (("ban", "nobody"), "shoal id prints", 2),
        (("edict", "add", "nonsense"), "neither an edict nor a file", 2),
        (("edict", "revoke", "1234", "--sign", "KEY"), "64 hex digits", 2),
        (("admit", "PEER", "--sign", "nowhere.key"), "there is no nowhere.key", 1),
        (("invite",), "no node runs", 1),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    homes: Homes, words: tuple[str, ...], why: str, code: int
) -> None:
    homes.found()
    known = {"PEER": homes.peer("dora"), "KEY": homes.key(1)}
    said = homes.run(*(known.get(word, word) for word in words), code=code)
    assert why in said
    assert len(said.splitlines()) == 1


def test_a_run_without_founders_has_nobody_to_admit(homes: Homes) -> None:
    homes.found()
    said = homes.run("admit", homes.peer("dora"), "--sign", homes.key(1), home="dora", code=2)
    assert "this run has no founders" in said
    assert "open" in homes.run("members", home="dora")


def test_a_key_of_a_private_network_is_printed_whole(
    homes: Homes, capsys: pytest.CaptureFixture[str]
) -> None:
    from shoal.gossip.psk_file import key_of

    capsys.readouterr()
    assert main(["key", "new"]) == 0
    assert len(key_of(capsys.readouterr().out)) == 32


def private(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Put the homes into a private network; returns its key."""
    from shoal.gossip.psk_file import key_of, text_of

    text = text_of(bytes(range(32)))
    path = homes.folder / "swarm.key"
    path.write_text(text)
    path.chmod(0o600)
    monkeypatch.setenv("SHOAL_NETWORK_KEY_FILE", str(path))
    return key_of(text)


def shown(homes: Homes, *words: str, home: str = "one") -> bytes:
    from shoal.gossip.psk_file import key_of

    return key_of(homes.json("key", "show", *words, home=home)["key"])


def test_a_founder_changes_the_key_of_a_private_network(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = private(homes, monkeypatch)
    made = homes.found()
    dora, sign = homes.peer("dora"), ("--sign", homes.key(1))
    homes.run("admit", dora, *sign)
    assert shown(homes) == former
    told = homes.json("key", "rotate", *sign)
    assert (told["added"], told["members"]) == (True, 2)
    new = shown(homes)
    assert new != former
    # A member that was away hears it as text, in whatever way; nobody else can open it.
    of = ("--charter", made["charter"])
    homes.peer("emil")
    for home, expected in (("dora", new), ("emil", former)):
        homes.run("edict", "add", told["texts"][0], *of, home=home)
        assert shown(homes, *of, home=home) == expected
    assert [each["verb"] for each in homes.json("edict", "list")].count("rotate_key") == 1
    homes.run("key", "rotate", *sign)
    assert shown(homes) not in (former, new)


def test_two_founders_change_the_key_one_after_the_other(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = private(homes, monkeypatch)
    homes.found("--founders", "3", "--threshold", "2")
    told = homes.json("key", "rotate", "--sign", homes.key(1))
    assert not told["added"]
    assert "1 of the 2" in told["lacking"]
    assert shown(homes) == former
    homes.run("cosign", told["texts"][0], "--sign", homes.key(3))
    assert shown(homes) != former


@pytest.mark.parametrize(
    ("mode", "is_private", "words", "why"),
    [
        ("invite", False, (), "in no private network"),
        ("invite", True, ("--keep", "soon"), "write a number"),
        ("open", True, (), "no list of members"),
    ],
)
def test_a_key_that_cannot_be_changed_is_said_in_one_line(
    homes: Homes,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    is_private: bool,
    words: tuple[str, ...],
    why: str,
) -> None:
    if is_private:
        private(homes, monkeypatch)
    homes.found("--mode", mode)
    said = homes.run("key", "rotate", "--sign", homes.key(1), *words, code=2)
    assert why in said
    assert len(said.splitlines()) == 1
