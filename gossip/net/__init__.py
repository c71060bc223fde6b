"""The network: the host over libp2p, and the driver that runs a member over a host."""
