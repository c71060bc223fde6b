"""Nearest neighbours: what an example's label would be if its neighbours voted, and how wrong labels are.

With frozen embeddings h(x), examples that lie near each other mostly have the same true label, so that a
label its ten neighbours disagree with is likely wrong (estimator A of FedLN, methods/fedln/method.py).
"""

import torch

from shoal.methods.errors import MethodsError
from shoal.methods.extras import how_to_get


def neighbour_labels(embeddings: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Return the majority label among the k nearest of each example, itself included; the least of equals.

    Raises:
        MethodsError: scikit-learn is not installed.
    """
    # Loaded here: it takes a second, and the daemon, which lists methods, needs none of it.
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ModuleNotFoundError:
        raise MethodsError(f"fedln needs sklearn for its neighbours; {how_to_get('sklearn')}") from None

    voters = KNeighborsClassifier(n_neighbors=min(k, len(labels)), weights="uniform")
    voters.fit(embeddings.numpy(), labels.numpy())
    return torch.from_numpy(voters.predict(embeddings.numpy())).to(labels.dtype)


def noise_level(labels: torch.Tensor, voted: torch.Tensor) -> float:
    """Return the share of labels that their neighbours disagree with."""
    return float((labels != voted).double().mean()) if len(labels) else 0.0
