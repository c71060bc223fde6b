"""The page's files: what we took from others is what we say it is, and the pictures are those of the page."""

import re
from hashlib import sha256
from pathlib import Path

import pytest

from scripts.page_scenes import SCENES

ROOT = Path(__file__).resolve().parents[3]
VENDOR = ROOT / "node" / "web" / "page" / "vendor"
PICTURES = ROOT / "docs" / "page"
MAX_BYTES = 100_000


def test_the_code_of_others_is_as_published_and_named_with_its_licence() -> None:
    text = (VENDOR / "README.md").read_text()
    told = dict(re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    found = {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.suffix in (".js", ".css")
    }
    assert told == found
    assert "MIT" in (VENDOR / "uPlot.LICENSE").read_text()


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_has_a_small_picture_that_is_shown(name: str) -> None:
    picture = (PICTURES / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < MAX_BYTES
    assert f"page/{name}.png" in (ROOT / "docs" / "page.md").read_text()


def test_no_picture_is_left_of_a_scene_that_is_gone() -> None:
    assert {path.stem for path in PICTURES.iterdir()} == set(SCENES)
