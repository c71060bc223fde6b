"""FedSTAR: federated learning with few labels."""
