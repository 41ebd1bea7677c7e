"""Words that the rooms of ``observe`` share, besides the records of the core. Knows nobody.

Tested in ``tests/observe/test_harmless.py``.
"""

from __future__ import annotations

from typing import Final

from exporter.core.records import WINDOWS
from exporter.core.source_records import SourceTotals, SourceView

FIGURES: Final = ("stored_messages", "stored_conversations", "registered_users", "messages_today", "active_users")


class SourceError(Exception):
    """A reading that gave nothing; ``text`` is fit for people, logs and pages. Trying again later is right."""

    def __init__(self, text: str, *, slow: bool = False, lasting: bool = False, where: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.where = where
        """The file or the server's address, and what is in the way there: for logs and terminals only."""
        self.slow = slow
        """It ran out of time: a smaller piece may succeed."""
        self.lasting = lasting
        """It stays so until somebody changes something: rights, a password, a path, a schema."""

    @property
    def told(self) -> str:
        """What is told to whoever runs the process."""
        return f"{self.text} ({self.where})" if self.where else self.text


__all__ = ["FIGURES", "WINDOWS", "SourceError", "SourceTotals", "SourceView"]
