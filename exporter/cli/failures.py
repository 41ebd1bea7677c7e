"""What a command says that cannot do its work, in one line on stderr, and the status that it ends with.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

import click

from exporter.core.errors import Misconfigured, Unavailable, missing_extra, os_problem
from exporter.core.redaction import mask, printable
from exporter.settings.ineffective_variables import left_empty, misspelt

FAILED: Final = 1
DIFFERENCES: Final = 1  # of verify
USAGE: Final = 2  # what click ends with, too
UNCHECKED: Final = 2  # of verify, simulate and observe --check
EXPECTED: Final = (Misconfigured, Unavailable, ModuleNotFoundError, OSError)
"""What may keep a command from its work without being a defect: see ``print_reason``."""


def print_error(message: str) -> None:
    """One line on stderr, whatever is in it."""
    line = " ".join(printable(mask(message)).split())
    with contextlib.suppress(OSError):
        click.echo(f"messaging-exporter: {line}", err=True)


def print_reason(error: Exception, before: str = "") -> bool:
    """Say what kept a command from its work, one of ``EXPECTED``; False for a defect, which deserves its trace."""
    match error:
        case Unavailable():
            said: str | None = f"{error.message}; try again"
        case ModuleNotFoundError():
            said = missing_extra(error)
        case OSError():
            said = os_problem(error)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit, and nobody reads
        case _:
            said = str(error)
    if said is not None and not isinstance(error, BrokenPipeError):  # who has gone is told nothing
        print_error(before + said)
    return said is not None


def print_misspelt() -> None:
    """Say which variables of the environment set nothing, where there is no log to say it."""
    for name, nearest in misspelt(os.environ).items():
        print_error(f"the variable {name} is not known, and changes nothing; did you mean {nearest}?")
    for name in left_empty(os.environ):
        print_error(f"the variable {name} is empty, and counts as not set")
