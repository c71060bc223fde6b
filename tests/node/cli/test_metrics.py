"""The dashboard and the alerts name nothing that a node does not tell."""

import json
import re

import pytest
from fake_node import make_status
from prometheus_client.parser import text_string_to_metric_families

from shoal.node.cli import main as cli
from shoal.node.daemon.round_log import RoundCounts
from shoal.node.web.metrics import render


def told() -> set[str]:
    """Return the names of all samples of a node in the middle of a run."""
    counts = RoundCounts()
    for done in make_status().history:
        counts.add(done)
    page = render(make_status(totals=counts.totals)).decode()
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


@pytest.mark.parametrize("what", ["dashboard", "alerts"])
def test_every_name_is_one_that_a_node_tells(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", what]) == 0
    names = set(re.findall(r"\bshoal_\w+", capsys.readouterr().out))
    assert len(names) > 5
    assert names <= told()


def test_the_dashboard_is_json_with_a_query_in_every_panel(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["metrics", "dashboard"])
    panels = json.loads(capsys.readouterr().out)["panels"]
    assert len({each["id"] for each in panels}) == len(panels) == 18
    assert all(target["expr"] for each in panels for target in each["targets"])


def test_the_alerts_are_rules_with_something_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    promql = pytest.importorskip("promql_parser")
    yaml = pytest.importorskip("yaml")
    cli.main(["metrics", "alerts"])
    (group,) = yaml.safe_load(capsys.readouterr().out)["groups"]
    for rule in group["rules"]:
        assert promql.parse(rule["expr"])
        assert set(rule["annotations"]) == {"summary", "action"}
    cli.main(["metrics", "dashboard"])
    for panel in json.loads(capsys.readouterr().out)["panels"]:
        assert all(promql.parse(target["expr"]) for target in panel["targets"])
