"""Calls: one peer asks, another answers; and who holds which role of a run."""
