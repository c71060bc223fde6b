"""FedIT: instruction tuning of a language model by low-rank changes, which alone travel."""
