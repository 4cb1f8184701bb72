"""Find words that this project does not use: ``python tools/words.py [--summary] [PATH ...]``.

Rule: names, docstrings, comments and pages use the words of RFC 6455, WSGI, Django and gunicorn. Connections are not
people, and time is not a place. ``WORDS`` is the list. Without paths everything is searched. The exit
status is 1 if there is any of these words, so that ``make lint`` fails.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SEARCHED = (
    "gws_middleware",
    "docs",
    "examples",
    "benchmarks",
    "stress",
    "fuzz",
    "tools",
    "tests",
    ".github",
    "*.md",
    "*.py",
)
NOT_SEARCHED = {"words.py", "test_words.py", "__pycache__", "_build", "site", "node_modules"}
"""This list and its test, and what tools make."""


class Word(NamedTuple):
    """A word or phrase that is not used."""

    name: str
    pattern: str
    r"""A regular expression without distinction of capitals. ``\b`` is the boundary of a word or of a part of an
    identifier. A space is also an underscore, or a line break with the sign of a comment after it.
    """
    instead: str


WORDS = (
    # Connections, peers and callers are not people.
    Word("goodbye", r"goodbye|farewell", "close frame, close, graceful shutdown"),
    Word("nobody", r"nobody", "no connection, no caller, nothing"),
    Word("somebody", r"somebody|\bsomeone\b", "the peer, a connection, a caller"),
    Word("everybody", r"everybody|\beveryone\b", "all connections, all peers"),
    Word("anybody", r"anybody", "any peer, any caller"),
    Word("whoever", r"whoever", "the caller, the peer"),
    Word("who is here", r"\bwho (?:is|are) (?:still )?(?:here|there)\b", "open connections"),
    Word("who left", r"\bwho (?:has |have |had |is |are )?(?:came|comes?|gone|goes|left|leaves?)\b", "which closed"),
    Word("those who", r"\bthose who\b", "the clients that, the callers that"),
    Word("visitor", r"visitor", "client, user"),
    Word("neighbour", r"neighbou?r", "other connection"),
    Word("stranger", r"stranger", "unknown client"),
    Word("residents", r"\bresidents\b", "idle connections"),
    Word("voice", r"\bvoices?\b", "what it is"),
    Word("patience", r"patien(?:ce|t\b)", "timeout, deadline"),
    Word("sent home", r"\bsen(?:d|ds|t|ding) (?:\w+ )?home\b", "closed"),
    # Data is sent and received, facts are passed and stated.
    Word("told", r"\btold\b", "sent, delivered, passed, reported"),
    Word("heard", r"\bheard\b|\bhears?\b", "received"),
    Word("said", r"\bsaid\b", "sent, stated"),
    Word("without a word", r"\bwithout a word\b", "without a close frame, without a log record"),
    Word("news", r"\bnews\b", "delta, counters"),
    Word("went by", r"\b(?:went|goes|gone) by\b", "counters, totals"),
    # A connection is open, closed or lost; it is checked, and it has activity.
    Word("vanish", r"vanish", "disconnect, be lost"),
    Word("gone", r"(?<!410\s)\bgone\b(?! (?:through|wrong)\b)", "closed, disconnected, lost, over"),
    Word("has left", r"\b(?:has|have|had) left\b(?! to\b)|\bleft behind\b", "has returned, has disconnected"),
    Word("let go", r"\blet(?:s|ting)? go\b", "release, close"),
    Word("sign of life", r"\bsigns? of life\b|\bshows? (?:a )?life\b|\bcounts? as life\b", "activity"),
    Word("knock", r"knock", "ping"),
    Word("pulse", r"pulse", "activity, activity counter"),
    Word(
        "a look", r"\b(?:a|each|every|last|latest|next|same|two) looks?\b|\blook(?:s|ed|ing)? at\b", "check, tick, read"
    ),
    # A position is not a time, and a limit has slots.
    Word(
        "behind",
        r"(?<!fall\s)(?<!falls\s)\bbehind\b(?! (?:\S+ ){0,2}(?:prox(?:y|ies)|nginx|haproxy|caddy|ingress)\b)",
        "after (but: behind a proxy)",
    ),
    Word(
        "places",
        r"(?<!two\s)(?<!three\s)(?<!four\s)\bplaces\b"
        r"|\b(?:gives?|frees?|reserves?|releases?) (?:a|one|the|their|its) place\b",
        "slots",
    ),
    # Pictures.
    Word("knob", r"knob", "setting, option"),
    Word("short path", r"\bshort path\b|\bwhat is not common\b", "fast path, slow path"),
    Word("house", r"(?<!in-)\bhouse\b", "process, package"),
    Word("door", r"\bdoors?\b", "interface, entry point"),
)

ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("chat.css", "pulse", "the name of an animation"),
    ("index.html", "pulse", "the name of an animation"),
    ("django/conf.py", "_check_places", "where a setting may stand"),
)
"""What is right as it is: the end of the file's path, a part of the line, and the reason."""

_BOUNDARY = r"(?:(?<![A-Za-z])(?=[A-Za-z])|(?<=[A-Za-z])(?![A-Za-z]))"
_SPACE = r"(?:[ \t_]+|[ \t]*\n[ \t]*(?:#|\*|//|>)?[ \t]*)"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", _SPACE).replace(r"\b", _BOUNDARY), re.IGNORECASE)


_PATTERNS = [(word, _compiled(word.pattern)) for word in WORDS]


class Found(NamedTuple):
    """One of the words in a text."""

    number: int
    """The line."""
    word: Word
    line: str


def find(text: str) -> list[Found]:
    """Search a text.

    Args:
        text: What a file holds.

    Returns:
        What is found, in the order of the text.
    """
    lines = text.splitlines()
    found = []
    for word, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            number = text.count("\n", 0, match.start())
            found.append(Found(number + 1, word, lines[number].strip()))
    return sorted(found, key=lambda each: each.number)


def files(paths: list[str]) -> Iterator[Path]:
    """The text files below some paths.

    Args:
        paths: Files, folders, and patterns of names in the root of the repository.

    Yields:
        Each file that is not excluded.
    """
    for name in paths:
        for path in sorted(ROOT.glob(name)):
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            yield from (each for each in inside if each.is_file() and not NOT_SEARCHED & set(each.parts))


def search(path: Path) -> list[Found]:
    """Search a file; one that is not UTF-8 has no words.

    Args:
        path: The file.

    Returns:
        What is found and not allowed.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return []
    allowed = [part for end, part, _ in ALLOWED if str(path).endswith(end)]
    return [each for each in find(text) if not any(part in each.line for part in allowed)]


def main(arguments: list[str]) -> int:
    """Print what is found.

    Args:
        arguments: Those of the command line.

    Returns:
        The exit status: 1 if something was found.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("paths", nargs="*", default=list(SEARCHED), help="relative to the root of the repository")
    parser.add_argument("--summary", action="store_true", help="count instead of showing each line")
    options = parser.parse_args(arguments)
    words: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for path in files(options.paths):
        name = str(path.relative_to(ROOT))
        for number, word, line in search(path):
            words[word.name] += 1
            counts[name] += 1
            if not options.summary:
                _print(f"{name}:{number}: {word.name!r}, use: {word.instead}\n    {line}")
    for title, counter in (("word", words), ("file", counts)):
        for key, count in counter.most_common():
            _print(f"{count:5}  {title} {key}")
    _print(f"{words.total()} words in {len(counts)} files")
    return 1 if words else 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
