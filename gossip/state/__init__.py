"""State transfer cores: the tree hash of a state, fetching it in verified chunks, serving it."""
