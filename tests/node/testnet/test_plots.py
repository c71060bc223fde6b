"""The plot is drawn, without a display, for whatever curves there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.node.testnet.plots import Curve, plot_accuracy, plot_systems


@pytest.mark.parametrize(
    "curves",
    [
        {f"node-{i}": [(r, r / 10) for r in range(1, 10)] for i in range(5)},
        {f"node-{i}": [(r, r / 10) for r in range(1, 10)] for i in range(32)},
        {"node-1": [(1, 0.5)]},
        {"node-1": []},
        {},
    ],
)
def test_any_curves_make_a_picture(tmp_path: Path, curves: dict[str, Curve]) -> None:
    plot_accuracy(tmp_path / "plot.png", curves, local_only=[0.2, 0.4], bar=0.9, title="a title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_comparison_and_bar_there_is_still_a_picture(tmp_path: Path) -> None:
    plot_accuracy(tmp_path / "plot.png", {"node-1": [(1, 0.5)]}, local_only=(), bar=None, title="")
    assert (tmp_path / "plot.png").exists()


@pytest.mark.parametrize("metrics", [["accuracy"], ["accuracy", "bytes"], ["accuracy", "bytes", "loss"]])
def test_systems_with_unlike_metrics_make_a_picture(tmp_path: Path, metrics: list[str]) -> None:
    systems = {"method": [dict.fromkeys(metrics, 0.5)] * 3, "alone": [{"accuracy": 0.3}]}
    plot_systems(tmp_path / "plot.png", "a title", systems)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_launcher_loads_neither_torch_nor_matplotlib_nor_the_network() -> None:
    script = (
        "import sys, shoal.node.testnet.cli, shoal.node.storage.database;"
        "import shoal.node.storage.checkpoint;"
        "print([m for m in ('torch', 'matplotlib', 'libp2p', 'trio', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
