"""The handles as a service: one ASGI app, our own protocol and the dialects of other servers."""
