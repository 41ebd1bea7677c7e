"""What setup.cfg cannot say: a build writes down which commit it is made from (``--version`` shows it)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
FILE = Path("exporter", "revision.txt")


def revision() -> str:
    """From ``SOURCE_REVISION``, from the source distribution that this is, or from git; empty where nobody knows."""
    if given := os.environ.get("SOURCE_REVISION"):
        return given
    if (HERE / FILE).exists():
        return (HERE / FILE).read_text(encoding="ascii").strip()
    if not (HERE / ".git").exists():
        return ""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip()


def write(folder: str) -> None:
    """The file within a folder that is being made; the source tree itself stays as it is."""
    if found := revision():
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found + "\n", encoding="ascii")


class BuildPy(build_py):
    """Packages, and the revision beside them."""

    def run(self) -> None:
        """Build; an editable installation runs from the clone, which knows its revision itself."""
        super().run()
        if not self.editable_mode:
            write(self.build_lib)


class Sdist(sdist):
    """The sources, and the revision among them."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree that is packed."""
        super().make_release_tree(base_dir, files)
        write(base_dir)


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
