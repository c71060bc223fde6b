"""The status page, its JSON and metrics, and the client that the command line uses."""
