"""How the nodes of a testnet are linked: which links, how they are shaped, by a proxy or namespaces."""
