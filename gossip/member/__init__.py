"""One node's whole protocol as one core: the member and its parts."""
