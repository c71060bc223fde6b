"""From a connection, dialled or accepted, to secured streams on it."""
