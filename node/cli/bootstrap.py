"""Commands about the addresses that a node dials."""

import os
from typing import Annotated, Literal

import typer

from shoal.gossip.addresses import BadAddress, parse, with_advice
from shoal.node.cli.common import HomeOption, JsonOption, console, home_flag, home_of, print_json, row, table
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, NotRunning
from shoal.node.storage.home import Home
from shoal.node.text import duration

bootstrap_app = typer.Typer(
    no_args_is_help=True, help="Addresses this node dials; none is needed once it has peers."
)


@bootstrap_app.command("add")
def bootstrap_add(
    address: Annotated[str, typer.Argument(help="host:port or a multiaddr.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Dial an address from now on; kept in config.toml."""
    _change(home_of(home), "add", address, json=json)


@bootstrap_app.command("rm")
def bootstrap_rm(
    address: Annotated[str, typer.Argument(help="As shoal bootstrap list prints it.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Dial an address no more; links to it stay as they are."""
    _change(home_of(home), "rm", address, json=json)


def _change(home: Home, verb: Literal["add", "rm"], typed: str, *, json: bool) -> None:
    from shoal.node.config.toml_file import change_join
    from shoal.node.web import client

    try:
        address = str(parse(typed))
    except BadAddress as error:
        raise BadConfig(with_advice(error)) from None
    load(home.path, {}, os.environ)  # a broken file is reported, not overwritten
    told = False
    try:
        (client.add_bootstrap if verb == "add" else client.remove_bootstrap)(home.path, address)
        told = True
    except NotRunning:
        home.create()
    if verb == "add":
        changed = change_join(home.config_file, add=address)
    else:
        changed = change_join(home.config_file, remove=address)
        if not changed and typed != address:
            changed = change_join(home.config_file, remove=typed)
        if not (changed or told):
            raise BadConfig(f"{address} is not among the bootstrap addresses; see: shoal bootstrap list")
    if json:
        print_json({"address": address, "running_node_told": told, "file_changed": changed})
        return
    where = "the running node and config.toml" if told else "config.toml; no node runs"
    print(f"{'added' if verb == 'add' else 'removed'} {address} ({where})")


@bootstrap_app.command("list")
def bootstrap_list(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show every address, and why it failed where it did."""
    from shoal.node.web import client

    place = home_of(home)
    try:
        found = client.fetch_status(place.path).bootstrap
    except NotRunning:
        config, _ = load(place.path, {}, os.environ)
        if json:
            print_json([{"address": address, "state": "not running"} for address in config.join])
        else:
            print(
                "\n".join(config.join)
                or f"none; add one with: shoal bootstrap add host:port{home_flag(place)}"
            )
        return
    if json:
        print_json(found)
        return
    made = table("address", "state", "reason", "attempts", "next try", numbers=("attempts", "next try"))
    for each in found:
        later = duration(max(0.0, each.next_try_seconds)) if each.state == "failed" else "-"
        row(made, each.address, each.state, each.reason or "-", each.attempts, later)
    console().print(made if found else f"none; add one with: shoal bootstrap add host:port{home_flag(place)}")
