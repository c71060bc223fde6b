"""Text for people: numbers with units, and what is safe to print."""

from importlib.metadata import PackageNotFoundError, version

from shoal.node.status import AloneStatus


def printable(text: str) -> str:
    """Return a text without control characters: a peer's name must not move the cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)


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


def alone_for(alone: AloneStatus) -> str:
    """Return for how long a node has been alone, for people."""
    if alone.waits:
        missed = f", the time of {alone.missed} rounds" if alone.missed else ""
        return duration(alone.seconds) + missed
    return f"{duration(alone.seconds)} and {alone.rounds} rounds"


def figure(value: float | None) -> str:
    """Return a measured number for people."""
    return "-" if value is None else f"{value:.4g}"


def our_version() -> str:
    """Return the version of shoal."""
    try:
        return version("shoal")
    except PackageNotFoundError:  # run from a folder without having been installed
        return "0+unknown"
