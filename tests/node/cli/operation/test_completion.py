"""`shoal completion`: a shell that has read it completes commands, flags and their values."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.node.cli.main import main
from shoal.node.config.run_flags import _VALUES

ASK = """
eval "$(shoal completion bash)"
for line in "shoal sta" "shoal testnet u" "shoal start --method fedav"; do
  COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _shoal_completion shoal
  echo "${COMPREPLY[*]}" | tr '\\n' ' '; echo
done
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_what_was_begun(tmp_path: Path) -> None:
    program = tmp_path / "shoal"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m shoal.node "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "--norc", "-c", ASK],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    found = [line.split() for line in ran.stdout.splitlines()]
    assert found == [["start", "status"], ["up"], ["fedavg", "fedavgm"]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_text_of_a_shell_names_the_program_and_nothing_is_written(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert ("_SHOAL_COMPLETE" in out, err) == (True, "")


def test_values_are_those_that_there_are() -> None:
    assert _VALUES["codec"]("int") == ["int8", "int4", "int2"]
    assert _VALUES["method"]("dilo") == ["diloco"]


def test_another_shell_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "bash" in capsys.readouterr().err
