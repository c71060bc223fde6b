"""The container files: read, and held against what they name. No image is built here."""

from pathlib import Path
from typing import Any

import pytest
import typer

from shoal.node.cli.start import flags_of, start
from shoal.node.config.settings import load

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/container"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def nodes() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in compose()["services"].items() if each["image"] == "shoal"}


def test_every_file_that_compose_mounts_is_there() -> None:
    made = compose()
    mounts = [each for service in made["services"].values() for each in service["volumes"]]
    files = [each.partition(":")[0] for each in mounts if each.startswith(".")]
    assert len(files) == 5
    assert all((FOLDER / each).resolve().is_file() for each in files)
    named = {each.partition(":")[0] for each in mounts if not each.startswith(".")}
    assert named == set(made["volumes"])
    build = nodes()["node-1"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"


def test_every_node_starts_with_settings_that_there_are(tmp_path: Path) -> None:
    probe = typer.Typer()
    probe.command()(start)
    for name, service in nodes().items():
        command, *flags = service["command"]
        assert command == "start"
        given = typer.main.get_command(probe).make_context("start", flags).params
        config, _ = load(tmp_path, flags_of(given), service["environment"])
        assert config.http.host == service["hostname"] == config.name == name
        assert config.run.task == ("" if name == "helper" else "digits")


def test_prometheus_scrapes_every_node_at_the_name_that_its_page_answers_to() -> None:
    told = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = told["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"{name}:4711" for name in nodes()]
    (rules,) = told["rule_files"]
    mounts = compose()["services"]["prometheus"]["volumes"]
    assert any(each.endswith(f":{rules}:ro") for each in mounts)


def test_grafana_looks_where_the_dashboard_is_mounted() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards.yml").read_text())["providers"]
    mounts = compose()["services"]["grafana"]["volumes"]
    assert any(f":{provider['options']['path']}/shoal.json:" in each for each in mounts)
    (source,) = yaml.safe_load((FOLDER / "grafana/datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "9090" in str(compose()["services"]["prometheus"]["ports"])


def test_the_image_runs_as_nobody_special_and_copies_no_secret() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert "USER 10001" in lines
    assert 'ENTRYPOINT ["shoal"]' in lines
    assert ".git" in (ROOT / ".dockerignore").read_text().split()
