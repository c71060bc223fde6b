"""`shoal pause` and `shoal resume`: a node that does not train for a while, and helps others meanwhile."""

from typing import Annotated

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_of, print_json
from shoal.node.errors import BadConfig
from shoal.node.service.schedule import BadSchedule, parse_duration
from shoal.node.text import duration


def pause(
    home: HomeOption = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="For so long: 90s, 30m, 2h or 1d.", show_default="until shoal resume"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train no more for a while; the node goes on helping others, and nobody's round waits for it.

    Local work of this round is broken off; an exchange with peers is finished. The pause outlives a restart.
    """
    from shoal.node.web import client

    try:
        seconds = None if for_ is None else parse_duration(for_)
    except BadSchedule as error:
        raise BadConfig(f"--for: {error}") from None
    client.pause(home_of(home).path, seconds)
    if json:
        print_json({"paused": True, "seconds": seconds})
        return
    how_long = (
        "until: shoal resume" if seconds is None else f"for {duration(seconds)}, or until: shoal resume"
    )
    print(f"paused {how_long}")


def resume(home: HomeOption = None, json: JsonOption = False) -> None:
    """End a pause; hours and battery, where the settings name them, still count."""
    from shoal.node.web import client

    path = home_of(home).path
    client.resume(path)
    reason = client.fetch_status(path).pause
    if json:
        print_json({"paused": bool(reason), "reason": reason})
        return
    print(f"still not training: {reason}" if reason else "goes on")
