"""How a node runs for long: beside its service manager, and within what its owner can spare."""
