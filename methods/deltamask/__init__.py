"""DeltaMask: masks of a frozen model, in a fraction of a bit per weight."""
