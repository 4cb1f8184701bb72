"""The WSGI servers: how each gives its connection away, and how its request is ended after that."""
