"""Fuzz the engine with atheris: any bytes end in messages or in a close, nothing escapes.

The invariants are the suite's (``tests/protocol/invariants.py``). The first byte of an input chooses the engine: its
side, its compression, whether it has sent a close frame. Run from the top of the repository::

    python -m fuzz.fuzz_engine CORPUS_DIRECTORY -max_total_time=600
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gws_middleware.protocol", "gws_middleware.codes"]):
    from gws_middleware.protocol import connection  # noqa: F401

from tests.protocol.invariants import PROFILES, check_engine, check_inflate, check_memory, valid_stream

SEEDS = 400
MOST = 1024
"""Bytes of one input that are used: enough for every limit of the profiles, and fast."""


def test_one_input(data: bytes) -> None:
    """One input of the fuzzer."""
    if not data:
        return
    profile = PROFILES[data[0] % len(PROFILES)]
    stream = data[1:MOST]
    check_engine(stream, profile)
    check_memory(stream, profile, size=64)
    if profile.deflate is not None:
        check_inflate(stream, profile.max_message_size, profile.deflate)


def write_seeds(directory: Path) -> None:
    """Fill an empty corpus with streams of correct peers, so that mutations of them reach more than the first rule."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        return
    rng = random.Random(1)
    for number in range(SEEDS):
        chosen = number % len(PROFILES)
        stream, _ = valid_stream(rng, PROFILES[chosen])
        if len(stream) < MOST // 2:
            (directory / f"seed-{number:03}").write_bytes(bytes([chosen]) + stream)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer ends; ``arguments`` are its own, the first directory among them is the corpus."""
    directories = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if directories:
        write_seeds(Path(directories[0]))
    atheris.Setup(arguments, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
