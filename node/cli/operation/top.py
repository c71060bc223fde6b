"""Command: top."""

from pathlib import Path
from typing import TYPE_CHECKING

from shoal.node.cli.common import HomeOption, home_of
from shoal.node.errors import BadConfig
from shoal.node.web import client

if TYPE_CHECKING:
    from shoal.node.status import Status


class Running:
    """A node that runs in a home, as a source of what is drawn."""

    def __init__(self, home: Path) -> None:
        """Ask this one."""
        self._home = home

    def status(self) -> "Status":
        """See `shoal.node.top.app.Source`."""
        return client.fetch_status(self._home)

    def events(self, after: int) -> list[client.KeptEvent]:
        """See `shoal.node.top.app.Source`."""
        return client.fetch_events(self._home, after)


def top(home: HomeOption = None) -> None:
    """Show the node and its swarm as they are now, over the whole terminal: peers, rounds, events."""
    try:
        from shoal.node.top.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise BadConfig(
            "shoal top needs the package textual: install it with: pip install textual; without it:"
            " shoal status --watch"
        ) from None
    source = Running(home_of(home).path)
    # A user without a node is told so in a line, and not by an empty screen.
    Top(source, source.status()).run()
