"""What is known of a source, as plain values. Knows nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from exporter.core.records import WINDOWS

FIGURES: Final = ("stored_messages", "stored_conversations", "registered_users", "messages_today", "active_users")


class SourceError(Exception):
    """A reading that gave nothing; ``text`` is fit for people, logs and pages. Trying again later is right."""

    def __init__(self, text: str, *, slow: bool = False, lasting: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.slow = slow
        """It ran out of time: a smaller piece may succeed."""
        self.lasting = lasting
        """It stays so until somebody changes something: rights, a password, a path, a schema."""


@dataclass(frozen=True, slots=True)
class SourceTotals:
    """The figures of one source, of one snapshot of its database.

    A figure is None when it is not known; ``unknown`` then says why, by the figure's name. ``active_users`` is keyed by
    window in days: 1, 7, 30. ``as_of`` is Unix seconds. ``inaccurate_conversations`` is None where no counter is mapped
    or it has not been compared yet.
    """

    stored_messages: int | None
    stored_conversations: int | None
    registered_users: int | None
    messages_today: int | None
    active_users: dict[int, int | None]
    as_of: float
    unknown: dict[str, str] = field(default_factory=dict)
    inaccurate_conversations: int | None = None


__all__ = ["FIGURES", "WINDOWS", "SourceError", "SourceTotals"]
