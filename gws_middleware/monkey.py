"""The patch for programs that start a stock ``gevent.pywsgi`` server and let no caller choose the handler class."""

from __future__ import annotations

from gevent import pywsgi

from .servers.pywsgi import leave_handler
from .typing import Environ

__all__ = ["patch_pywsgi"]

_original = pywsgi.WSGIHandler.get_environ


def patch_pywsgi() -> None:
    """Let every ``gevent.pywsgi`` handler of this process give its connection away: replaces
    ``WSGIHandler.get_environ``. A second call does nothing.
    """
    pywsgi.WSGIHandler.get_environ = _get_environ  # type: ignore[method-assign]


def _get_environ(self: pywsgi.WSGIHandler) -> Environ:
    return leave_handler(_original(self), self)
