"""Policies: what a run puts on everything that its methods reduce."""
