"""Nodes of a testnet on the machines of a Ray cluster, each behind a process on the launcher's machine."""
