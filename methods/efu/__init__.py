"""EFU: a node forgets within its ordinary updates, and no message tells a forgetter from a learner."""
