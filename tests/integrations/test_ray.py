"""A testnet on a Ray cluster of two machines, which are both this one, comes to the usual verdict."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from shoal.node.cli import main as cli
from shoal.node.testnet.processes import left_over

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        yield str(made.address)
    finally:
        made.shutdown()


def test_nodes_on_a_cluster_come_to_a_verdict(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    where = tmp_path / "net"
    words = ["testnet", "up", "--ray", cluster, "--nodes", "2", "--rounds", "4", "--bar", "0.5", "--json"]
    assert cli.main([*words, "--dir", str(where), "--keep"]) == 0, capsys.readouterr()
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] is True
    assert [each["finished"] for each in result["per_node"]] == [True, True]
    # What was learned there has come here.
    assert all(list((where / f"node-{i}" / "state").glob("*.safetensors")) for i in (1, 2))
    assert left_over(where) == []
