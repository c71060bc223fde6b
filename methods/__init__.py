"""Training methods: generators that compute, ask their peers, and go on. No sockets, threads or clocks."""
