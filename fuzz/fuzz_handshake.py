"""Fuzz the handshake with atheris: any request ends in a handshake or a refusal, any header value in a value or a
ValueError.

The invariants are the suite's (``tests/protocol/invariants.py``). An input is the values of a request, one a line, in
latin-1 as WSGI has them; a line that is one NUL stands for an absent header. Run from the top of the repository::

    python -m fuzz.fuzz_handshake CORPUS_DIRECTORY -max_total_time=600
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gws_middleware.protocol", "gws_middleware.codes"]):
    from gws_middleware.protocol import handshake  # noqa: F401

from gws_middleware.protocol.handshake import Request
from tests.protocol.invariants import check_handshake, check_headers

ABSENT = "\0"
MODES = ("off", "shared", "dedicated")
GOOD = [
    "GET",
    "HTTP/1.1",
    "server.example.com",
    "websocket",
    "keep-alive, Upgrade",
    "dGhlIHNhbXBsZSBub25jZQ==",
    "13",
    "chat, superchat",
    'permessage-deflate; client_max_window_bits="10"; server_max_window_bits=15, permessage-deflate',
    "https://server.example.com:443",
    ABSENT,
    ABSENT,
]


def test_one_input(data: bytes) -> None:
    """One input of the fuzzer."""
    lines = data.decode("latin-1").split("\n")
    values = [*lines, *GOOD[len(lines) :]][: len(GOOD)]
    method, protocol, *headers = values
    request = Request(method, protocol, *(None if value == ABSENT else value for value in headers))
    for mode in MODES:
        check_handshake(request, mode)
    for value in values:
        check_headers(value)


def write_seeds(directory: Path) -> None:
    """Fill an empty corpus with the good request, and with each of its headers left out."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        return
    for absent in range(1, len(GOOD)):
        lines = [*GOOD[:absent], ABSENT, *GOOD[absent + 1 :]]
        (directory / f"seed-{absent:02}").write_bytes("\n".join(lines).encode("latin-1"))


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer ends; ``arguments`` are its own, the first directory among them is the corpus."""
    directories = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if directories:
        write_seeds(Path(directories[0]))
    atheris.Setup(arguments, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
