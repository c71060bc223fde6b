"""Commands about settings."""

import os
from typing import Annotated, Any

import typer

from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.config.settings import HIDDEN, load, settings, toml_value

config_app = typer.Typer(no_args_is_help=True, help="The settings.")


@config_app.command("show")
def config_show(
    home: HomeOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the settings that a start without flags would have."""
    place = home_of(home)
    config, origins = load(place.path, {}, os.environ)
    shown: dict[str, tuple[object, str]] = {}
    for name in settings():
        if name.startswith(HIDDEN) and origins[name] == "default":
            continue
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        shown[name] = (value, origins[name])
    if json:
        print_json({name: {"value": value, "origin": from_} for name, (value, from_) in shown.items()})
        return
    made = table("setting", "value", *(["from"] if origin else []))
    for name, (value, from_) in shown.items():
        row(made, name, toml_value(value), *([from_] if origin else []))
    console().print(made)
    print(f"file: {place.config_file}{'' if place.config_file.exists() else ' (not there: defaults)'}")
