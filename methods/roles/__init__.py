"""Methods with roles: peers that call, and peers that answer."""
