"""What the commands share: their common options, and text that is safe to print."""

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from shoal.node.errors import BadHome
from shoal.node.storage.home import Home, absolute, default_home, typed
from shoal.node.text import our_version, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

RUNNING: Final = "A node"
SETUP: Final = "Set-up"
TRAINING: Final = "Training"
WHO: Final = "Who may join"

HomeOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The node's folder: key, settings, state. SHOAL_HOME, or a folder of your user's, by default.",
        show_default=False,
        file_okay=False,
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON value on one line.")]


def home_of(chosen: Path | None) -> Home:
    """Return the home that --home, the environment or the system names."""
    return Home(absolute(chosen) if chosen is not None else default_home(os.environ))


def home_flag(home: Home) -> str:
    """Return `` --home PATH`` where a command needs it to find this home again."""
    with suppress(BadHome):
        if home.path == default_home(os.environ):
            return ""
    return f" --home {typed(home.path)}"


def print_json(value: object) -> None:
    """Print a value as one line of JSON; escaped where the terminal, or a path, has no such characters."""
    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a path that is no Unicode
        text = json.dumps(msgspec.to_builtins(value))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text)


def show_any_character() -> None:
    """Have what standard output and error cannot encode written as an escape: ``LC_ALL=C`` ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a test's or a notebook's
            stream.reconfigure(errors="backslashreplace")


def console() -> "Console":
    """Return where tables go: as wide as they like where no terminal bounds them."""
    from rich.console import Console

    made = Console(markup=False, highlight=False, emoji=False)
    return made if made.is_terminal else Console(width=240, markup=False, highlight=False, emoji=False)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> "Table":
    """Return an empty table; columns in `numbers` are set to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def row(made: "Table", *cells: object) -> None:
    """Add a row of plain text."""
    from rich.text import Text

    made.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in cells))


def show_version(wanted: Any) -> None:
    """Print the version and end, where --version is given."""
    if wanted:
        print(our_version())
        raise typer.Exit
