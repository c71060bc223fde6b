"""Commands about metrics: what Prometheus reads, and what Grafana and its alerts make of it."""

from pathlib import Path
from typing import Final

import typer

from shoal.node.cli.common import HomeOption, home_of

metrics_app = typer.Typer(no_args_is_help=True, help="What Prometheus reads of a node.")
TEMPLATES: Final = Path(__file__).with_name("templates")


@metrics_app.command("show")
def show(home: HomeOption = None) -> None:
    """Print the metrics of the running node, as Prometheus reads them at /metrics of its page."""
    from shoal.node.web import client
    from shoal.node.web.metrics import render

    print(render(client.fetch_status(home_of(home).path)).decode(), end="")


@metrics_app.command("dashboard")
def dashboard() -> None:
    """Print a dashboard for Grafana: shoal metrics dashboard > shoal.json, then import the file there."""
    print((TEMPLATES / "grafana.json").read_text(encoding="utf-8"), end="")


@metrics_app.command("alerts")
def alerts() -> None:
    """Print alerts for Prometheus: shoal metrics alerts > shoal.yml, then name the file in rule_files."""
    print((TEMPLATES / "alerts.yml").read_text(encoding="utf-8"), end="")
