"""Merging: adapters of a run made part of the base that they were trained on."""
