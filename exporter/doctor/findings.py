"""What an examination says.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and will cost somebody an evening."""
    FAILED = "failed"
    """The server does not work like this."""
    UNKNOWN = "unknown"
    """It could not be examined."""
    NONE = "-"
    """There is nothing to examine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page. ``text`` and ``advice`` hold no secret: they are read by whoever helps."""

    subject: str
    outcome: Outcome
    text: str
    advice: str = ""
