"""A package of somebody else adds a method, which real nodes run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PLUGIN: Final = Path(__file__).parents[2] / "examples" / "plugin"
NODE: Final = (sys.executable, "-P", "-m", "shoal.node")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The surroundings of a process that finds the package installed."""
    folder = tmp_path_factory.mktemp("site")
    # A copy, since building leaves files beside the source.
    source = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, source)
    subprocess.run(pip, check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_its_author_can_try_it_without_a_network(installed: dict[str, str]) -> None:
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", PLUGIN)
    ran = subprocess.run(command, env=installed, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_five_nodes_run_it_and_send_its_part_alone(installed: dict[str, str], tmp_path: Path) -> None:
    shown = subprocess.run(
        (*NODE, "methods", "show", "scales", "--task", "shifted"),
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    up = ("testnet", "up", "--nodes", "5", "--method", "scales", "--task", "shifted", "--rounds", "10")
    ran = subprocess.run(
        (*NODE, *up, "--seeds", "0", "--dir", tmp_path / "net", "--json"),
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout, ran.stderr
    result = json.loads(ran.stdout)
    assert result["same_state_hash"] is True
    assert result["rounds"] == 10
    assert result["accuracy_min"] >= 0.6
    # 778 numbers of the 8,970 of the model.
    assert result["bytes_sent"] / 5 / 10 < 4 * 8970
