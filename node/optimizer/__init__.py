"""A PyTorch loop of the user's own as the trainer of a node that runs beside it."""
