"""Training anew without a peer: what a node keeps for it, and the file from which the others follow."""
