"""The current folder is searched for a person's task, and for nothing that shoal or Python brings."""

import subprocess
import sys
from pathlib import Path


def test_a_file_of_the_current_folder_takes_the_place_of_no_module(tmp_path: Path) -> None:
    for name in ("json", "msgspec", "mine"):
        (tmp_path / f"{name}.py").write_text("whose = 'the folder'")
    code = (
        "from shoal.node.trainer.user_folder import search_user_folder; search_user_folder();"
        " import json, msgspec, mine; print(hasattr(json, 'whose'), hasattr(msgspec, 'whose'), mine.whose)"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert ran.stdout == b"False False the folder\n"


def test_every_process_of_a_node_is_started_without_the_current_folder_first() -> None:
    root = Path(__file__).parents[3]
    starts = [
        line
        for path in (root / "node").rglob("*.py")
        for line in path.read_text().replace("\n", " ").split("sys.executable,")[1:]
    ]
    assert len(starts) >= 7
    assert all(line.split()[0] == '"-P",' for line in starts)
