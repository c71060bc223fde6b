"""Every script runs as its page says: by its path, from any folder, and tells what it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
WITH_HELP = [path.name for path in sorted(SCRIPTS.glob("*.py")) if "ArgumentParser(" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_HELP)
def test_a_script_runs_by_its_path(name: str, tmp_path: Path) -> None:
    """`python scripts/NAME.py` does not have the folder above `scripts` on its path."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
