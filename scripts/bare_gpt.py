"""Instructions that are never measured, for scripts/bench_parts.py: only training takes time."""

from torch import nn

from shoal.methods.tasks.instructions import Instructions


class Bare(Instructions):
    """Two questions for a GPT of random weights; nobody looks how well it answers."""

    def test_data(self) -> None:
        """See `Task`."""

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """See `Task`."""
        return {}
