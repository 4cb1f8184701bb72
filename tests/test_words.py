"""``tools/words.py``: which words it finds, which it leaves alone, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import words

FOUND = {
    "goodbye": ["the goodbye", "say_goodbyes()", "Goodbye"],
    "nobody": ["Nobody waits", "nobody's silence"],
    "somebody": ["somebody's connection", "someone else"],
    "everybody": ["to everybody", "everyone"],
    "anybody": ["anybody may connect"],
    "whoever": ["Whoever calls"],
    "who is here": ["tells who is here", "who are still there"],
    "who left": ["those_who_left", "for who has come back is who has gone", "who comes back"],
    "those who": ["for those who wait"],
    "visitor": ["Visitor(user)", "of_visitors"],
    "neighbour": ["its neighbours"],
    "stranger": ["a stranger's request"],
    "residents": ["the residents"],
    "voice": ["with one voice"],
    "patience": ["the same patience", "be patient"],
    "sent home": ["sends everybody home", "is sent home"],
    "told": ["is told", "_told = False"],
    "heard": ["is not heard", "hears of it"],
    "said": ["what was said"],
    "without a word": ["ends without a word"],
    "news": ["class News:", "self._news"],
    "went by": ["what went by"],
    "vanish": ["has vanished", "self._vanished", "is vanishing"],
    "gone": ["is gone", "is_gone", "the peer has gone away"],
    "has left": ["its view has left", "what it left behind"],
    "let go": ["lets go of it", "let_go"],
    "sign of life": ["a sign of life", "it shows life", "any byte counts as life"],
    "knock": ["a knock", "knocking"],
    "pulse": ["its pulse"],
    "a look": ["a look that comes late", "looks at nothing", "to look at"],
    "behind": ["a flush behind each message", "written behind the 101", "a request hidden behind a handshake"],
    "places": ["reserved places", "gives its place back"],
    "knob": ["each knob", "_NOT_KNOBS"],
    "short path": ["the short path", "what is not common"],
    "house": ["through the house"],
    "door": ["one door to all tools", "by the same door"],
}

RIGHT = [
    "behind a proxy",
    "Behind HAProxy with",
    "behind an ingress",
    "behind your reverse proxy",
    "a consumer that falls behind",
    "410 Gone",
    "has gone through all of it",
    "what has left to be done",
    "from left to right",
    "to the left",
    "looks up the name",
    "it looks like text",
    "in three places",
    "in its place",
    "the newsletter",
    "the hearing aid",
    "resident memory",
    "an in-house server",
    "for the indoor unit",
    "an impatiently written line",
    "unsaid",
]


def test_each_word_has_an_example() -> None:
    """The table here and the list there name the same words."""
    assert [word.name for word in words.WORDS] == list(FOUND)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOUND.items() for text in texts])
def test_word_is_found(name: str, text: str) -> None:
    """In prose and in parts of identifiers."""
    assert name in [each.word.name for each in words.find(text)]


@pytest.mark.parametrize("text", RIGHT)
def test_right_words_are_left_alone(text: str) -> None:
    """A pattern finds the picture, not each use of the word."""
    assert words.find(text) == []


@pytest.mark.parametrize(
    "text", ["a sign\nof life", "# a sign\n    # of life", "/* a sign\n * of life */", "> a sign\n> of life"]
)
def test_phrase_is_found_across_lines(text: str) -> None:
    """Also in a comment; the line is the one in which it begins."""
    assert [(each.number, each.word.name) for each in words.find(text)] == [(1, "sign of life")]


def test_lines_are_counted() -> None:
    """In the order of the text, whatever the order of the list."""
    found = words.find("a knob\n\nfor nobody\n")
    assert [(each.number, each.word.name, each.line) for each in found] == [
        (1, "knob", "a knob"),
        (3, "nobody", "for nobody"),
    ]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two files."""
    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("A plain page.\n")
    (tmp_path / "docs" / "picture.png").write_bytes(b"\x89PNG knob \xff")
    return tmp_path


def test_status_is_zero_without_any(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no text has no words."""
    assert words.main([]) == 0
    assert capsys.readouterr().out == "0 words in 0 files\n"


def test_status_is_one_with_any(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is shown with what to use, and then the counts."""
    (root / "docs" / "page.md").write_text("Each knob.\n")
    assert words.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/page.md:1: 'knob', use: setting, option",
        "    Each knob.",
        "    1  word knob",
        "    1  file docs/page.md",
        "1 words in 1 files",
    ]


def test_paths_are_searched_instead(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is named is searched, and nothing else."""
    (root / "tests").mkdir()
    (root / "tests" / "test_x.py").write_text('"""Nobody."""\n')
    assert words.main(["--summary", "docs"]) == 0
    assert words.main(["--summary", "tests"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    1  word nobody",
        "    1  file tests/test_x.py",
        "1 words in 1 files",
    ]


def test_allowed_line_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its file alone."""
    monkeypatch.setattr(words, "ALLOWED", (("docs/page.md", "user nobody", "a name"),))
    (root / "docs" / "page.md").write_text("user nobody\n")
    assert words.main([]) == 0
    (root / "docs" / "other.md").write_text("user nobody\n")
    assert words.main([]) == 1
