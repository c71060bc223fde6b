"""Reachability: whether others can dial this node, and what its router can do about it."""
