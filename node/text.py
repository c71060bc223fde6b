"""Text for people: numbers with units, and what is safe to print.

Names, addresses and reasons may be a peer's words. Whatever goes to a log, a terminal or the page is escaped
here and nowhere else: `printable` for one text, `escaped` for a status, `LineFormatter` for a log.
"""

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from shoal.node.status import AloneStatus, PortMappingStatus

T = TypeVar("T")
UNANCHORED: Final = (
    "unanchored: this node goes by the most of the peers that it was shown, who may be made up; that ends"
    " once it has trained with some for a while, or with: shoal start --join ADDRESS of a node that you trust"
)
TRACE_MARK: Final = "    | "
"""What the lines of a traceback begin with in a log, so that none looks like a record of its own."""


def printable(text: str) -> str:
    r"""Return a text in one line that moves no cursor: what cannot be printed becomes ``\n`` or ``\x1b``.

    That also holds for characters that turn the direction of a line. A text without them stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def escaped(value: T) -> T:
    """Return a status, or a part of one, with every text in it `printable`, keys too."""
    import msgspec

    found: Any = value
    if isinstance(value, str):
        found = printable(value)
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        news = {name: escaped(old) for name in names if (old := getattr(value, name)) is not None}
        changed = {name: new for name, new in news.items() if new is not getattr(value, name)}
        found = msgspec.structs.replace(value, **changed) if changed else value
    elif isinstance(value, dict):
        found = {escaped(key): escaped(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(escaped(each) for each in value)
    return found  # type: ignore[no-any-return]  # of the type that came in


class LineFormatter(logging.Formatter):
    """Writes a record as one line, whatever a peer's words in it hold; a traceback follows, marked."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging calls it so
        """See `logging.Formatter`."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging calls it so
        """See `logging.Formatter`; an exception's words may be a peer's."""
        return _marked(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # logging calls it so
        """See `logging.Formatter`."""
        return _marked(stack_info)


def log_to_stderr(level: int, line: str) -> None:
    """Send the log of a child process to standard error, each record in one line of this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])


def _marked(text: str) -> str:
    return "\n".join(TRACE_MARK + printable(line) for line in text.split("\n"))


def size(count: float) -> str:
    """Return a number of bytes for people: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time for people: 1.5 s, 12 min, 3.0 h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def alone_for(alone: "AloneStatus") -> str:
    """Return for how long a node has been alone, for people."""
    if alone.waits:
        missed = f", the time of {alone.missed} rounds" if alone.missed else ""
        return duration(alone.seconds) + missed
    return f"{duration(alone.seconds)} and {alone.rounds} rounds"


def reach_line(mapping: "PortMappingStatus") -> str:
    """Say what the router does for a node, and what to do where nobody outside can dial it."""
    if not mapping.is_unreachable:
        return mapping.text
    return f"peers outside this network cannot dial this node: {mapping.text}; to be dialled, {mapping.fix}"


def figure(value: float | None) -> str:
    """Return a measured number for people."""
    return "-" if value is None else f"{value:.4g}"


def our_version() -> str:
    """Return the version of shoal."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shoal")
    except PackageNotFoundError:  # run from a folder without having been installed
        return "0+unknown"
