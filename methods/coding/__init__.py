"""How methods pack what they send: bit coding, codebooks, fixed-point numbers, gathered bodies."""
