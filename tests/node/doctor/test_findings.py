"""What `shoal doctor` makes of what it found: pure, without a machine."""

import msgspec
import pytest
from fake_node import a_round, make_status

from shoal.gossip.reachability.port_mapping import OFF, mapped, not_mapped
from shoal.gossip.reachability.steps import Grant, NoMapping, Wanted
from shoal.gossip.run_spec import RunSettings, RunSpec, TensorSpec
from shoal.methods.registry import load_method
from shoal.node.doctor import machine, node
from shoal.node.doctor.findings import Finding, Level, closing, exit_code
from shoal.node.doctor.line import check_line, line_of
from shoal.node.service.router import mapping_status
from shoal.node.status import BootstrapStatus

GB = 10**9
VERSIONS = {"shoal": "0.1.0"}


def levels(found: list[Finding]) -> list[Level]:
    return [each.level for each in found]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], 0),
        (["ok", "note"], 0),
        (["ok", "unasked"], 2),
        (["unasked", "fix"], 1),
    ],
)
def test_the_exit_code_says_whether_something_is_to_be_fixed_or_nobody_answered(
    found: list[Level], code: int
) -> None:
    assert exit_code([Finding("x", level, "") for level in found]) == code


def test_the_last_line_is_what_to_do_next() -> None:
    fix = Finding("disk", "fix", "full", "free some")
    assert closing([fix], "start") == "1 thing to fix; begin with disk: free some"
    assert closing([], "shoal start") == "nothing to fix; shoal start"
    assert closing([Finding("peers", "unasked", "none")], "start").startswith("nobody could be asked")


def test_every_finding_that_is_to_be_fixed_says_what_to_type() -> None:
    full = make_status(problems=["the disk is full; free some"], trainer="exit code 1", version="0.0.9")
    found = [
        *machine.check_versions((3, 10), VERSIONS, "0.0.9"),
        machine.check_clock(1000.0, 9000.0, None),
        machine.check_disk(GB, GB, "/home"),
        machine.check_memory(None, 0, GB, 1),
        *machine.check_limits(64, 0, 0),
        *machine.check_limits(64, 64, 0),
        machine.check_gpu(machine.GpuReport(), "auto", trains=True),
        machine.check_gpu(machine.GpuReport(torch="2", failure="broken"), "auto", trains=True),
        machine.check_gpu(machine.GpuReport(torch="2", has_driver=True), "auto", trains=True),
        machine.check_gpu(machine.GpuReport(torch="2"), "cuda", trains=True),
        *machine.check_ports([(4710, "--port", "port 4710 is in use by pid 811 (python)")], 5000, False),
        *node.check_node(None, "the node hangs; end it with: kill 1", "start"),
        *node.check_node(full, "", "start"),
        *node.check_rounds(make_status(), 1_700_100_000.0),
    ]
    to_fix = [each for each in found if each.level == "fix"]
    assert len(to_fix) == 16
    assert all(each.fix for each in to_fix)


def test_a_python_that_is_too_old_or_too_new_is_named() -> None:
    assert levels(machine.check_versions((3, 12), VERSIONS, "0.1.0")) == ["ok"]
    for python in ((3, 10), (3, 14)):
        assert levels(machine.check_versions(python, VERSIONS, "")) == ["fix"]


def test_a_clock_behind_its_own_files_is_wrong_whatever_the_system_says() -> None:
    assert machine.check_clock(1000.0, 1000.0 + machine.CLOCK_SLACK + 1, True).level == "fix"
    assert machine.check_clock(1000.0, 1000.0 + machine.CLOCK_SLACK, True).level == "ok"
    assert machine.check_clock(1000.0, 0.0, None).level == "ok"
    assert machine.check_clock(1000.0, 0.0, False).level == "note"


def test_the_disk_has_to_hold_three_states() -> None:
    assert machine.check_disk(3 * GB, GB, "/").level == "ok"
    assert machine.check_disk(3 * GB - 1, GB, "/").level == "fix"
    assert machine.check_disk(machine.LEAST_DISK - 1, 0, "/").level == "fix"


def test_memory_is_measured_against_what_the_last_run_takes() -> None:
    spec = RunSpec(task="x", tensors=(TensorSpec("w", "float32", (100_000_000,)),))
    assert machine.check_memory(spec, 100_000_000, 16 * GB, 8 * GB).level == "ok"
    assert machine.check_memory(spec, 100_000_000, 16 * GB, GB).level == "fix"
    never = machine.check_memory(spec, 100_000_000, GB, GB)
    assert never.level == "fix"
    assert "needs at least" in never.text
    assert never.fix == "train a part of the model only"


def test_limits_name_the_command_that_raises_them() -> None:
    assert machine.check_limits(256, 4096, 0)[0].fix == "ulimit -n 4096"
    assert machine.check_limits(256, 0, 0)[0].fix == f"ulimit -n {machine.RAISED}"
    assert levels(machine.check_limits(0, 0, 0)) == ["ok"]
    assert levels(machine.check_limits(2048, 2048, 2 * GB)) == ["ok", "note"]


