"""Tiny WSGI applications that the tests run in real servers. Each module has ``app``, and ``wrapped``: the same in a
``WebSocketMiddleware``, for servers whose worker does not wrap it.
"""
