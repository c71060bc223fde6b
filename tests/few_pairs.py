"""Few examples of two modalities: a share of digits with captions of which only the first are used."""

import torch

from shoal.methods.mpsl.pairs import DigitsCaptions


class Few(DigitsCaptions):
    """A share of which only the first examples are used."""

    def __init__(self, share: str, count: int = 24, tests: int = 30) -> None:
        super().__init__(share, alpha=100.0)
        self._count, self._tests = count, tests

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().train_data()
        return x[: self._count], y[: self._count]

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().test_data()
        return x[: self._tests], y[: self._tests]
