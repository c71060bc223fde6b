"""For scripts of Hugging Face's Trainer and of TRL: ``from shoal.huggingface import SwarmCallback``."""

from shoal.node.integrations.huggingface import SwarmCallback

__all__ = ["SwarmCallback"]
