"""``strings``: what open connections share of their requests."""

from __future__ import annotations

from typing import Any

import pytest

from gws_middleware.servers.strings import share


def fresh(text: str) -> str:
    """Another object with the same text."""
    return "".join(list(text))


def header(name: str, value: str) -> tuple[str, str]:
    return fresh(name), fresh(value)


def variable(name: str, value: Any) -> tuple[str, Any]:
    """Name and value in the environ of a request that has been shared."""
    environ = {fresh(name): fresh(value) if type(value) is str else value}
    share(environ)
    [item] = environ.items()
    return item


def test_repeated_headers_are_the_same_tuples() -> None:
    """In the headers of two requests, and their strings in both environs."""
    first, second = [share(environ, [header("HOST", "a.example")]) for environ in ({}, {})]
    environ = {fresh("HTTP_HOST"): fresh("a.example")}
    assert first[0] is second[0] is share(environ, [header("HOST", "a.example")])[0]
    assert environ["HTTP_HOST"] is first[0][1]


@pytest.mark.parametrize("name", ["HTTP_USER_AGENT", "PATH_INFO", "SERVER_PROTOCOL", "REQUEST_METHOD"])
def test_repeated_variables_are_the_same_strings(name: str) -> None:
    """Also on a server that has no list of headers."""
    (first, value), (second, same) = variable(name, "x y"), variable(name, "x y")
    assert (first is second, value is same) == (True, True)


@pytest.mark.parametrize("name", ["COOKIE", "AUTHORIZATION", "SEC-WEBSOCKET-KEY", "SEC-WEBSOCKET-PROTOCOL", "X-OTHER"])
def test_values_that_may_be_secret_are_not_kept(name: str) -> None:
    """Their names are shared. A token may be in a subprotocol."""
    [(first, value)], [(second, same)] = [share({}, [header(name, "s3cret")]) for _ in range(2)]
    assert (first is second, value is same) == (True, False)


@pytest.mark.parametrize("name", ["HTTP_COOKIE", "QUERY_STRING", "RAW_URI", "REQUEST_URI", "REMOTE_ADDR"])
def test_variables_that_may_be_secret_are_not_kept(name: str) -> None:
    """Nor those that differ from client to client."""
    assert variable(name, "s3cret")[1] is not variable(name, "s3cret")[1]


def test_header_and_variable_are_one_string() -> None:
    """A server has copied it from one to the other."""
    environ = {"HTTP_COOKIE": "a=b"}
    [(_, value)] = share(environ, [header("COOKIE", "a=b")])
    assert environ["HTTP_COOKIE"] is value


def test_environ_stays_equal() -> None:
    """In the same order, and objects that are no plain strings are the same objects."""

    class Text(str):
        __slots__ = ()

    variable("PATH_INFO", "/a")
    before = {"HTTP_HOST": "a", "wsgi.version": (1, 0), "PATH_INFO": Text("/a"), "HTTP_X": "", "app.other": b"a"}
    environ = dict(before)
    assert share(environ, [("HOST", "a"), ("X", "")]) == [("HOST", "a"), ("X", "")]
    assert list(environ.items()) == list(before.items())
    assert environ["PATH_INFO"] is before["PATH_INFO"]


@pytest.mark.parametrize(("name", "value"), [("HTTP_USER_AGENT", "x" * 501), ("HTTP_" + "X" * 501, "x")])
def test_long_strings_are_not_kept(name: str, value: str) -> None:
    """A client could fill the memory with them."""
    (first, one), (second, two) = variable(name, value), variable(name, value)
    assert (first is second and one is two) is False


def test_number_of_strings_is_bounded() -> None:
    """Those that no request has had for long are forgotten."""
    first = variable("PATH_INFO", "/first")[1]
    for number in range(999):
        variable("PATH_INFO", f"/{number}")
    assert variable("PATH_INFO", "/first")[1] is first
    for number in range(1000):
        variable("PATH_INFO", f"/{number}")
    assert variable("PATH_INFO", "/first")[1] is not first
