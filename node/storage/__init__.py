"""What a node keeps on disk: old or new, never half."""
