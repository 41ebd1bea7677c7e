"""The Makefile where something is not as on the machine of whoever wrote it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.exporter import ROOT


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``make`` in a folder that has the Makefile and what the test put there."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "setup.cfg").touch()
    command = ("make", "--no-print-directory", *words)
    # Not what a `make test VENV=…` around this hands on: an environment that is in use would be installed into.
    own = ("MAKE", "PYTHON", "VENV", "ARGS")
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=100)


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("text", ["exit 1", None], ids=["too old", "absent"])
def test_a_python_that_will_not_do_is_said_and_no_environment_is_left_for_the_next_try(
    text: str | None, tmp_path: Path
) -> None:
    if text is not None:
        script(tmp_path / "python", text)
    made = make(tmp_path, "run", "PYTHON=./python")
    assert "Python 3.11 or newer is needed: make PYTHON=/path/to/python3\n" in made.stderr
    assert made.returncode == 2
    assert not (tmp_path / ".venv").exists()


def test_what_cannot_be_installed_ends_with_what_is_missing_and_is_tried_again(tmp_path: Path) -> None:
    script(tmp_path / ".venv" / "bin" / "python", "echo 'No matching distribution found' >&2; exit 1")
    for _ in range(2):
        made = make(tmp_path, "run")
        said, hint = made.stderr.splitlines()[:2]
        assert (said, made.returncode) == ("No matching distribution found", 2)
        assert "network" in hint


def test_a_clone_that_was_moved_or_copied_runs_its_own_code(tmp_path: Path) -> None:
    """The scripts of an environment name the folder in which they were made: there they are gone, or others."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    (original / ".venv" / "bin").mkdir(parents=True)
    (original / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (original / "exporter").mkdir()
    (original / "exporter" / "__main__.py").write_text("import sys; print(__file__, *sys.argv[1:])")
    started = f"exec {sys.executable} {original}/exporter/__main__.py $@"
    script(original / ".venv" / "bin" / "messaging-exporter", started)
    (original / "setup.cfg").touch()
    (original / ".venv" / ".run").touch()
    shutil.copytree(original, copy, symlinks=True)
    made = make(copy, "run", "ARGS=--web.listen-address :9000", "--old-file=.venv/.run")
    assert made.stdout.split() == [f"{copy}/exporter/__main__.py", "demo", "--web.listen-address", ":9000"]