def test_a_gpu_that_torch_does_not_see_is_told_and_a_helper_needs_none() -> None:
    gpu = machine.Gpu("cuda:0", "H200", 100 * GB, 140 * GB)
    seen = machine.check_gpu(machine.GpuReport(torch="2", gpus=[gpu], has_driver=True), "cuda:0", trains=True)
    assert seen.level == "ok"
    assert "H200, 100 GB of 140 GB free" in seen.text
    assert machine.check_gpu(machine.GpuReport(torch="2", has_driver=True), "cpu", trains=True).level == "ok"
    assert machine.check_gpu(machine.GpuReport(), "auto", trains=False).level == "note"


def test_peers_that_do_not_answer_are_told_with_their_reasons() -> None:
    lonely = make_status(
        peers=[],
        bootstrap=[BootstrapStatus("/ip4/192.0.2.9/tcp/4710", "failed", "refused", 3, 1.0)],
    )
    for found in (
        node.check_peers(lonely, []),
        node.check_peers(None, [("/ip4/192.0.2.9/tcp/4710", "refused")]),
    ):
        assert found.level == "unasked"
        assert "/ip4/192.0.2.9/tcp/4710: refused" in found.text
    assert node.check_peers(None, [("a", "refused"), ("b", "")]).level == "ok"
    assert node.check_peers(None, []).level == "note"
    assert node.check_peers(make_status(), []).text == "1 linked, 1 of them without a relay"


def test_a_node_without_a_public_address_is_told_which_port_to_forward() -> None:
    home = make_status(addresses=["/ip4/127.0.0.1/tcp/4710", "/ip4/192.168.1.23/tcp/4710/p2p/x"])
    found = node.check_reach(home, 4710, is_hidden=False)
    assert found.level == "note"
    assert "forward TCP 4710 -> 192.168.1.23:4710" in found.fix
    chosen = make_status(addresses=["/ip6/fd00::2/tcp/7/p2p/x", "/ip4/10.0.0.5/tcp/40001/p2p/x"])
    assert "forward TCP 40001 -> 10.0.0.5:40001" in node.check_reach(chosen, 0, is_hidden=False).fix
    public = make_status(addresses=["/ip4/8.8.8.8/tcp/4710/p2p/x"])
    assert node.check_reach(public, 4710, is_hidden=False).level == "ok"
    assert node.check_reach(public, 4710, is_hidden=True).level == "note"
    assert node.check_reach(None, 4710, is_hidden=False).level == "note"


def test_what_the_router_does_for_a_node_is_told_with_what_to_do() -> None:
    refused = not_mapped(
        NoMapping("refused", "no way"), Wanted(4710, "192.168.1.23", (4710,), lambda _: None)
    )
    found = node.check_router(mapping_status(refused))
    assert levels(found) == ["note"]
    assert found[0].text == "the router opens no port: no way"
    assert "forward TCP 4710 to 192.168.1.23" in found[0].fix
    alone = make_status(addresses=["/ip4/192.168.1.23/tcp/4710"], port_mapping=mapping_status(refused))
    assert node.check_reach(alone, 4710, is_hidden=False).fix == ""
    opened = mapped(Grant("UPnP", "8.9.10.11", 4711, 4710, 3600.0))
    assert levels(node.check_router(mapping_status(opened))) == ["ok"]
    assert node.check_router(mapping_status(OFF)) == []
    assert node.check_router(None) == []


def test_a_node_whose_rounds_stopped_or_fail_is_told() -> None:
    running = make_status()
    last = running.history[-1].finished_at
    assert levels(node.check_rounds(running, last + 60)) == ["ok"]
    assert levels(node.check_rounds(running, last + node.LEAST_QUIET + 1)) == ["fix"]
    assert node.check_rounds(make_status(phase="finished"), last + 9e9) == []
    failed = [a_round(number) for number in range(20)]
    failed = [msgspec.structs.replace(each, outcome="failed", reason="no quorum") for each in failed]
    found = node.check_rounds(make_status(history=failed), failed[-1].finished_at)
    assert levels(found) == ["fix"]
    assert "no quorum" in found[0].text


def test_the_line_names_the_codec_that_fits_and_needs_no_measurement() -> None:
    run, method = RunSettings(method="fedavg"), load_method("fedavg", {})
    slow = check_line(run, method, 124_000_000, 20.0, "as you say")
    assert slow.level == "note"
    assert "--codec int4" in slow.fix
    assert check_line(run, method, 8970, 20.0, "as you say").level == "ok"
    assert check_line(run, method, 0, 20.0, "as you say").fix.startswith("shoal doctor --line")
    assert check_line(run, method, 8970, 0.0, "").fix.startswith("shoal doctor --line")
    rows = line_of(run, method, 124_000_000, 20.0, "").rows
    assert [row.codec for row in rows if row.is_used] == ["float32"]
    assert rows[0].seconds > 4 * rows[-1].seconds
