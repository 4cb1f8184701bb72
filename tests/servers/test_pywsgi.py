"""``pywsgi``: the handler of gevent.pywsgi that cannot be reached. The real servers are in ``test_servers``."""

from __future__ import annotations

from typing import Any

import pytest

from gws_middleware.servers.base import NoSocketError
from gws_middleware.servers.find import find_server
from gws_middleware.servers.pywsgi import GunicornPyWSGI

from .pairs import in_greenlet, pair

__all__ = ["pair"]


def test_handler_that_cannot_be_reached_is_an_error(pair: Any) -> None:
    """Neither ``start_response`` nor the stack leads to it: the sentence says what to do."""

    def start_response(status: str, headers: Any) -> Any:
        return lambda data: None

    server = in_greenlet(find_server, {"gunicorn.sock": pair[0]}, start_response)
    assert isinstance(server, GunicornPyWSGI)
    with pytest.raises(
        NoSocketError, match=r"in a greenlet of its own and hides the server's start_response: put WebSock"
    ):
        in_greenlet(server.switch, start_response, [])
