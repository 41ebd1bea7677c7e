"""Since when each thing that is wrong has been wrong, as this process saw it. Knows no clock and no task.

Somebody shows it a snapshot and the counters every few seconds; a condition begins with the first look that finds it
(or earlier, where a record says so) and ends with the first that does not. What only counters tell of has ended when
nothing more of it happened for a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exporter.core.records import Snapshot
from exporter.metrics.quality import Quality

QUIET: Final = 60.0
"""Seconds without another event after which what is told by a counter is over."""


_COUNTED: Final = ("at_capacity", "sends_failing", "internal_errors")


@dataclass(slots=True)
class _Counted:
    """A counter at the last look, and the look at which it had grown."""

    value: int = 0
    grew_at: float = float("-inf")


class Conditions:
    """``look`` at what is true now; ``since`` has a moment (Unix seconds) for each condition, None while it is not."""

    def __init__(self) -> None:
        self.since: dict[str, float | None] = dict.fromkeys(
            ("database_down", "database_read_only", "totals_wrong", "cluster_down", *_COUNTED)
        )
        self._counted = {name: _Counted() for name in _COUNTED}

    def look(self, snapshot: Snapshot, quality: Quality) -> None:
        """Take in a snapshot and what was counted until then."""
        now, database = snapshot.as_of, snapshot.database
        totals = database.totals
        self._note("database_down", not database.up, now, database.last_success)
        self._note("database_read_only", database.up and not database.writable, now)
        if totals is not None:  # otherwise it is not known, and goes on as it was
            found = (totals.inaccurate_conversations, totals.inaccurate_days, totals.missing_triggers)
            self._note("totals_wrong", any(found), now)
        seen = snapshot.broker.last_seen if snapshot.broker is not None else None
        self._note("cluster_down", not snapshot.broker_up, now, seen)
        self.count(now, quality)

    def count(self, now: float, quality: Quality) -> None:
        """Take in what was counted until ``now`` (Unix seconds)."""
        self._count("at_capacity", quality.refused_connections["capacity"], now)
        self._count("sends_failing", quality.sends_failed, now)
        self._count("internal_errors", quality.closed_connections["internal_error"], now)

    def _note(self, name: str, wrong: bool, now: float, recorded: float | None = None) -> None:
        if not wrong:
            self.since[name] = None
        elif self.since[name] is None:
            self.since[name] = now if recorded is None else min(now, recorded)

    def _count(self, name: str, value: int, now: float) -> None:
        counted = self._counted[name]
        if value > counted.value:
            counted.grew_at = now
        counted.value = value
        self._note(name, 0 <= now - counted.grew_at < QUIET, now)  # a clock that was set back makes no condition last
