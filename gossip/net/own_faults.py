"""Own faults: telling our programming errors, and those of what we run on, from what a peer did.

A handshake may end in any exception, since a stranger's bytes go through the library's parsers. An attribute
that is not there, a call of the wrong form, a module that is missing: those are no peer's doing, and to say
of it that it were "not a shoal node" sends its user looking on the wrong machine.
"""

import logging
import traceback
from typing import Final

log = logging.getLogger(__name__)

_KINDS: Final = (AttributeError, TypeError, NameError, ImportError, NotImplementedError)
MAX_PLACES: Final = 64
"""Places in the code of which the traceback has been logged: a stranger that finds one gets one."""
_places: set[tuple[str, int | None]] = set()


def own_fault(error: BaseException) -> BaseException | None:
    """Return the programming error that an exception is, or comes from; nothing where a peer is at fault."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, _KINDS):
            return found
        if isinstance(found, BaseExceptionGroup):
            return next((each for inner in found.exceptions if (each := own_fault(inner))), None)
        found = found.__cause__ or found.__context__
    return None


def tell(what: str, error: BaseException) -> None:
    """Log an error with its traceback, once for each place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = (frames[-1].filename, frames[-1].lineno) if frames else ("", 0)
    if place in _places or len(_places) >= MAX_PLACES:
        log.debug("%s: %s", what, error)
        return
    _places.add(place)
    log.error(
        "%s: a fault of this node or of what it runs on, not of the peer; please report it",
        what,
        exc_info=error,
    )
