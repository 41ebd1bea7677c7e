"""What was tested, and the lowest that is promised: ``python -m tests.platforms.versions pin | lowest``.

``pin`` writes constraints.txt: the newest versions of everything, for every Python and platform that is supported.
``lowest`` makes an environment with the lower bound of every direct dependency, and runs the tests in it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HEADER = """\
# What the tests ran with, on every Python and platform that is supported. Made by "make constraints".
#   pip install --constraint constraints.txt messaging-exporter
"""
COMPILE = ("-m", "uv", "pip", "compile", "--quiet", "--all-extras", "--no-header", "--no-annotate", "setup.cfg")


def pin() -> None:
    """Write constraints.txt."""
    words = [sys.executable, *COMPILE, "--universal", "--python-version", "3.11"]
    pinned = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300).stdout
    (REPOSITORY / "constraints.txt").write_text(HEADER + pinned)


def lowest(arguments: list[str]) -> int:
    """Run pytest with these arguments on the lowest versions; its exit status."""
    folder = REPOSITORY / "build" / "lowest"
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True, timeout=120)
    words = [sys.executable, *COMPILE, "--resolution", "lowest-direct"]
    versions = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300).stdout
    (folder / "requirements.txt").write_text(versions)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, "--requirement", str(folder / "requirements.txt")], check=True, timeout=900)
    subprocess.run([*install, "--no-deps", "--editable", "."], cwd=REPOSITORY, check=True, timeout=300)
    direct = [line.split(";")[0].strip() for line in versions.splitlines()]
    print(f"lowest direct versions, {len(direct)} packages in all: {' '.join(direct[:12])} …", flush=True)
    return subprocess.run([str(python), "-m", "pytest", *arguments], cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["lowest"]:
        sys.exit(lowest(sys.argv[2:] or ["-q"]))
    pin()
