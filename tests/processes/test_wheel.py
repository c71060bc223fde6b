"""A wheel installs one import name, and nothing in the user's folder takes its place."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("node", "gossip", "crypto", "methods", "src", "pyproject.toml", "README.md", "LICENSE")
IN_THE_WAY: Final = "raise SystemExit('a file of the user was imported in place of one of shoal')\n"


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; it must succeed."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    clone.mkdir()
    for name in OURS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, clone, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    inside = folder / "venv" / "bin" / "python"
    site = Path(
        run(inside, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # A path that a .pth file names is searched, but its own .pth files are not read: so the editable
    # installation of this environment stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    before = set(site.iterdir())
    run(sys.executable, "-m", "pip", "--python", inside, "install", "-q", "--no-deps", wheel, cwd=folder)
    new = {path.name for path in set(site.iterdir()) - before}
    assert {name for name in new if not name.endswith(".dist-info")} == {"shoal"}
    return inside


def test_the_users_own_modules_of_our_folders_names_are_in_nobodys_way(python: Path, tmp_path: Path) -> None:
    for name in ("node", "crypto", "gossip"):
        (tmp_path / f"{name}.py").write_text(IN_THE_WAY)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text(IN_THE_WAY)
    words = (
        "testnet",
        "up",
        "--nodes",
        "2",
        "--rounds",
        "4",
        "--alpha",
        "100",
        "--option",
        "steps=200",
        "--json",
    )
    result = json.loads(run(python.with_name("shoal"), *words, "--dir", tmp_path / "net", cwd=tmp_path))
    assert result["rounds"] == 4
    assert result["same_state_hash"]
    script = "import shoal, sys; print(shoal.Method.__module__, shoal.__file__)"
    module, where = run(python, "-c", script, cwd=tmp_path).split()
    assert module == "shoal.methods.base"
    assert Path(where).is_relative_to(python.parents[1])


@pytest.mark.parametrize("is_wheel", [True, False], ids=["wheel", "editable"])
def test_a_clone_called_shoal_beside_a_script_is_not_imported_in_its_place(
    python: Path, tmp_path: Path, is_wheel: bool
) -> None:
    (tmp_path / "shoal").symlink_to(ROOT)
    (tmp_path / "script.py").write_text("import shoal\nprint(shoal.SwarmOptimizer.__module__)\n")
    interpreter = python if is_wheel else Path(sys.executable)
    module = "shoal.node.optimizer.swarm_optimizer"
    assert run(interpreter, "script.py", cwd=tmp_path).strip() == module


@pytest.mark.parametrize("name", ["node", "gossip", "crypto", "methods"])
def test_the_folders_refuse_to_be_imported_under_another_name(name: str) -> None:
    command = [sys.executable, "-c", f"import {name}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert f"ImportError: import shoal.{name}, not {name}" in ran.stderr
