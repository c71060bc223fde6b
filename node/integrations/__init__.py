"""Where people train: thin layers between training frameworks and `Swarm`."""
