"""The commands of shoal testnet, over fake nodes."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import testnet_fakes
from testnet_fakes import plan_of, wait_until
from typer.testing import CliRunner, Result

from shoal.node.errors import UserError
from shoal.node.testnet import cli, launcher, up
from shoal.node.testnet.cli import app
from shoal.node.testnet.event_log import read_events
from shoal.node.testnet.plan import BadPlan
from shoal.node.testnet.processes import (
    NodeRecord,
    NoTestnet,
    Record,
    is_running,
    left_over,
    processes_of,
    read_record,
    stop,
    write_record,
)
from shoal.node.testnet.up import hints, new_directory

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, with fake nodes; what a person caused is raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(up, "_tools", testnet_fakes.fake_tools)
    monkeypatch.setattr(cli, "fetch_status", testnet_fakes.fetch_status)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONPATH", testnet_fakes.fake_tools().environ["PYTHONPATH"])

    def invoke(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, UserError):
            raise result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def swarm(run: Run, tmp_path: Path) -> Iterator[Record]:
    """A detached testnet of three fake nodes that would run for hours."""
    launcher.up_detached(
        plan_of(rounds=10**6),
        new_directory(None),
        screen=testnet_fakes.Seen(),
        tools=testnet_fakes.fake_tools(),
    )
    [directory] = (tmp_path / "testnet").iterdir()
    record = read_record(directory)
    yield record
    stop(processes_of(record))
    # They are children of this very process, which is not how it is used; so they are reaped here.
    for node in processes_of(record):
        with suppress(ChildProcessError):
            os.waitpid(node.pid, 0)


@pytest.mark.slow
def test_up_prints_progress_and_a_verdict(run: Run, tmp_path: Path) -> None:
    result = run("up", "--nodes", "2", "--rounds", "3", "--timeout", "60")
    assert result.exit_code == 0
    assert "2 nodes, fedavg on digits, 3 rounds" in result.stdout
    assert "round 3/3" in result.stdout
    assert "the verdict holds" in result.stdout
    [directory] = (tmp_path / "testnet").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", directory.name)


@pytest.mark.slow
def test_with_json_standard_output_holds_one_object_and_nothing_else(run: Run) -> None:
    result = run("up", "--nodes", "2", "--rounds", "3", "--json", "--dir", "here")
    found = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (found["verdict"], found["nodes"], found["rounds"]) == (True, 2, 3)
    assert "the verdict holds" in result.stderr
    assert found == json.loads(Path("here/result.json").read_bytes())


@pytest.mark.slow
def test_a_verdict_that_does_not_hold_is_exit_code_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "check", lambda plan: None)
    result = run("up", "--nodes", "2", "--rounds", "2", "--option", "apart=node-2", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["same_state_hash"] is False


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--method", "fedmagic"], "no method fedmagic"),
        (["--option", "lr"], "write key=value"),
        (["--alpha", "0"], "--alpha: expected `?float`? > 0"),
        (["--task", "tones", "--alpha", "1"], "tones shares its examples out at random; leave out alpha"),
        (["--task", "my:Own", "--alpha", "1"], "an option of that name is --task-option alpha=X; leave out"),
        (["--nodes", "2", "--quorum", "3"], "lower --quorum"),
        (["--dir", "/proc/nowhere"], "choose another --dir"),
        (["--latency", "far"], "write 80ms"),
        (["--loss", "80%"], "--loss: expected `?float`? <= 0.5"),
        (["--churn", "1", "--detach"], "leave out --detach"),
        (["--scenario", "none.toml"], "cannot read none.toml"),
        (["--rounds", "0"], "say how long with --seconds"),
        (["--latency", "80ms", "--network", "bare"], "leave out --network bare"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_line_before_anything_starts(
    run: Run, tmp_path: Path, words: list[str], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        run("up", *words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("**/node-1*"))


@pytest.mark.slow
def test_a_folder_holds_one_testnet_only(run: Run) -> None:
    run("up", "--nodes", "1", "--rounds", "1", "--method", "local", "--dir", "here")
    with pytest.raises(BadPlan, match="holds a testnet already"):
        run("up", "--nodes", "1", "--dir", "here")


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["down"],
        ["heal"],
        *([each, "1"] for each in ("kill", "pause", "resume", "restart", "split", "logs")),
    ],
)
def test_without_a_testnet_every_command_says_how_to_start_one(run: Run, words: list[str]) -> None:
    with pytest.raises(NoTestnet, match="shoal testnet up"):
        run(*words)


@pytest.mark.slow
def test_status_shows_the_nodes_of_the_newest_testnet(run: Run, swarm: Record) -> None:
    shown = run("status").stdout
    assert all(node.name in shown for node in swarm.nodes)
    assert "working" in shown
    found = json.loads(run("status", "--json").stdout)
    assert [node["name"] for node in found["nodes"]] == ["node-1", "node-2", "node-3"]
    assert all(node["running"] for node in found["nodes"])
    assert found["nodes"][0]["status"]["peer_id"] == "12D3KooWnode-1"


@pytest.mark.slow
def test_a_killed_node_is_shown_as_such_and_cannot_be_killed_again(run: Run, swarm: Record) -> None:
    assert run("kill", "node-2").stdout.startswith("node-2 killed; start it again")
    wait_until(lambda: not is_running(swarm.nodes[1]))
    assert [is_running(node) for node in swarm.nodes] == [True, False, True]
    with pytest.raises(BadPlan, match="node-2 does not run"):
        run("kill", "2")


@pytest.mark.slow
def test_a_frozen_node_stands_still_until_it_is_thawed(
    run: Run, swarm: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def round_() -> int:
        status = testnet_fakes.fetch_status(Path(swarm.nodes[0].home))
        return status.round if status else -1

    assert run("pause", "1").stdout.startswith("node-1 frozen")
    wait_until(lambda: Path(f"/proc/{swarm.nodes[0].pid}/stat").read_text().split()[2] == "T")
    frozen = round_()
    monkeypatch.setattr(cli, "fetch_status", lambda home: None)
    assert run("status").stdout.count("frozen") == 1
    assert run("resume", "1").stdout == "node-1 goes on\n"
    wait_until(lambda: round_() > frozen)


@pytest.mark.slow
def test_a_killed_node_is_started_again_in_its_home_with_its_old_command(run: Run, swarm: Record) -> None:
    run("kill", "1", "2")
    wait_until(lambda: not any(map(is_running, swarm.nodes[:2])))
    assert run("restart", "1", "node-2").stdout == "node-1 started again\nnode-2 started again\n"
    [directory] = Path("testnet").iterdir()
    record = read_record(directory)
    assert all(map(is_running, record.nodes))
    assert [node.pid for node in record.nodes[:2]] != [node.pid for node in swarm.nodes[:2]]
    assert [node.command for node in record.nodes] == [node.command for node in swarm.nodes]
    events = read_events(directory)
    assert [(event.kind, event.nodes, event.by) for event in events if event.by == "hand"] == [
        ("kill", (1, 2), "hand"),
        ("restart", (1,), "hand"),
        ("restart", (2,), "hand"),
    ]
    stop(record.nodes)
    for node in record.nodes[:2]:
        os.waitpid(node.pid, 0)


@pytest.mark.slow
def test_a_node_that_runs_leaves_in_order_before_it_is_started_again(run: Run, swarm: Record) -> None:
    run("restart", "3")
    [directory] = Path("testnet").iterdir()
    assert not is_running(swarm.nodes[2])
    new = read_record(directory).nodes[2]
    assert is_running(new)
    assert Path(new.log).read_text() == "node-3 leaves\n"
    stop([new])
    os.waitpid(new.pid, 0)


@pytest.mark.slow
def test_links_can_be_cut_and_mended_by_hand(run: Run, swarm: Record) -> None:
    assert "split: node-2 | node-1, node-3;" in run("split", "2").stdout
    shown = run("status").stdout
    assert "split: node-2 | node-1, node-3" in shown
    assert "links of bare by" in shown
    assert run("heal").stdout == "all links are back\n"
    assert "split" not in run("status").stdout
    with pytest.raises(BadPlan, match="nobody on the other side"):
        run("split", "1", "2", "3")


@pytest.mark.slow
def test_down_removes_the_network_too(run: Run, swarm: Record) -> None:
    assert swarm.proxy is not None or swarm.nodes[0].command[0] == "ip"
    run("down")
    [directory] = (Path("testnet")).iterdir()
    assert left_over(directory.absolute()) == []
    if swarm.proxy is not None:
        os.waitpid(swarm.proxy.pid, 0)


@pytest.mark.slow
def test_down_stops_all_and_logs_tell_the_end(run: Run, swarm: Record) -> None:
    assert run("down").stdout == "3 nodes stopped\n"
    assert not any(map(is_running, swarm.nodes))
    assert run("logs", "3", "--follow").stdout == "node-3 leaves\n"
    assert run("down").stdout == "0 nodes stopped\n"
    assert run("status").stdout.count("not running") == 3


def test_logs_show_the_last_lines_only(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "testnet" / "now"
    directory.mkdir(parents=True)
    log = directory / "node-1.log"
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    node = NodeRecord("node-1", str(directory), str(log), 1 << 22, 0.0)
    write_record(directory, Record(plan_of(nodes=1), 0.0, (node,)))
    assert run("logs", "1", "-n", "2").stdout == "line 98\nline 99\n"
    with pytest.raises(BadPlan, match="no node 2"):
        run("logs", "2")


def test_what_is_printed_after_a_detached_start_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    where = tmp_path / "my nets [1]"
    for line in hints(where)[:-1]:
        words = shlex.split(line.partition(": ")[2])
        assert words[:2] == ["shoal", "testnet"]
        assert words[-2:] == ["--dir", str(where)]
    assert all("--dir" not in line for line in hints(None))


def test_the_lies_are_listed_for_people_and_for_programs(run: Run) -> None:
    found = json.loads(run("lies", "--json").stdout)
    assert {tuple(each) for each in found} == {("name", "who", "what", "bound")}
    assert {each["who"] for each in found} == {"outsider", "member", "owner", "convener"}
    names = [each["name"] for each in found]
    assert len(set(names)) == len(names)
    assert all(name in run("lies").stdout for name in names)
