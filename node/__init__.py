"""The node: daemon, trainer, command line and status page. The only folder that touches files and the environment."""
