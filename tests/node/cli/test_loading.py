"""A command loads what it needs. Modules are counted, since seconds would say how busy the machine is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from shoal.node.cli.main import COMMANDS, load
from shoal.node.storage.home import Home

ROOT: Final = Path(__file__).parents[3]
HEAVY: Final = {
    *("torch", "numpy", "libp2p", "trio", "sklearn", "starlette", "psutil"),
    *("shoal.gossip", "shoal.node.config.settings", "shoal.node.cli.start"),
}
"""What none of these commands has a use for."""
MAX_OURS: Final = 21
"""Modules of shoal; a command loads its own, the home and the client, and its packages."""
MAX_ALL: Final = 420
"""With the standard library and typer: 315 for `shoal id`, 382 for the help."""


def loaded_by(home: Path, *arguments: str) -> set[str]:
    code = (
        "import json, sys; from shoal.node.cli.main import main\n"
        f"code = main({list(arguments)!r}); print(json.dumps([code, *sys.modules]), file=sys.__stderr__)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"SHOAL_HOME": str(home)},
    )
    _, *modules = json.loads(ran.stderr.splitlines()[-1])
    return set(modules)


@pytest.mark.parametrize("arguments", [["id"], ["--help"], ["status"], ["peers"], ["stop"]], ids=" ".join)
def test_a_command_that_answers_at_once_loads_little(tmp_path: Path, arguments: list[str]) -> None:
    Home(tmp_path / "home").create_key()
    modules = loaded_by(tmp_path / "home", *arguments)
    assert not HEAVY & modules
    assert len([name for name in modules if name.partition(".")[0] == "shoal"]) <= MAX_OURS
    assert len(modules) <= MAX_ALL


def test_only_the_help_loads_what_draws_tables(tmp_path: Path) -> None:
    Home(tmp_path / "home").create_key()
    assert "rich" not in loaded_by(tmp_path / "home", "id")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    help_of = load(name).help or ""
    assert " ".join(help_of.split("\n\n")[0].split()) == COMMANDS[name].help


def test_every_command_is_called_by_its_name_in_the_list() -> None:
    assert [load(name).name for name in COMMANDS] == list(COMMANDS)
