"""For scripts of Lightning's Trainer: ``from shoal.lightning import SwarmCallback``."""

from shoal.node.integrations.lightning import SwarmCallback

__all__ = ["SwarmCallback"]
