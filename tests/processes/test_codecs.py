"""What codecs save between real nodes: the bytes of their sockets, headers, presence and all.

What they cost in accuracy is measured in lockstep, over three seeds: tests/methods/test_codecs_on_digits.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = Path(__file__).parents[1] / "tasks"
UP = (
    sys.executable, "-P", "-m", "shoal.node", "testnet", "up", "--json", "--timeout", "280",
    "--nodes", "4", "--rounds", "10", "--seeds", "0", "--task", "paced:WideDigits",
    "--task-option", "share={i}/{n}", "--task-option", "alpha=0.5",
    "--method", "diloco", "--option", "steps=10", "--option", "lr=0.1",
)  # fmt: skip
PLAIN = ("--option", "outer_lr=1", "--option", "outer_momentum=0")
"""What the coarsest codecs need."""


def run(directory: Path, codec: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(TASKS.parents[1] / "src")}
    words = [*UP, *(PLAIN if codec == "topk" else ()), "--codec", codec, "--dir", str(directory)]
    done = subprocess.run(words, cwd=TASKS, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["same_state_hash"]
    return result


def test_between_nodes_codecs_save_the_bytes_they_promise(tmp_path: Path) -> None:
    found = {codec: run(tmp_path / codec, codec) for codec in ("float32", "int8", "int4", "topk")}
    exact = found["float32"]
    for codec, result in found.items():
        share = result["bytes_sent"] / exact["bytes_sent"]
        print(f"{codec}: {share:.4f} of the bytes")
    assert found["int8"]["bytes_sent"] <= 0.27 * exact["bytes_sent"]
    assert found["int4"]["bytes_sent"] <= 0.15 * exact["bytes_sent"]
    assert found["topk"]["bytes_sent"] <= 0.05 * exact["bytes_sent"]
