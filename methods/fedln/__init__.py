"""FedLN: federated learning with wrong labels."""
