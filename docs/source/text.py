"""What the generated documents have in common."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parents[1]
WIDTH = 120


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph, or an item of a list, of at most 120 characters a line; no word is cut."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + ("  " if text.startswith("* ") else ""),
        break_long_words=False,
        break_on_hyphens=False,
    )


def between(path: Path, name: str, text: str) -> str:
    """The document at ``path`` with ``text`` between its marks ``<!-- made: name -->`` and ``<!-- end: name -->``."""
    try:
        return replaced(path.read_text(encoding="utf-8"), name, text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def replaced(document: str, name: str, text: str) -> str:
    """A document with ``text`` between its marks."""
    begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
    if not document.count(begin) == document.count(end) == 1:
        raise ValueError(f"there is no place for {name}")
    return re.sub(
        re.escape(begin) + ".*" + re.escape(end),
        lambda _: f"{begin}\n\n{text.strip()}\n\n{end}",
        document,
        flags=re.DOTALL,
    )
