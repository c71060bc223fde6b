"""What SECURITY.md claims has a test behind it, and names only lies and commands that there are."""

import re
from pathlib import Path
from typing import Final

import pytest

from scripts.byzantine import LIES as IN_NUMPY
from shoal.node.testnet.lies.catalogue import LIES

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = (ROOT / "SECURITY.md").read_text("utf-8")
WORDS: Final = re.findall(r"`([^`\n]+)`", PAGE)


@pytest.mark.parametrize(
    "path", sorted({word for word in WORDS if word.startswith(("tests/", "scripts/", "node/"))})
)
def test_every_file_that_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", sorted({word for word in WORDS if word.startswith("python ")}))
def test_every_command_of_the_page_has_its_script(command: str) -> None:
    assert (ROOT / command.split()[1]).exists()


def test_every_lie_in_the_table_of_figures_is_one_that_can_be_told() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)`", PAGE, re.MULTILINE)
    assert len(rows) > 10
    assert set(rows) <= set(IN_NUMPY)
    assert {lie.name for lie in LIES if lie.who in ("owner", "convener")} <= {*rows, "silent-convener"}


def test_the_page_says_who_may_lie_what_is_not_protected_and_how_to_report() -> None:
    for word in ("outsider", "member", "owner", "convener", "majority", "Backdoors", "## Reporting"):
        assert word.lower() in PAGE.lower()
