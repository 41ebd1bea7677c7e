"""Which build this is: the version, and the revision of the source that it was made from.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from exporter import __version__

_PACKAGE: Final = Path(__file__).parent.parent
_DIGITS: Final = 12  # of the commit, as git abbreviates it in large repositories


def revision() -> str | None:
    """The commit, abbreviated; None where nobody wrote it down.

    A wheel and a source distribution bring it in a file (``setup.py``); in a clone git is asked.
    """
    try:
        return (_PACKAGE / "revision.txt").read_text(encoding="ascii").strip()[:_DIGITS] or None
    except OSError:
        pass
    if not (_PACKAGE.parent / ".git").exists():
        return None
    try:
        asked = subprocess.run(  # a name on the path, of a tool that whoever has a clone has
            ["git", "rev-parse", f"--short={_DIGITS}", "HEAD"],
            cwd=_PACKAGE.parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None


def line() -> str:
    """What ``--version`` prints: ``messaging-exporter 0.1.0 (revision 0123456789ab)``."""
    found = revision()
    return f"messaging-exporter {__version__}" + (f" (revision {found})" if found else "")
