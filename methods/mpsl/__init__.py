"""MPSL: clients keep a model's front, hosts its body; activations and gradients travel in between."""
