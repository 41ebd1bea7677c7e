"""What the generated documents have in common."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parents[1]
WIDTH = 120


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph of at most 120 characters a line; no word is cut."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def between(path: Path, name: str, text: str) -> str:
    """The document with ``text`` between its marks ``<!-- made: name -->`` and ``<!-- end: name -->``."""
    begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
    document = path.read_text(encoding="utf-8")
    if not document.count(begin) == document.count(end) == 1:
        raise ValueError(f"{path} has no place for {name}")
    return re.sub(
        re.escape(begin) + ".*" + re.escape(end),
        lambda _: f"{begin}\n\n{text.strip()}\n\n{end}",
        document,
        flags=re.DOTALL,
    )
