"""Documents and manifests that are made from the code are what the code makes now."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.source.__main__ import ROOT, generated


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(path, text, id=str(path.relative_to(ROOT))) for path, text in generated()]
)
def test_what_is_generated_is_in_step_with_the_code(path: Path, text: str) -> None:
    assert path.exists(), "run make docs"
    assert path.read_text(encoding="utf-8") == text, "run make docs"
