"""The node: daemon, trainer, command line and status page; alone touches files and the environment."""

if __name__ != "shoal.node":  # as another name, every class would exist twice
    raise ImportError(f"import shoal.node, not {__name__}")
