"""The daemon process: its parts in one nursery, the loop of rounds, what it reports."""
