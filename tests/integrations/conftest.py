"""What the tests of the frameworks share: no hub, a home with a fake daemon, and no warnings of theirs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon

# Before transformers is imported by a test's module.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "h" / "run").mkdir(parents=True)
    return tmp_path / "h"


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(home / "run" / "trainer.sock")
    yield made
    made.close()
