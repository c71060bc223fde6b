"""The network: the host over libp2p, and the driver that runs a member over a host.

libp2p can ask a central registry for certificates. No node of shoal does. What it would ask with (two HTTP
clients, and what they bring) is 10 MB of every daemon, so stand-ins take the place of those modules before
libp2p is loaded. They have any name that is asked of them, and none of these names can be used.
"""

import sys
from types import ModuleType
from typing import Any, Final

AUTOTLS: Final = ("libp2p.security.tls.autotls.acme", "libp2p.security.tls.autotls.broker")


class _Unused(ModuleType):
    """Stands for a module that is imported and never called."""

    def __getattr__(self, name: str) -> Any:
        """Return a class of this name that cannot be instantiated."""
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> None:
            raise NotImplementedError(f"{name}: shoal asks no registry for certificates")

        return type(name, (), {"__init__": refuse})


if "libp2p" not in sys.modules:
    for each in AUTOTLS:
        sys.modules.setdefault(each, _Unused(each))
