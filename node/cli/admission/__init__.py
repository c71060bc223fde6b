"""The commands that say who may take part in a run."""
