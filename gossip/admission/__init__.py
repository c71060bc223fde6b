"""Admission core: what is counted against peers, and whom this node links to, groups with and serves."""
