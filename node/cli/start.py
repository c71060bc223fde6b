"""`shoal start`: its flags, those of the run by node/config/run_flags.py, and the start of the daemon."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import typer

from shoal.gossip.addresses import listen_at
from shoal.node.cli.common import HomeOption, home_of
from shoal.node.cli.node import write_settings
from shoal.node.config.run_flags import has_run_flags, run_values
from shoal.node.config.settings import RunConfig, is_for_tests, load, scalars
from shoal.node.errors import BadConfig
from shoal.node.storage.home import Home

_SETTINGS: Final = {
    "join": "join",
    "invite": "invite",
    "name": "name",
    "wait_for": "run.wait_for",
    "wait_seconds": "run.wait_seconds",
    "alone": "run.alone",
    "role": "run.role",
    "device": "run.device",
    "threads": "run.threads",
    "base": "run.base",
    "keep_states": "run.keep_states",
    "start_from": "run.start_from",
    "privacy_budget": "privacy.budget",
    "privacy_delta": "privacy.delta",
    "listen": "network.listen",
    "announce": "network.announce",
    "swarm": "network.swarm",
    "patience": "gossip.patience",
    "uplink_mbit": "gossip.uplink_mbit",
    "http_port": "http.port",
    "log_level": "log.level",
    "log_format": "log.format",
    "log_file": "log.file",
}
"""Argument of `start` -> the setting it is."""
_SWITCHES: Final[Mapping[str, tuple[str, object]]] = {
    "external_trainer": ("run.trainer", "external"),
    "hidden": ("network.hidden", True),
    "no_mdns": ("network.mdns", False),
    "no_dht": ("network.dht", False),
    "no_http": ("http.enabled", False),
    "quiet": ("log.quiet", True),
    "no_check": ("check", False),
}
"""Argument of `start` -> the setting, and what it becomes."""


def _network(flags: str, text: str) -> Any:
    return typer.Option(*flags.split(), help=text, rich_help_panel="Network", show_default=False)


def _train(flags: str, text: str) -> Any:
    return typer.Option(*flags.split(), help=text, rich_help_panel="Training", show_default=False)


def _node(flags: str, text: str) -> Any:
    return typer.Option(*flags.split(), help=text, rich_help_panel="Node", show_default=False)


Texts = list[str] | None
Policy = Literal["wait", "wait-for-lost", "go-on"]
Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]


@has_run_flags(RunConfig)
def start(
    ctx: typer.Context,
    home: HomeOption = None,
    join: Annotated[
        Texts, _network("--join -j", "Dial a node: host:port or a multiaddr. Repeatable.")
    ] = None,
    invite: Annotated[
        str | None, _network("--invite", "An invite, as shoal invite prints it: all that a newcomer needs.")
    ] = None,
    task_option: Annotated[Texts, _train("--task-option", "key=value for the task. Repeatable.")] = None,
    wait_for: Annotated[int | None, _train("--wait-for", "Begin when so many are ready, or in time.")] = None,
    wait_seconds: Annotated[
        float | None, _train("--wait-seconds", "Wait for them no longer; 0: twice the patience.")
    ] = None,
    alone: Annotated[
        Policy | None, _train("--alone", "When the others are gone: wait, wait-for-lost or go-on.")
    ] = None,
    role: Annotated[
        str | None, _train("--role", "auto, client, host, or a role of the method: who hosts for others.")
    ] = None,
    device: Annotated[str | None, _train("--device", "auto, cpu, cuda, cuda:1 or mps.")] = None,
    threads: Annotated[int | None, _train("--threads", "Torch's threads.")] = None,
    base: Annotated[str | None, _train("--base", "Fetch the frozen tensors of this name from peers.")] = None,
    keep_states: Annotated[
        int | None,
        _train("--keep-states", "Keep so many earlier states, to train anew without a peer; 0: none."),
    ] = None,
    start_from: Annotated[
        str | None, _train("--from", "Begin the run with the state in a file of shoal forget --retrain.")
    ] = None,
    privacy_budget: Annotated[
        float | None,
        _train("--privacy-budget", "With --privacy: the epsilon at which this node gives nothing more."),
    ] = None,
    privacy_delta: Annotated[
        float | None, _train("--privacy-delta", "The delta of that epsilon; 1e-5 unless given.")
    ] = None,
    external_trainer: Annotated[
        bool, _train("--external-trainer", "A process of yours attaches to train.")
    ] = False,
    port: Annotated[int | None, _network("--port -p", "TCP port to listen on; 0: a free one.")] = None,
    listen: Annotated[Texts, _network("--listen", "Multiaddr to listen on. Repeatable.")] = None,
    announce: Annotated[Texts, _network("--announce", "Address to tell others: a forwarded port.")] = None,
    swarm: Annotated[str | None, _network("--swarm", "Nodes of other swarms do not talk.")] = None,
    hidden: Annotated[
        bool, _network("--hidden", "Nobody can dial this node: be reached through others.")
    ] = False,
    no_mdns: Annotated[bool, _network("--no-mdns", "Do not look in the local network.")] = False,
    no_dht: Annotated[bool, _network("--no-dht", "Do not use the Kademlia table.")] = False,
    patience: Annotated[
        float | None, _network("--patience", "Seconds to wait for a peer that shows nothing.")
    ] = None,
    uplink_mbit: Annotated[
        float | None, _network("--uplink-mbit", "What your line carries up: names the codec that fits.")
    ] = None,
    http_port: Annotated[int | None, _node("--http-port", "Port of the page; 0: a free one.")] = None,
    no_http: Annotated[bool, _node("--no-http", "Serve no page and no metrics.")] = False,
    name: Annotated[str | None, _node("--name", "What this node calls itself.")] = None,
    log_level: Annotated[Level | None, _node("--log-level", "The least important lines to log.")] = None,
    log_format: Annotated[
        Format | None, _node("--log-format", "auto: a live view on a terminal; text: lines; json.")
    ] = None,
    log_file: Annotated[
        str | None,
        _node("--log-file", "Write all of it into this file, which stays below 50 MB; 3 are kept."),
    ] = None,
    no_check: Annotated[
        bool, _train("--no-check", "Do not look first whether task, method and device fit.")
    ] = False,
    quiet: Annotated[bool, _node("--quiet -q", "Write only what somebody should see to.")] = False,
    **run: Any,
) -> None:
    """Run a node until Ctrl-C or shoal stop. Key and settings are made where they are missing."""
    raise typer.Exit(_run(home_of(home), flags_of(ctx.params)))


def flags_of(given: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that arguments of `start` say, by dotted name.

    Raises:
        BadConfig: two of them contradict each other, or a pair has no ``=``.
    """
    flags = {_SETTINGS[key]: value for key, value in given.items() if key in _SETTINGS and value is not None}
    flags |= dict(_SWITCHES[key] for key, value in given.items() if key in _SWITCHES and value)
    flags |= {f"run.{name}": value for name, value in run_values(given).items()}
    if given.get("task_option"):
        flags["run.task_options"] = scalars(given["task_option"], "--task-option")
    port = given.get("port")
    if port is not None:
        if given.get("listen"):
            raise BadConfig("--port and --listen both say where to listen; give one of them")
        if not 0 <= port <= 65535:
            raise BadConfig(f"--port {port}: write a port from 0 to 65535")
        flags["network.listen"] = [listen_at("0.0.0.0", port), listen_at("::", port)]
    # A repeatable flag that was not given is an empty sequence.
    return {setting: value for setting, value in flags.items() if value not in ([], ())}


def _run(home: Home, flags: dict[str, object]) -> int:
    from shoal.node.config.preflight import check
    from shoal.node.config.retraining_preflight import check_start
    from shoal.node.trainer.fit import check_fit
    from shoal.node.trainer.supervisor import spec_text

    config, _ = load(home.path, flags, os.environ)
    home.check_free()  # before the ports, which that node may hold
    check(config)
    check_start(config, home)
    run = config.run
    if config.check and run.task and run.trainer == "spawn" and not is_for_tests(config.testing):
        check_fit(spec_text(run))
    write_settings(home)
    home.load_or_create_key()
    # Here, because it brings the whole network stack, which no other command needs.
    from shoal.node.daemon.process import main as run_daemon

    return run_daemon(config)
