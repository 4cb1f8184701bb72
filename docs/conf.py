"""The documentation as a site, by Sphinx: ``make docs``.

Rule: the pages of this folder are written for two readers, GitHub and Sphinx, so they are plain Markdown with relative
links. What only Sphinx needs (the table of contents, the reference of the API) stands in index.md and in api/.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import django
from django.conf import settings
from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import gws_middleware  # noqa: E402

# The reference imports the Django app, which needs a project.
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "gws_middleware.django"], SECRET_KEY="docs"
)
django.setup()

URLS = dict(line.split(", ", 1) for line in metadata("gws-middleware").get_all("Project-URL") or ())
SOURCE = URLS.get("Source")

project = "gws_middleware"
author = "the gws_middleware developers"
copyright = f"2026 {author}"
release = gws_middleware.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "README.md"]  # index.md includes that page
html_theme = "furo"
html_title = f"gws_middleware {release}"

myst_heading_anchors = 4
suppress_warnings = [
    "myst.header",  # settings.md is generated and has one level of headings
]

autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")


def link_to_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Change the links that leave this folder: to files of the repository, or to plain text while it has no address."""

    def changed(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path = (HERE / page).parent.joinpath(target).resolve()
        if path.is_relative_to(HERE):
            return match[0]
        return f"[{text}]({SOURCE}/blob/main/{path.relative_to(ROOT)})" if SOURCE else text

    source[0] = _LINK.sub(changed, source[0])


def start_with_a_comment(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Napoleon takes the beginning of an attribute's first line, up to a colon, for its type. Here it is text."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", link_to_source)
    app.connect("include-read", lambda app, path, page, source: link_to_source(app, page, source))
    app.connect("autodoc-process-docstring", start_with_a_comment, priority=400)  # before napoleon
