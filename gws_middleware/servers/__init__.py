"""The WSGI servers: how each gives its connection away, and how it is left."""
