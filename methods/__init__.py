"""Training methods: generators that compute, ask their peers, and go on. No sockets, threads or clocks."""

if __name__ != "shoal.methods":  # as another name, every class would exist twice
    raise ImportError(f"import shoal.methods, not {__name__}")
