"""Documents keep their form: short lines, and one page that leads to all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.servers.exporter import ROOT

FIRST = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "grafana/README.md")]
DOCUMENTS = [*FIRST, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_no_line_is_longer_than_120_characters_and_the_last_one_ends(path: Path) -> None:
    """But for rows of tables, which cannot be broken."""
    text = path.read_text()
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_the_first_page_leads_to_every_other() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+\.md)\)", (ROOT / "docs" / "index.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - linked == {"index.md"}
