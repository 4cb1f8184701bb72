"""For servers that build a stock ``gevent.pywsgi`` handler where nobody can name another class."""

from __future__ import annotations

import weakref

from gevent import pywsgi

from .servers.pywsgi import HANDLER_KEY
from .typing import Environ

__all__ = ["patch_pywsgi"]

_original = pywsgi.WSGIHandler.get_environ


def patch_pywsgi() -> None:
    """Let every ``gevent.pywsgi`` handler of this process give its connection away; a second call does nothing."""
    pywsgi.WSGIHandler.get_environ = _get_environ  # type: ignore[method-assign]


def _get_environ(self: pywsgi.WSGIHandler) -> Environ:
    environ: Environ = _original(self)
    environ[HANDLER_KEY] = weakref.ref(self)
    return environ
