"""The network: protocol cores without input or output, one driver, and the libp2p host."""

if __name__ != "shoal.gossip":  # as another name, every class would exist twice
    raise ImportError(f"import shoal.gossip, not {__name__}")
