"""MaTU: one vector for all tasks of a node."""
