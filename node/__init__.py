"""The node: daemon, trainer, command line and status page; alone touches files and the environment."""
