"""The swarm in a terminal: `shoal top`."""
