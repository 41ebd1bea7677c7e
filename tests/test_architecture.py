"""The house: import-linter holds the folders to their rules, and here is what it cannot say.

The rules themselves stand in ``[importlinter]`` of setup.cfg; ``make lint`` checks them.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import exporter

PACKAGE = Path(exporter.__file__).parent
ROOT = PACKAGE.parent
CORE = sorted(PACKAGE.joinpath("core").glob("*.py"))
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "grafana" not in path.parts]
FOLDERS = sorted({path.parent for path in MODULES} - {PACKAGE})


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_asks_no_clock_and_waits_for_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today"), f"it asks a clock in line {node.lineno}"
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), "it waits"


def test_the_tree_in_the_documents_has_every_folder() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    assert {folder.name for folder in FOLDERS if folder.parent == PACKAGE} <= set(re.findall(r"(\w+)/", tree))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_short_and_its_imports_are_absolute(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_first_line_of_a_folder_says_what_it_is(folder: Path) -> None:
    if "migrations" not in folder.parts and "static" not in folder.parts:
        assert (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").split("\n")[0].endswith(".")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(command), "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("core/hub.py", "exporter.node.node", "data flows down"),
        ("store/totals.py", "exporter.settings.model", "store, broker and metrics know the core only"),
        ("node/node.py", "aiohttp", "aiohttp is known to web"),
        ("web/routes/stats.py", "prometheus_client", "prometheus_client is known to metrics"),
        ("core/events.py", "asyncio", "the core knows no loop"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, module: str, planted: str, contract: str) -> None:
    """A rule that nothing can break proves nothing."""
    shutil.copytree(PACKAGE, tmp_path / "exporter", ignore=shutil.ignore_patterns("grafana", "static", "__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    target = tmp_path / "exporter" / module
    target.write_text(target.read_text() + f"\n\ndef planted() -> None:\n    import {planted}\n")
    outcome = lint(tmp_path)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    broken = [line for line in outcome.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), outcome.stdout


def proof_of(path: Path) -> Path | None:
    """The test file of a module's name, or the one that its docstring names."""
    below = path.relative_to(PACKAGE)
    named = [
        file for file in (ROOT / "tests").rglob(f"test_{path.stem}.py") if below.parts[0] in (*file.parts, path.name)
    ]
    if named:
        return named[0]
    said = re.search(r"Tested in ``(tests/\S+\.py)``", ast.get_docstring(ast.parse(path.read_text())) or "")
    return ROOT / said[1] if said else None


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if not path.stem.startswith("_") and "migrations" not in path.parts],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_module_has_a_test_of_its_name_or_says_where_it_is_tested(path: Path) -> None:
    proof = proof_of(path)
    assert proof is not None, "name its test in the docstring: Tested in ``tests/…``."
    assert proof.exists()
