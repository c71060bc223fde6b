"""The notebook of the examples, cell by cell."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def test_the_cells_of_the_notebook_train_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where it keeps its node
    monkeypatch.setenv("SHARE", "1/1")
    monkeypatch.setenv("SHOAL_NETWORK_MDNS", "false")
    monkeypatch.setenv("SHOAL_NETWORK_LISTEN", "/ip4/127.0.0.1/tcp/0")
    monkeypatch.setenv("SHOAL_HTTP_PORT", "0")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, Any] = {}
    try:
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    finally:
        if "optimizer" in names and hasattr(names["optimizer"], "close"):
            names["optimizer"].close()
    assert names["optimizer"].rounds == 4
    assert names["accuracy"] > 0.7
