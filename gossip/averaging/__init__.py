"""Averaging cores: all-reduce, gather and push-sum, and how numbers are coded and cut into chunks."""
