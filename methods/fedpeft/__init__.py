"""FedPEFT: only a small part of a frozen model is trained, and travels."""
