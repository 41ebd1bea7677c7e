"""What was tested, and the lowest that is promised: ``python -m tests.platforms.versions pin | lowest``.

``pin`` writes constraints.txt: the newest versions of everything, for every Python and platform that is supported.
``lowest`` makes an environment with the lower bound of every direct dependency, and runs the tests in it. A bound that
cannot be tried, because another dependency asks for more, ends it with 2.
"""

from __future__ import annotations

import configparser
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def direct() -> Iterator[Requirement]:
    """What setup.cfg asks for by itself, on this machine, in every extra."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(REPOSITORY / "setup.cfg")
    for lines in (config["options"]["install_requires"], *config["options.extras_require"].values()):
        for requirement in map(Requirement, lines.strip().splitlines()):
            ours = requirement.name == config["metadata"]["name"]
            if not ours and (requirement.marker is None or requirement.marker.evaluate()):
                yield requirement


def pins(lines: str) -> dict[str, Version]:
    """The versions that ``name==version`` lines name, for this Python and this machine."""
    found = [Requirement(line) for line in lines.splitlines() if not line.startswith("#")]
    return {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version)
        for pin in found
        if pin.marker is None or pin.marker.evaluate()
    }


def untried(requirements: Iterable[Requirement], installed: Mapping[str, Version]) -> list[str]:
    """Those whose lower bound is not the version installed, or that have none: nothing proves it."""
    return [
        f"{requirement} (tried with {installed[canonicalize_name(requirement.name)]})"
        for requirement in requirements
        if installed[canonicalize_name(requirement.name)]
        not in {Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")}
    ]


def lowest(arguments: list[str]) -> int:
    """Run pytest with these arguments on the lowest versions; its exit status, or 2."""
    folder = REPOSITORY / "build" / "lowest"
    python = folder / "bin" / "python"
    words = [sys.executable, *COMPILE, "--resolution", "lowest-direct"]
    versions = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300).stdout
    installed = pins(versions)
    if missed := untried(direct(), installed):
        print(f"setup.cfg promises what cannot be tried: {', '.join(missed)}", file=sys.stderr)
        return 2
    # With pip: the tests build a wheel and install it.
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
    (folder / "requirements.txt").write_text(versions)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, "--requirement", str(folder / "requirements.txt")], check=True, timeout=900)
    subprocess.run([*install, "--no-deps", "--editable", "."], cwd=REPOSITORY, check=True, timeout=300)
    names = sorted({canonicalize_name(requirement.name) for requirement in direct()})
    print("lowest:", *(f"{name}=={installed[name]}" for name in names), flush=True)
    return subprocess.run([str(python), "-m", "pytest", *arguments], cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["lowest"]:
        sys.exit(lowest(sys.argv[2:] or ["-q"]))
    pin()
