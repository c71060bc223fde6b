"""Fit: asks, in a process with torch (fit_check.py), whether task, method and device go together."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Final

from shoal.node.errors import BadConfig
from shoal.node.trainer.spec import FAILED, MARK

CHECK_SECONDS: Final = 30.0
"""For torch to load, which takes two, and for a task to make its model and read its data."""


def check_torch() -> None:
    """Look whether this node can train.

    Raises:
        BadConfig: torch is not installed.
    """
    if find_spec("torch") is None:
        raise BadConfig(
            "training needs torch, which is not installed: pip install 'shoal[torch]', or leave out --task to"
            " help a swarm without training"
        )


def check_fit(spec: str) -> None:
    """Find out whether task, method and device fit, by making in a process what a trainer makes at first.

    `spec`: a `TrainerSpec` as JSON. What takes longer than `CHECK_SECONDS`, such as reading much data, and
    what a task's own code raises, is left to the trainer.

    Raises:
        BadConfig: they do not fit, or there is no torch.
    """
    check_torch()
    command = [sys.executable, "-P", "-m", "shoal.node.trainer.fit_check", spec]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    try:
        checked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return
    if checked.returncode != FAILED:
        # Whatever else was written is the task's own, or a library's.
        return
    lines = checked.stderr.decode("utf-8", "replace").splitlines()
    found = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if found:
        raise BadConfig(found[-1])
