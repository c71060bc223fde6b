"""FedCompress: a few shared values per tensor."""
