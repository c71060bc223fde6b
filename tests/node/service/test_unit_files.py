"""Unit files: what stands in them, and that systemd and plistlib read them."""

import getpass
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.node.service.unit_files import Service, argument, launchd_plist, systemd_unit

HOSTILE = 'a "b" $HOME %h \\ \n c'
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")


def service(tmp_path: Path) -> Service:
    command = (sys.executable, "-P", "-m", "shoal.node", "start", "--run", HOSTILE)
    return Service("shoal", command, tmp_path, tmp_path, {"SHOAL_RUN_SEED": "1"}, getpass.getuser())


def test_a_unit_waits_for_ready_has_a_watchdog_and_does_not_repeat_a_slip(tmp_path: Path) -> None:
    lines = systemd_unit(service(tmp_path), is_system=False).splitlines()
    assert {
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=60",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "NoNewPrivileges=yes",
        "WantedBy=default.target",
        "Environment=SHOAL_RUN_SEED=1",
    } <= set(lines)
    assert not any(line.startswith(("User=", "ProtectSystem=")) for line in lines)
    system = systemd_unit(service(tmp_path), is_system=True).splitlines()
    assert {f"User={getpass.getuser()}", "ProtectSystem=strict", f"ReadWritePaths={tmp_path}"} <= set(system)
    assert not any(line.startswith(("MemoryDenyWriteExecute", "PrivateDevices")) for line in system)


def test_nothing_in_an_argument_is_expanded_or_ends_it() -> None:
    assert argument("--join=/ip4/1.2.3.4/tcp/1,a:b") == "--join=/ip4/1.2.3.4/tcp/1,a:b"
    assert argument(HOSTILE) == '"a \\"b\\" $$HOME %%h \\\\ \\n c"'
    assert argument("") == '""'


@needs_systemd
@pytest.mark.parametrize("is_system", [False, True])
def test_systemd_finds_nothing_wrong(tmp_path: Path, is_system: bool) -> None:
    unit = tmp_path / "shoal.service"
    unit.write_text(systemd_unit(service(tmp_path), is_system=is_system))
    whose = [] if is_system else ["--user"]
    ran = subprocess.run(
        ["systemd-analyze", *whose, "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    ours = [line for line in ran.stderr.splitlines() if "shoal.service" in line]
    assert ours == []


@needs_systemd
def test_the_unit_of_the_system_is_fenced_in(tmp_path: Path) -> None:
    unit = tmp_path / "shoal.service"
    unit.write_text(systemd_unit(service(tmp_path), is_system=True))
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=45", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-300:] + ran.stderr


def test_an_agent_of_launchd_is_read_back_word_for_word(tmp_path: Path) -> None:
    told = plistlib.loads(launchd_plist(service(tmp_path), tmp_path / "logs").encode())
    assert told["ProgramArguments"][-1] == HOSTILE
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert told["EnvironmentVariables"] == {"SHOAL_RUN_SEED": "1"}
    assert told["Umask"] == 0o077
    assert told["StandardErrorPath"] == str(tmp_path / "logs/shoal.log")
