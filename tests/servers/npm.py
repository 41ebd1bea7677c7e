"""Front-end packages from npm, installed for the tests into a temporary folder; the project itself has none."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

PACKAGES = (
    "@types/react@19",
    "@types/react-dom@19",
    "axe-core@4",
    "esbuild@0.28",
    "react@19",
    "react-dom@19",
    "typescript@7",
    "vue@3",
)


def install(folder: Path, *packages: str) -> None:
    """Put packages into ``folder/node_modules``."""
    subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *packages],
        check=True,
        capture_output=True,
        timeout=400,
    )


def node_modules(folder: Path) -> Path:
    """``folder/node_modules`` with what the tests need; installed by the first of the processes that ask."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists() or done.read_text() != " ".join(PACKAGES):
            install(folder, *PACKAGES)
            done.write_text(" ".join(PACKAGES))
    return folder / "node_modules"


def bundle(modules: Path, source: Path, target: Path) -> None:
    """What a front-end developer's build step does: JSX and imports become one file."""
    command = [str(modules / ".bin" / "esbuild"), str(source), "--bundle", f"--outfile={target}", "--jsx=automatic"]
    subprocess.run(
        [*command, '--define:process.env.NODE_ENV="production"'], check=True, capture_output=True, timeout=400
    )
