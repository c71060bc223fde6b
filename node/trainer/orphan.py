"""Orphan: a trainer ends with its daemon, also one that was killed and could not say so.

Between two steps a trainer looks for itself; this is for who is in a long step, a measure, or a load of data.
"""

import os
import threading
import time
from typing import Final

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whose child we are."""
GRACE: Final = 2.0
"""Seconds to end in good order, as who waits for the daemon does at once."""


def end_with_parent(parent: int) -> None:
    """End this process some seconds after its parent; `parent`: its pid, as of the start."""
    threading.Thread(target=_watch, args=(parent,), name="orphan", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    time.sleep(GRACE)
    # Nothing is half on disk at any moment, and the main thread may never come back from where it is.
    os._exit(0)
