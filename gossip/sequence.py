"""Sequence: numbers that only rise, of a node's records and of the epochs of what it gives."""


class Sequence:
    """The numbers of one identity."""

    def __init__(self, last: int) -> None:
        """`last`: at least as large as any that this identity used before."""
        self.last = last

    def next(self) -> int:
        """Return a number that was never used."""
        self.last += 1
        return self.last
