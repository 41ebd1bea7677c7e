"""Comparing a denormalised number of messages per conversation with the messages. Knows readers and mappings.

Each page of conversations is compared in one snapshot, so a counter that is kept right is never found wrong.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from exporter.observe.connections import Reader, Row, Snapshot
from exporter.observe.mapping import Counter, Mapping
from exporter.observe.records import SourceError
from exporter.observe.state import State

SECONDS: Final = 4.0
PAGE_SECONDS: Final = 0.25
"""Seconds for a page."""
MAX_DETAILS: Final = 1_000
"""Wrong conversations whose details are kept; all are counted."""


@dataclass(slots=True)
class Comparison:
    """One pass over all conversations; ``wrong`` holds (conversation, counter, messages)."""

    after: Any = None
    page: int = 200
    number: int = 0
    done: bool = False
    stuck: bool = False
    """Does it not go on: did a page of one conversation take too long, or one fail for another reason than time?"""
    wrong: list[tuple[Any, Any, int]] = field(default_factory=list)

    async def step(self, reader: Reader, mapping: Mapping) -> float:
        """Compare one page: the seconds that it took. Raises SourceError."""
        counter = mapping.counter
        assert counter is not None  # noqa: S101 - asked for only where there is one
        sql = statement(mapping, counter, self.after, self.page)
        started = time.perf_counter()

        async def work(snapshot: Snapshot) -> list[Row]:
            return list(await snapshot.fetch(sql))

        try:
            rows = await reader.read(work, SECONDS)
        except SourceError as error:
            self.stuck = not error.slow or self.page == 1
            if self.stuck:
                raise
            self.page = max(1, self.page // 8)
            return time.perf_counter() - started
        took, self.stuck = time.perf_counter() - started, False
        for conversation, said, counted in rows:
            if said != counted:
                self.number += 1
                if len(self.wrong) < MAX_DETAILS:
                    self.wrong.append((conversation, said, int(counted)))
        self.done = len(rows) < self.page
        if rows:
            self.after = rows[-1][0]
        self.page = max(1, int(self.page * min(4.0, max(0.25, PAGE_SECONDS / max(took, 0.001)))))
        return took


class Counters:
    """The comparison under way, and what the last one found, which the state keeps."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.comparison: Comparison | None = None
        self.inaccurate: Comparison | None = None

    def resume(self) -> None:
        """Know what is in the state."""
        number = self._state.get("inaccurate")
        self.inaccurate = None if number is None else Comparison(number=number)

    def take(self, mapping: Mapping) -> None:
        """What was found of another counter is not told of this one; within a step of the state."""
        counter = None if mapping.counter is None else asdict(mapping.counter)
        if self._state.get("counter") != counter:
            self.forget()
            self._state.put("counter", counter)
            self._state.put("inaccurate", None)

    def begin(self, mapping: Mapping) -> None:
        """A recount has ended; within a step of the state. A comparison that did not end in time found nothing."""
        if self.comparison is not None:
            self.inaccurate = None
            self._state.put("inaccurate", None)
        self.comparison = Comparison() if mapping.counter is not None else None

    def forget(self) -> None:
        """Of another database."""
        self.comparison = self.inaccurate = None

    async def step(self, reader: Reader, mapping: Mapping) -> float:
        """One page of the comparison under way: the seconds that it took. Raises SourceError."""
        if (comparison := self.comparison) is None:
            return 0.0
        took = await comparison.step(reader, mapping)
        if comparison.done:
            self.inaccurate, self.comparison = comparison, None
            with self._state.step():
                self._state.put("inaccurate", comparison.number)
        return took


def statement(mapping: Mapping, counter: Counter, after: Any, page: int) -> str:
    """Rows (conversation, counter, messages) of the next page."""
    conditions = [f"{counter.id} IS NOT NULL", *([counter.where] if counter.where else [])]
    if after is not None:
        conditions.append(f"{counter.id} > {_bound(mapping, after)}")
    where = f" WHERE {' AND '.join(conditions)}"
    return (
        f"SELECT c.id, c.said, (SELECT COALESCE(SUM({mapping.weight}), 0) FROM {mapping.table} e "
        f"WHERE e.{counter.message_conversation} = c.id AND {mapping.where}) AS counted "
        f"FROM (SELECT {counter.id} AS id, {counter.column} AS said FROM {counter.table}{where} "
        f"ORDER BY {counter.id} LIMIT {page}) c ORDER BY c.id"
    )


def _bound(mapping: Mapping, after: Any) -> str:
    """A conversation's id as an SQL literal: a number, bytes, or what is written as a text."""
    if isinstance(after, int):
        return str(after)
    if isinstance(after, bytes):
        return f"X'{after.hex()}'" if mapping.dialect.name == "sqlite" else f"decode('{after.hex()}', 'hex')"
    return mapping.dialect.literal(str(after))
