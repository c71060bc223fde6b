"""Links between two nodes: TCP and Unix sockets, encrypted records, the stream muxer."""
