"""A learner's callbacks that keep what they are told."""

from shoal.methods.learning.learner import Callbacks


class Told(Callbacks):
    """Keeps what it is told."""

    def __init__(self, told: list[tuple[str, str]]) -> None:
        self.told = told

    def problem(self, source: str, text: str) -> None:
        self.told.append((source, text))
