"""The router before this node: where it is, and how it is asked for a port."""
