"""From sums and sets to the figures that are shown. Knows records; knows no connection.

Tested in ``tests/observe/test_machine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from typing import Final

from exporter.observe.base import Base
from exporter.observe.counting import DirectFigures
from exporter.observe.mapping import Mapping
from exporter.observe.records import FIGURES, WINDOWS, SourceTotals
from exporter.observe.state import State
from exporter.observe.tally import Facts

COMPRESSED: Final = "messages are stored in binary (compress_xml), which SQL cannot read"
PUT_BACK: Final = "this machine's clock was put back: days are reckoned anew by the next recount"
IMPOSSIBLE: Final = "the count is below zero: the next recount will tell"


class Published:
    """The people and conversations of one generation, as counts that are kept up to date in memory."""

    def __init__(self, state: State, generation: int) -> None:
        self._state = state
        self._generation = generation
        self.days = state.days(generation)
        self.domains = state.domains(generation)
        self._latest = Facts()

    def absorb(self, facts: Facts) -> None:
        """Add what a tail says; within a step of the state. What the last one said already costs a look-up."""
        state, generation = self._state, self._generation
        new = Facts()
        for person, day in facts.writers.items():
            if self._latest.writers.get(person, -1) >= day:
                continue
            before = state.day_of(generation, person)
            if before is None or before < day:
                new.writers[person] = day
                self.days[day] = self.days.get(day, 0) + 1
                if before is not None:
                    self.days[before] -= 1
        for conversation, domain in facts.conversations.items():
            if conversation in self._latest.conversations or state.has_conversation(generation, conversation):
                continue
            new.conversations[conversation] = domain
            self.domains[domain] = self.domains.get(domain, 0) + 1
        state.absorb(generation, new)
        self._latest = facts

    def active(self, today: int) -> dict[int, int]:
        """People by window: who wrote last on one of its days."""
        return {window: sum(n for day, n in self.days.items() if day > today - window) for window in WINDOWS}

    def conversations(self, rooms: MappingOf[int, str], domains: set[str]) -> int:
        """Conversations that have messages, or are rooms; private ones with an address of a room are none."""
        there = sum(n for domain, n in self.domains.items() if domain not in domains)
        return there + sum(not self._state.has_conversation(self._generation, room) for room in rooms)


def figures(
    mapping: Mapping,
    whole: Base | None,
    published: Published | None,
    direct: DirectFigures,
    now: float,
    progress: float = 0.0,
) -> SourceTotals:
    """What is known, and why the rest is not. Without a complete count: nothing."""
    if whole is None or published is None:
        reason = f"counting for the first time: {progress:.0%}"
        return SourceTotals(None, None, None, None, dict.fromkeys(WINDOWS), now, unknown=dict.fromkeys(FIGURES, reason))
    rooms = whole.rooms | set(direct.rooms.values())
    unknown = dict(mapping.absent)
    if whole.tally.opaque:
        unknown |= dict.fromkeys(
            ("stored_messages", "stored_conversations", "messages_today", "active_users"), COMPRESSED
        )
    if whole.day > int(now // 86_400):
        unknown |= dict.fromkeys(("messages_today", "active_users"), PUT_BACK)
    numbers: dict[str, int | None] = {
        "stored_messages": whole.tally.weight(rooms) // mapping.units,
        "messages_today": whole.tally.weight(rooms, youngest=1) // mapping.units,
        "registered_users": direct.users,
        "stored_conversations": direct.conversations
        if mapping.conversations is not None
        else published.conversations(direct.rooms, rooms),
    }
    for name, number in numbers.items():
        if number is not None and number < 0:
            unknown.setdefault(name, IMPOSSIBLE)
        if name in unknown:
            numbers[name] = None
    active: dict[int, int | None] = {**published.active(int(now // 86_400))}
    if "active_users" in unknown:
        active = dict.fromkeys(WINDOWS)
    return SourceTotals(
        **numbers,
        active_users=active,
        as_of=now,
        unknown=unknown,
    )


def difference(before: MappingOf[str, int], after: MappingOf[str, int]) -> dict[str, int]:
    """After minus before, of the figures that both know."""
    return {name: value - before[name] for name, value in after.items() if name in before}


def by_name(totals: SourceTotals) -> dict[str, int]:
    """The figures that are known, one name each: ``active_users_7d``."""
    found = {
        **{name: getattr(totals, name) for name in FIGURES if name != "active_users"},
        **{f"active_users_{window}d": number for window, number in totals.active_users.items()},
    }
    return {name: number for name, number in found.items() if number is not None}
