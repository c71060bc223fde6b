"""`shoal doctor` on a home: what it prints, its exit codes, and a bundle without a secret."""

import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_node import FakeNode, make_status

from shoal.gossip.admission.tokens import Token
from shoal.node.cli.main import main
from shoal.node.doctor import look
from shoal.node.doctor.bundle import LEFT_OUT, cleaner, write_bundle
from shoal.node.doctor.machine import GpuReport
from shoal.node.errors import BadHome
from shoal.node.storage.home import Home

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in os.environ:
        if name.startswith("SHOAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # Torch takes seconds to load; one slow test asks it.
    monkeypatch.setattr(look, "_gpu", lambda: GpuReport(torch="2.0"))
    made = Home(tmp_path / "home")
    made.create_key()
    made.config_file.write_text(
        '[network]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n[http]\nport = 0\n', encoding="utf-8"
    )
    return made


@pytest.fixture
def doctor(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        code = main(["doctor", *map(str, arguments)])
        ran = capsys.readouterr()
        assert ran.err == ""
        return code, ran.out

    return run


def by_check(out: str) -> dict[str, dict[str, str]]:
    return {each["check"]: each for each in json.loads(out)["findings"]}


@pytest.fixture
def listener() -> Iterator[int]:
    """Listen on a port of this machine; yields it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_machine_in_order_ends_with_0_and_with_the_command_that_starts_a_node(doctor: Run) -> None:
    code, out = doctor()
    assert code == 0, out
    assert out.splitlines()[-1] == "nothing to fix; start the node with: shoal start"


def test_a_port_that_is_taken_is_named_with_its_owner_and_another_one(
    doctor: Run, home: Home, listener: int
) -> None:
    home.config_file.write_text(f'[network]\nlisten = ["/ip4/127.0.0.1/tcp/{listener}"]\n[http]\nport = 0\n')
    code, out = doctor("--json")
    found = by_check(out)["ports"]
    assert code == json.loads(out)["exit_code"] == 1
    assert str(os.getpid()) in found["text"] or f"port {listener} on 127.0.0.1 is in use" in found["text"]
    assert found["fix"].startswith("shoal start --port ")
    assert found["fix"] != f"shoal start --port {listener}"


def test_addresses_to_join_are_dialled_and_nobody_there_ends_with_2(
    doctor: Run, home: Home, listener: int
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()[1]
    text = home.config_file.read_text()
    home.config_file.write_text(f'join = ["127.0.0.1:{dead}"]\n{text}')
    code, out = doctor("--json")
    assert code == 2
    assert "refused" in by_check(out)["peers"]["text"]
    home.config_file.write_text(f'join = ["127.0.0.1:{dead}", "127.0.0.1:{listener}"]\n{text}')
    code, out = doctor("--json")
    assert code == 0
    assert "1 of 2" in by_check(out)["peers"]["text"]


def test_a_running_node_is_asked_and_its_problems_are_findings(
    doctor: Run, home: Home, tmp_path: Path
) -> None:
    status = make_status(problems=["the disk is full; free some"], version="9.9")
    with FakeNode(home.path, lambda: status, tmp_path):
        code, out = doctor("--json")
    found = json.loads(out)["findings"]
    assert code == 1
    assert ("node", "the disk is full", "free some") in [(f["check"], f["text"], f["fix"]) for f in found]
    assert by_check(out)["ports"]["text"] == "the node that runs listens"
    assert any("shoal stop" in each["fix"] for each in found if each["check"] == "versions")


def test_broken_settings_are_a_finding_and_the_rest_is_looked_at_all_the_same(
    doctor: Run, home: Home
) -> None:
    home.config_file.write_text("[run]\nroundz = 3\n")
    code, out = doctor("--json")
    found = by_check(out)
    assert code == 1
    assert "roundz" in found["settings"]["text"]
    assert {"disk", "memory", "clock", "limits"} <= found.keys()


def test_the_line_is_worked_out_from_what_its_owner_says(doctor: Run) -> None:
    code, out = doctor("--line", "--mbit", 20, "--parameters", 124_000_000, "--json")
    assert code == 0
    line = json.loads(out)["line"]
    assert line["mbit"] == 20
    assert {row["codec"] for row in line["rows"]} >= {"float32", "int8", "int4"}
    assert "int4" in by_check(out)["line"]["fix"]
    code, out = doctor("--line")
    assert "shoal doctor --line --mbit" in out


INVITE = Token(
    run=bytes(32), swarm="shoal", settings={"task": "digits"}, inviter=bytes(range(32)), seed=bytes(32)
).text()


def test_a_bundle_holds_logs_status_and_settings_and_no_key_invite_or_password(
    doctor: Run, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = home.key_file.read_text().strip()
    founder, network = "ab" * 32, "cd" * 32
    (home.path / "founder-1.key").write_text(founder + "\n")
    key_file = tmp_path / "swarm.psk"
    key_file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{network}\n")
    key_file.chmod(0o600)
    other = INVITE[:-1] + ("q" if INVITE[-1] != "q" else "p")
    home.config_file.write_text(
        f'invite = "{INVITE}"\n# a note of the owner: {other}\n[network]\nkey_file = "{key_file}"\n'
        'listen = ["/ip4/127.0.0.1/tcp/0"]\n[http]\nport = 0\n'
        '[run]\ntask_options = {hub_token = "hf_abcdef", folder = "/data"}\n'
    )
    monkeypatch.setenv("SHOAL_RUN_NAME", "myrun")
    (home.path / "node.log").write_text(
        f"seed {seed}\n{founder}\n{'ef' * 32}\njoined by {other}, key {network}\n"
        'password=swordfish {"api_key": "sk-123"} run 7d7d7d7d is fine\n'
    )
    path = tmp_path / "x.tar.gz"
    with FakeNode(home.path, make_status, tmp_path):
        doctor("--bundle", path)
    with tarfile.open(path) as archive:
        texts = {
            Path(member.name).name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    assert set(texts) == {"findings.json", "settings.json", "machine.json", "status.json", "node.log"}
    whole = "\n".join(texts.values())
    for secret in (seed, founder, network, "ef" * 32, INVITE, other, "hf_abcdef", "swordfish", "sk-123"):
        assert secret not in whole
    assert "run 7d7d7d7d is fine" in texts["node.log"]
    assert LEFT_OUT in texts["node.log"]
    shown = json.loads(texts["settings.json"])
    assert shown["run.name"] == {"value": "myrun", "origin": "environment"}
    assert shown["run.task_options"]["value"] == {"hub_token": LEFT_OUT, "folder": "/data"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_bundle_is_not_written_over_what_is_there(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_text("mine")
    with pytest.raises(BadHome, match="exists"):
        write_bundle(path, home, [], None, {})
    assert path.read_text() == "mine"


def test_a_run_id_in_a_sentence_stays(home: Home) -> None:
    assert cleaner(home, {})("run " + "7d" * 32) == "run " + "7d" * 32


@pytest.mark.slow
def test_torch_is_asked_in_a_process_of_its_own() -> None:
    report = look._gpu()
    assert report.torch
    assert not report.failure
