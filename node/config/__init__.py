"""Settings from flags, environment and file, and the checks before a start."""
