"""The network: protocol cores without input or output, one driver, and the libp2p host."""
