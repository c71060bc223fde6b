"""What is done to the nodes of a testnet: when, and by whom."""
