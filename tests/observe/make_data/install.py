"""Install the servers: ejabberd and Prosody from Debian, Synapse from PyPI into a temporary environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEBIAN = {
    "ejabberd": ("ejabberd", "erlang-p1-sqlite3", "erlang-p1-pgsql", "libfaketime"),
    "prosody": ("prosody", "lua-dbi-sqlite3", "lua-dbi-postgresql", "libfaketime"),
    "synapse": ("libfaketime",),
}
SYNAPSE = "matrix-synapse[postgres]==1.163.2"
VENV = Path(tempfile.gettempdir()) / "make-data-synapse"


def install(kind: str) -> None:
    """Make the server of this kind runnable. Debian's packages must not start servers of their own."""
    missing = [package for package in DEBIAN[kind] if not _installed(package)]
    if missing:
        policy = Path("/usr/sbin/policy-rc.d")
        made = not policy.exists()
        if made:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
            subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        finally:
            if made:
                policy.unlink()
    if kind == "synapse" and not (VENV / "bin/synapse_homeserver").exists():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run(
            [str(VENV / "bin/pip"), "install", "-q", SYNAPSE], check=True, env={**os.environ, "PYTHONPATH": ""}
        )


def _installed(package: str) -> bool:
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True, check=False)
    return done.stdout.endswith(" installed")
