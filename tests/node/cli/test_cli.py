"""The command line: what it prints, where, and with which exit code."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
import typer
from fake_node import HOSTILE, ME, FakeNode, a_round, make_status

from shoal.node.cli import main as cli
from shoal.node.cli import show
from shoal.node.cli.main import error_of
from shoal.node.cli.start import flags_of
from shoal.node.config.settings import NodeConfig, load
from shoal.node.errors import UserError
from shoal.node.status import FaultStatus, LineageStatus, PrivacyStatus
from shoal.node.storage.home import Home
from shoal.node.storage.run_trust import RunTrust, save_trust

ADDRESS = "/ip4/192.0.2.1/tcp/4710"
FREE = ("start", "--port", "0", "--http-port", "0")
ROOT = Path(__file__).parents[3]


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the commands to a home of the test's own."""
    for name in os.environ:
        if name.startswith("SHOAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "home"


@pytest.fixture
def shoal(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*arguments: object) -> Ran:
        code = cli.main([str(each) for each in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[NodeConfig]:
    """Put a list in the place of the daemon: what would have been started."""
    configs: list[NodeConfig] = []

    class Daemon:
        @staticmethod
        def main(config: NodeConfig) -> int:
            configs.append(config)
            return 0

    monkeypatch.setitem(sys.modules, "shoal.node.daemon.process", Daemon)
    return configs


def fails(ran: Ran, *words: str, code: int = 1) -> None:
    """Check that a command failed with one line on standard error that holds these words."""
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    for word in words:
        assert word in ran.err


def test_init_makes_a_key_and_a_commented_file_and_says_what_is_next(shoal: Run, home: Path) -> None:
    ran = shoal("init")
    assert ran.code == 0
    assert Home(home).peer_id() in ran.out
    assert "shoal start" in ran.out
    assert "# rounds = 0" in (home / "config.toml").read_text()
    assert (home / "identity.key").stat().st_mode & 0o777 == 0o600


def test_init_twice_needs_force_and_keeps_the_settings(shoal: Run, home: Path) -> None:
    first = json.loads(shoal("init", "--json").out)["peer_id"]
    (home / "config.toml").write_text("[run]\nrounds = 7\n")
    fails(shoal("init"), "identity.key exists", "shoal init --force")
    assert json.loads(shoal("init", "--force", "--json").out)["peer_id"] != first
    assert "rounds = 7" in (home / "config.toml").read_text()


def test_home_moves_everything(shoal: Run, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    ran = shoal("init", "--home", other)
    assert f"shoal start --home {other}" in ran.out
    assert shoal("id", "--home", other).out.strip() == Home(other).peer_id()
    assert not home.exists()


def test_id_prints_the_peer_id_alone(shoal: Run, home: Path) -> None:
    fails(shoal("id"), "no key in", "shoal init")
    shoal("init")
    assert shoal("id").out == f"{Home(home).peer_id()}\n"
    assert json.loads(shoal("id", "--json").out) == {"peer_id": Home(home).peer_id(), "home": str(home)}


def test_a_key_file_with_open_permissions_is_refused_with_the_command(shoal: Run, home: Path) -> None:
    shoal("init")
    (home / "identity.key").chmod(0o644)
    fails(shoal("id"), "is open to others (mode 0644)", f"chmod 600 {home}/identity.key")
    fails(shoal("start", "--port", 0, "--http-port", 0), "chmod 600")


def test_commands_that_need_a_node_say_how_to_start_one(shoal: Run) -> None:
    for command in (["status"], ["status", "--watch"], ["peers"], ["stop"], ["peers", "--json"]):
        fails(shoal(*command), "no node runs in", "shoal start")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["No such command 'nonsense'. See: shoal --help"]),
        (["start", "--nonsense"], ["--nonsense", "See: shoal start --help"]),
        (["start", "--rounds", "x"], ["--rounds"]),
        (["start", "--rounds", "-1"], ["--rounds: expected int >= 0", "write --rounds 0"]),
        (["start", "--port", "70000"], ["--port 70000: write a port from 0 to 65535"]),
        (["start", "--port", "1", "--listen", "/ip4/0.0.0.0/tcp/1"], ["give one of them"]),
        (["start", "--listen", "0.0.0.0:4710:1"], ["--listen: cannot listen on"]),
        (["start", "--join", "/ip4/1.2.3.4/tpc/1"], ["--join: '/ip4/1.2.3.4/tpc/1' is not an address"]),
        (["start", "--join", "nobody"], ["--join: 'nobody' is not an address", "write"]),
        (["start", "--option", "lr"], ["--option: 'lr' is no setting; write key=value"]),
        (["start", "--patience", "0"], ["--patience: expected float > 0"]),
        (["start", "--log-level", "loud"], ["--log-level"]),
        ([*FREE, "--task", "no.such:Task"], ["no module no; start in the folder"]),
        ([*FREE, "--task", "no.such"], ["write package.module:Class"]),
        ([*FREE, "--task", "digits", "--method", "x"], ["no method x; there are: "]),
        ([*FREE, "--task", "digits", "--option", "rl=1"], ["fedavg has no option rl; it has: "]),
        (["bootstrap", "add", "nobody"], ["'nobody' is not an address"]),
        (["bootstrap", "add"], ["Missing", "See: shoal bootstrap add --help"]),
        (["bootstrap", "rm", ADDRESS], ["is not among the bootstrap addresses", "shoal bootstrap list"]),
        (["methods", "show", "x"], ["no method x; there are: "]),
        (["task", "new", "my-task"], ["my-task is no module name"]),
        (["task", "new", "class"], ["class is no module name"]),
    ],
)  # fmt: skip
def test_a_slip_on_the_command_line_is_one_line_that_names_the_fix(
    shoal: Run, started: list[NodeConfig], arguments: list[str], words: list[str]
) -> None:
    fails(shoal(*arguments), *words, code=2)
    assert started == []


def test_a_slip_in_the_file_stops_every_command_that_reads_it(shoal: Run, home: Path) -> None:
    shoal("init")
    (home / "config.toml").write_text("[run]\nround = 3\n")
    for command in (
        ["start"],
        ["config", "show"],
        ["bootstrap", "list"],
        ["bootstrap", "add", "a.example:1"],
    ):
        fails(shoal(*command), f"{home}/config.toml: unknown key run.round; did you mean run.rounds?", code=2)
    assert (home / "config.toml").read_text() == "[run]\nround = 3\n"


def test_a_port_in_use_is_found_before_anything_starts(
    shoal: Run, home: Path, started: list[NodeConfig]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(
            shoal("start", "--port", port, "--no-http"), f"port {port} on 0.0.0.0 is in use", "--port", code=2
        )
        fails(
            shoal("start", "--port", 0, "--http-port", port),
            f"port {port} on 127.0.0.1 is in use",
            "--http-port",
            code=2,
        )
    assert started == []
    assert not home.exists()


def test_an_address_of_another_machine_is_refused(shoal: Run, started: list[NodeConfig]) -> None:
    ran = shoal("start", "--listen", "/ip4/192.0.2.1/tcp/0", "--no-http")
    fails(ran, "cannot listen on 192.0.2.1", "choose an address of this machine", code=2)


def test_start_makes_what_is_missing_and_hands_every_flag_to_the_daemon(
    shoal: Run, home: Path, started: list[NodeConfig]
) -> None:
    ran = shoal(
        "start", "--join", "a.example:1", "-j", ADDRESS, "--task", "digits", "--task-option", "share=1/5",
        "--task-option", "alpha=0.1", "--method", "diloco", "--option", "outer_lr=0.5", "--rounds", 30,
        "--run", "mine", "--seed", 4, "--group-size", 8, "--quorum", 3, "--wait-for", 5, "--port", 0,
        "--wait-seconds", 90, "--http-port", 0,
        "--no-mdns", "--no-dht", "--external-trainer", "--device", "cpu", "--threads", 2,
        "--patience", 2.5, "--name", "one", "--log-level", "debug", "--swarm", "lab",
        "--announce", "/dns/a.example/tcp/9",
    )  # fmt: skip
    assert ran == Ran(0, "", "")
    (config,) = started
    assert config.home == home
    assert config.join == ("/dns/a.example/tcp/1", ADDRESS)
    assert config.run.task_options == {"share": "1/5", "alpha": 0.1}
    assert config.run.options == {"outer_lr": 0.5}
    run = config.run
    assert (run.task, run.method, run.rounds, run.name, run.seed) == ("digits", "diloco", 30, "mine", 4)
    assert (run.group_size, run.quorum, run.wait_for, run.trainer) == (8, 3, 5, "external")
    assert run.wait_seconds == 90
    assert (run.device, run.threads) == ("cpu", 2)
    network = config.network
    assert (network.listen, network.mdns, network.dht) == (
        ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"),
        False,
        False,
    )
    assert (network.swarm, network.announce) == ("lab", ("/dns/a.example/tcp/9",))
    assert (config.gossip.patience, config.http.port) == (2.5, 0)
    assert (config.name, config.log.level) == ("one", "debug")
    assert Home(home).peer_id()
    assert tomllib.loads((home / "config.toml").read_text())["join"] == []


def test_start_without_flags_follows_the_file(shoal: Run, home: Path, started: list[NodeConfig]) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        f"join = ['{ADDRESS}']\n[network]\nlisten = ['/ip4/127.0.0.1/tcp/0']\n[http]\nenabled = false\n"
    )
    assert shoal("start").code == 0
    assert started[0] == load(home, {}, {})[0]
    assert started[0].join == (ADDRESS,)


def test_every_flag_of_start_is_a_setting_or_a_switch() -> None:
    given = flags_of(
        {"no_http": True, "no_mdns": False, "rounds": None, "join": [], "listen": None, "port": 5}
    )
    assert given == {"http.enabled": False, "network.listen": ["/ip4/0.0.0.0/tcp/5", "/ip6/::/tcp/5"]}


@pytest.mark.parametrize("grouped", [False, True])
def test_what_the_daemon_finds_out_is_one_line_too(
    shoal: Run, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    class Daemon:
        @staticmethod
        def main(config: NodeConfig) -> int:
            error = UserError(f"the disk is full;\nmake room {HOSTILE}")
            raise ExceptionGroup("from a nursery", [error]) if grouped else error

    monkeypatch.setitem(sys.modules, "shoal.node.daemon.process", Daemon)
    ran = shoal("start", "--port", 0, "--no-http")
    fails(ran, "the disk is full; make room")
    assert "\x1b" not in ran.err
    with pytest.raises((UserError, ExceptionGroup)):
        shoal("--debug", "start", "--port", 0, "--no-http")


def test_a_bug_is_loud(shoal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(home: Path) -> None:
        raise ExceptionGroup("", [ZeroDivisionError()])

    monkeypatch.setattr("shoal.node.web.client.fetch_status", broken)
    with pytest.raises(ExceptionGroup):
        shoal("status")


def test_config_show_tells_value_and_origin(shoal: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[run]\nrounds = 7\n")
    monkeypatch.setenv("SHOAL_RUN_SEED", "3")
    lines = [line.split() for line in shoal("config", "show", "--origin").out.splitlines()]
    assert ["run.rounds", "7", "file"] in lines
    assert ["run.seed", "3", "environment"] in lines
    assert ["run.quorum", "1", "default"] in lines
    assert "default" not in shoal("config", "show").out
    shown = json.loads(shoal("config", "show", "--json").out)
    assert shown["run.rounds"] == {"value": 7, "origin": "file"}
    assert "testing.die_at" not in shown


def test_trust_is_reset_in_the_running_node_and_else_on_its_disk(
    shoal: Run, home: Path, tmp_path: Path
) -> None:
    state_dir = Home(home).state_dir
    save_trust(state_dir, RunTrust(run="ab" * 32))
    assert "no node runs" in shoal("trust", "reset").out
    assert not list(state_dir.glob("trust-*"))
    with FakeNode(home, make_status, tmp_path) as node:
        assert "was told" in shoal("trust", "reset").out
        assert node.control.told == ["reset trust"]


def test_bootstrap_addresses_are_kept_in_the_file_without_a_node(shoal: Run, home: Path) -> None:
    assert "none" in shoal("bootstrap", "list").out
    assert "no node runs" in shoal("bootstrap", "add", "a.example:4710").out
    shoal("bootstrap", "add", ADDRESS)
    assert shoal("bootstrap", "list").out.split() == ["/dns/a.example/tcp/4710", ADDRESS]
    assert json.loads(shoal("bootstrap", "rm", "a.example:4710", "--json").out) == {
        "address": "/dns/a.example/tcp/4710",
        "running_node_told": False,
        "file_changed": True,
    }
    assert load(home, {}, {})[0].join == (ADDRESS,)


def test_an_address_is_removed_as_its_owner_wrote_it(shoal: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("join = ['a.example:4710']\n")
    assert shoal("bootstrap", "rm", "a.example:4710").code == 0
    assert load(home, {}, {})[0].join == ()


@pytest.fixture
def node(home: Path, tmp_path: Path) -> FakeNode:
    """Return a node that shows a made-up status and obeys."""
    return FakeNode(home, make_status, tmp_path)


def test_status_shows_the_node(shoal: Run, node: FakeNode) -> None:
    with node:
        out = shoal("status").out
        assert json.loads(shoal("status", "--json").out)["peer_id"] == ME
    for word in (
        ME,
        "working, round 2 of 40",
        "accuracy 0.75",
        "the same on 1 of 1 peers",
        "refused",
        "direct",
    ):
        assert word in out
    assert re.search(r"combines by +clip", out)
    assert "bad signature" in out
    assert "shoal start --join" in out


def test_status_says_why_the_last_rounds_failed(shoal: Run, home: Path, tmp_path: Path) -> None:
    why = "LeftOut: 2NBnB1u sent nothing for 15 s; 3 of 48 MB had come"
    rounds = [
        msgspec.structs.replace(a_round(each), outcome="failed", reason=f"{each} {why}") for each in range(4)
    ]
    with FakeNode(home, lambda: make_status(history=[a_round(0), *rounds]), tmp_path):
        out = " ".join(shoal("status").out.split())
    assert f"round failed 3: 3 {why}" in out
    assert f"1: 1 {why}" in out
    assert "0: 0" not in out


@pytest.mark.parametrize(
    ("budget", "is_spent", "words"),
    [(0.0, False, "epsilon 2.6, no budget"), (2.7, True, "epsilon 2.6 of 2.7 at delta 1e-05 after 12")],
)
def test_status_says_how_much_the_nodes_data_has_told(
    shoal: Run, home: Path, tmp_path: Path, budget: float, is_spent: bool, words: str
) -> None:
    told = PrivacyStatus("local", 1.0, 2.0, 2.6, 1e-5, budget, 12, is_spent)
    with FakeNode(home, lambda: make_status(privacy=told), tmp_path):
        out = " ".join(shoal("status").out.split())
        assert json.loads(shoal("status", "--json").out)["privacy"]["epsilon"] == 2.6
    assert f"privacy {words}" in out
    assert ("spent" in out) is is_spent


def test_status_of_a_helper_has_no_run(shoal: Run, home: Path, tmp_path: Path) -> None:
    helper = make_status(
        run=None, role="helper", phase="helping", loss=None, metrics={}, peers=[], history=[]
    )
    with FakeNode(home, lambda: helper, tmp_path):
        out = shoal("status").out
        assert "no peer yet; on another device: shoal start --join" in shoal("peers").out
        assert shoal("peers", "--json").out == "[]\n"
    assert "helper in swarm shoal" in out
    assert "parameters" not in out


def test_a_diverged_loss_can_be_looked_at(shoal: Run, home: Path, tmp_path: Path) -> None:
    status = make_status(loss=float("nan"), history=[a_round(0, loss=float("inf"))])
    with FakeNode(home, lambda: status, tmp_path):
        assert "loss nan" in shoal("status").out


def test_a_peer_at_fault_is_named_with_the_reason(shoal: Run, home: Path, tmp_path: Path) -> None:
    status = make_status(named_faults=[FaultStatus("12D3KooWevil", "offered a group", 3, 300.0)])
    with FakeNode(home, lambda: status, tmp_path):
        assert "12D3KooWevil: offered a group (3, 5 min ago)" in shoal("status").out


def test_a_state_that_is_not_followed_is_told_with_those_that_claim_it(
    shoal: Run, home: Path, tmp_path: Path
) -> None:
    crowd = LineageStatus(
        round=93,
        state_hash="3fa2c1d0aa00",
        n_peers=21,
        peers=["12D3KooWevil1234"],
        reason="claims a later state",
    )
    status = make_status(refused_lineages=[crowd])
    with FakeNode(home, lambda: status, tmp_path):
        told = " ".join(shoal("status").out.split())
        assert "round 93, state 3fa2c1d0aa00 of 21 peers" in told
        assert "20 more): claims a later state" in told


def test_what_a_peer_sends_moves_no_cursor(shoal: Run, home: Path, tmp_path: Path) -> None:
    first = make_status().peers[0]
    peer = type(first)(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, 0.0, 0, 0)
    status = make_status(
        peers=[peer],
        refusals=[HOSTILE],
        problems=[HOSTILE],
        drops={HOSTILE: 1},
        named_faults=[FaultStatus(HOSTILE, HOSTILE, 1, 0.0)],
        refused_lineages=[
            LineageStatus(round=1, state_hash=HOSTILE, n_peers=1, peers=[HOSTILE], reason=HOSTILE)
        ],
        phase=HOSTILE,
    )
    with FakeNode(home, lambda: status, tmp_path):
        for command in ("status", "peers"):
            ran = shoal(command)
            assert ran.code == 0
            assert "\x1b" not in ran.out


def test_bootstrap_on_a_running_node_tells_it_and_the_file(shoal: Run, node: FakeNode, home: Path) -> None:
    with node:
        assert "the running node and config.toml" in shoal("bootstrap", "add", "192.0.2.1:4710").out
        assert load(home, {}, {})[0].join == (ADDRESS,)
        listed = shoal("bootstrap", "list").out
        assert "/dns/old.example/tcp/4710" in listed
        assert "refused" in listed
        assert json.loads(shoal("bootstrap", "list", "--json").out)[0]["reason"] == "refused"
        assert shoal("bootstrap", "rm", ADDRESS).code == 0
        fails(
            shoal("bootstrap", "rm", "unknown:1"),
            "/dns/unknown/tcp/1 is not dialled; see: shoal bootstrap list",
        )
    assert node.control.told == [f"add {ADDRESS}", f"rm {ADDRESS}"]
    assert load(home, {}, {})[0].join == ()


def test_stop_waits_until_the_node_has_ended(shoal: Run, node: FakeNode, home: Path) -> None:
    with node:
        assert Home(home).is_running()
        assert shoal("stop").out == "stopped\n"
        assert not Home(home).is_running()
    assert node.control.told == ["stop"]
    fails(shoal("stop"), "no node runs in")


def test_a_home_in_use_is_neither_started_again_nor_given_another_key(shoal: Run, node: FakeNode) -> None:
    with node:
        fails(shoal("start"), f"already (pid {os.getpid()}); stop it with: shoal stop")
        fails(shoal("init", "--force"), "shoal stop")


def test_watch_follows_until_it_is_interrupted(
    shoal: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([1, 2, 3])

    def sleep(seconds: float, seen: list[float] = []) -> None:  # noqa: B006  # counts its calls
        seen.append(seconds)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(show, "sleep", sleep)
    with FakeNode(home, lambda: make_status(round=next(rounds)), tmp_path):
        ran = shoal("status", "--watch")
    assert ran.code == 130
    assert "round 3 of 40" in ran.out


def test_a_socket_that_a_killed_node_left_counts_as_no_node(shoal: Run, home: Path) -> None:
    shoal("init")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home / "run" / "control.sock"))
    fails(shoal("status"), "no node runs in")


def test_methods_are_listed_and_explained(shoal: Run) -> None:
    assert "fedavg" in shoal("methods").out
    assert "fedavg" in json.loads(shoal("methods", "--json").out)
    shown = shoal("methods", "show", "fedprox").out
    assert "paper" in shown
    assert "each way per round of 8 peers, for 1,000,000 parameters" in shown
    assert json.loads(shoal("methods", "show", "fedavg", "--json").out)["method"]["name"] == "fedavg"
    assert "one body" not in shown
    asked = shoal("methods", "show", "deltamask").out
    assert "one body   One vote of n on a weight's chance to be kept" in asked
    assert "gives model() and train_data()" in asked
    assert "must give role(): which tensors are the body" in asked
    assert "should give a pre-trained model()" in asked


def test_task_new_writes_a_file_once(shoal: Run, tmp_path: Path) -> None:
    ran = shoal("task", "new", "sea_shells", "--dir", tmp_path)
    assert "shoal start --task sea_shells:SeaShells" in ran.out
    text = (tmp_path / "sea_shells.py").read_text()
    assert "class SeaShells(Task):" in text
    assert "CLASS" not in text
    assert "MODULE" not in text
    fails(shoal("task", "new", "sea_shells", "--dir", tmp_path), "exists; choose another name", code=2)


def test_help_names_every_command(shoal: Run) -> None:
    for arguments in ([], ["--help"]):
        out = shoal(*arguments).out
        for word in (
            "start",
            "stop",
            "status",
            "peers",
            "bootstrap",
            "init",
            "id",
            "config",
            "methods",
            "testnet",
        ):
            assert f" {word} " in out


def test_version_is_told(shoal: Run) -> None:
    assert shoal("--version").code == 0
    assert json.loads(shoal("version", "--json").out)["python"]


def test_errors_of_an_older_typer_are_known_too() -> None:
    click = pytest.importorskip("click")
    assert error_of(SimpleNamespace()) is click.ClickException
    assert error_of(typer) is typer.TyperException


def test_a_reader_who_has_enough_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -m shoal.node config show | true; exit ${{PIPESTATUS[0]}}"
    ran: Any = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1)
    assert "Traceback" not in ran.stderr


def test_peers_that_have_left_are_not_peers_that_never_came(shoal: Run, home: Path, tmp_path: Path) -> None:
    with FakeNode(home, lambda: make_status(peers=[], peers_met=2, name="mill"), tmp_path):
        assert shoal("peers").out.startswith(
            "no peer now; 2 were linked since the start; on another device: shoal"
        )
        assert "mill" in shoal("status").out


def test_nobody_agrees_on_a_state_that_nobody_has(shoal: Run, home: Path, tmp_path: Path) -> None:
    peers = [msgspec.structs.replace(make_status().peers[0], state_hash="")]
    with FakeNode(home, lambda: make_status(state_hash="", peers=peers), tmp_path):
        out = shoal("status").out
        assert "none yet" in out
        assert "the same on" not in out


def test_a_hidden_node_that_no_relay_carries_yet_prints_no_command(
    shoal: Run, home: Path, tmp_path: Path
) -> None:
    with FakeNode(home, lambda: make_status(addresses=[], peers=[], join_command=""), tmp_path):
        assert shoal("peers").out.startswith("no peer yet; nobody can reach this node yet")
        assert "nobody can reach this node yet" in shoal("status").out
