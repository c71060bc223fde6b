"""Keys, envelopes and the protocols built on NaCl. No input or output; imports nothing of ours."""

if __name__ != "shoal.crypto":  # as another name, every class would exist twice
    raise ImportError(f"import shoal.crypto, not {__name__}")
