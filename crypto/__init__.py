"""Keys, envelopes and the protocols built on NaCl. No input or output; imports nothing of ours."""
