"""Tables: measured columns in place of pictures, from scikit-learn, which carries them; needs no download.

    breast_cancer    569 tumours, 30 measures of cell nuclei, malignant or benign
    wine             178 wines, 13 measures of a chemist, three cultivars

Of the rows three fifths are trained on, a fifth is validation and a fifth test, stratified by label. Columns
are scaled by the mean and deviation of the training rows, which every node knows here.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from torch import nn

from shoal.methods.errors import BadOption
from shoal.methods.tasks.shares import Sets, SharedData, seen_of

_TABLES = {"breast_cancer": load_breast_cancer, "wine": load_wine}
HIDDEN = 32


class Tables(SharedData):
    """Which class is a row of? A perceptron with one hidden layer of 32."""

    def __init__(
        self,
        table: str = "breast_cancer",
        share: str = "1/1",
        alpha: float = 0.1,
        seed: int = 0,
        minimum: int = 8,
        labelled: float = 1.0,
        noise: float = 0.0,
        sparsity: float = 0.7,
        noisy: float = 0.8,
        optimizer: str = "sgd",
    ) -> None:
        """`table`: breast_cancer or wine. `share`, `alpha`, `seed`, `minimum`: as for the task digits.

        `labelled`, `noise`, `sparsity`, `noisy`, `optimizer`: as for the task shapes.

        Raises:
            BadOption: an option makes no sense.
        """
        if table not in _TABLES:
            raise BadOption(f"table = {table}: choose one of: {', '.join(_TABLES)}")
        sets = load_table(table)
        self._columns, self._classes = sets.train[0].shape[1], int(sets.train[1].max()) + 1
        seen = seen_of(
            sets.train[1],
            share=share,
            alpha=alpha,
            seed=seed,
            minimum=minimum,
            labelled=labelled,
            noise=noise,
            sparsity=sparsity,
            noisy=noisy,
        )
        super().__init__(sets, seen, optimizer=optimizer)

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(self._columns, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, self._classes))


@cache
def load_table(table: str) -> Sets:
    """Return the three parts of a table, float32 [rows, columns] and labels; do not change them."""
    x, y = _TABLES[table](return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    x, x_validation, y, y_validation = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    mean, deviation = x.mean(axis=0), x.std(axis=0)

    parts = [
        ((rows - mean) / deviation, labels.astype(np.int64))
        for rows, labels in ((x, y), (x_validation, y_validation), (x_test, y_test))
    ]
    return Sets(*parts)
