"""Exact under way: a writer does what servers do, on up to eight connections, and every figure is the truth of now.

The machine plays Synapse, whose database has every difficulty at once. A figure may differ from the truth only after a
change that leaves no trace (a purge, an outlier that turns into a message, an account that is deactivated); then the
next recount mends it and publishes by how much. Half of the examples make no such change, so that nothing is excused;
half do without the limit that Synapse gives, as all other servers do.

Whether the machine would notice is tested, too: with faults planted in the sealing it must fail.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from exporter.observe import sealing
from exporter.observe.connections import Snapshot
from exporter.observe.engine import Engine
from exporter.observe.mapping import Mapping
from exporter.observe.published import by_name
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import Server

EXAMPLES = 20
PHASES = (Phase.explicit, Phase.generate)
NOON = 1_773_144_000.0  # 2026-03-10T12:00:00Z
TABLES = (
    "events", "event_relations", "redactions", "users", "room_stats_current", "room_stats_state",
    "current_state_events", "stream_positions",
)  # fmt: skip
WHERE = """e.type IN ('m.room.message', 'm.room.encrypted', 'm.sticker', 'm.poll.start')
    AND e.state_key IS NULL AND NOT e.outlier AND e.rejection_reason IS NULL
    AND NOT EXISTS (SELECT 1 FROM event_relations r
        WHERE r.event_id = e.event_id AND r.relation_type IN ('m.replace', 'm.reference'))"""
STANDS = "AND NOT EXISTS (SELECT 1 FROM redactions x WHERE x.redacts = e.event_id)"
PEOPLE = "is_guest = 0 AND deactivated = 0 AND appservice_id IS NULL AND user_type IS NULL"
LONGEST_TRANSACTION = sealing.MAX_TRANSACTION_AGE - 60
SENDERS = [f"@{name}:x" for name in "abcdefg"]


def truth(server: Server, now: float) -> dict[str, int]:
    """The figures by the plain statements."""
    midnight = int(now // 86_400) * 86_400_000
    people = f"SELECT name FROM users WHERE {PEOPLE}"
    writers = f"SELECT COUNT(DISTINCT e.sender) FROM events e WHERE {WHERE} AND e.sender IN ({people})"
    statements = {
        "stored_messages": f"SELECT COUNT(*) FROM events e WHERE {WHERE} {STANDS}",
        "messages_today": f"SELECT COUNT(*) FROM events e WHERE {WHERE} {STANDS} AND e.origin_server_ts >= {midnight}",
        "registered_users": f"SELECT COUNT(*) FROM users WHERE {PEOPLE}",
        "stored_conversations": "SELECT COUNT(*) FROM room_stats_current WHERE local_users_in_room > 0",
        **{
            f"active_users_{days}d": f"{writers} AND e.origin_server_ts >= {midnight - (days - 1) * 86_400_000}"
            for days in (1, 7, 30)
        },
    }
    row = server.fetch(f"SELECT {', '.join(f'({sql})' for sql in statements.values())}")[0]
    return dict(zip(statements, row, strict=True))


class WithoutLimit(Engine):
    """Of a server that does not say below which number everything has been committed."""

    async def look_at_schema(self) -> Mapping:
        return replace(await super().look_at_schema(), safe={})


class Machine(RuleBasedStateMachine):
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="observe-"))
        self.loop = asyncio.Runner()
        self.now = NOON
        self.number = 0
        self.backfilled = 0
        self.lives = 0
        self.engine: Engine | None = None
        self.open: dict[int, list[int]] = {}  # numbers that a writer has taken and not committed
        self.opened: dict[int, float] = {}
        self.taken: set[int] = set()  # numbers without a transaction
        self.silent = False
        self.silent_in_count = False

    @initialize(limit=st.booleans(), traceless=st.booleans(), counted=st.booleans())
    def begin(self, limit: bool, traceless: bool, counted: bool) -> None:
        self.limit, self.traceless = limit, traceless
        self.server.script("; ".join(f"DELETE FROM {table}" for table in TABLES))
        self.server.script(
            "".join(f"INSERT INTO users (name) VALUES ('{name}');" for name in SENDERS[:5])
            + "INSERT INTO room_stats_current VALUES ('!r', 1, 1); INSERT INTO room_stats_state VALUES ('!r', NULL);"
            + "INSERT INTO stream_positions VALUES ('events', 'master', 0);"
        )
        self.engine = self.new_engine(self.folder / "state0.db")
        if counted:
            self.count_to_the_end()

    def new_engine(self, path: Path) -> Engine:
        source = Source(self.server.url, "synapse")
        kind = Engine if self.limit else WithoutLimit
        return kind(source, State(path), load=1.0, clock=lambda: self.now, tail=2)

    # --- the server -----------------------------------------------------------------------------------------

    def _take_number(self, writer: int) -> int:
        self.number += 1
        if writer in self.open:
            self.open[writer].append(self.number)
        return self.number

    def _position(self) -> None:
        """As Synapse does: everything up to the position has been committed."""
        pending = [*self.taken, *(number for numbers in self.open.values() for number in numbers)]
        position = min(pending) - 1 if pending else self.number
        if self.server.engine == "postgresql" or not self.open:
            self.server.script(f"UPDATE stream_positions SET stream_id = {position}")

    @rule(writer=st.integers(0, 7))
    def open_transaction(self, writer: int) -> None:
        writer %= self.server.writers
        if writer not in self.open:
            self._begin(writer)
            if not self.limit:  # without it, a number is believed to be used within the overlap
                self.send(writer, SENDERS[0], 0, "m.room.message", None, "edit", False)

    def _begin(self, writer: int) -> None:
        self.server.execute("BEGIN", writer)
        self.open[writer], self.opened[writer] = [], self.now
        self._take_number(writer)  # long before it is used

    @rule(
        writer=st.integers(0, 7),
        sender=st.sampled_from(SENDERS),
        age=st.sampled_from([0, 0, 0, 60, 86_400, 5 * 86_400, 20 * 86_400, 40 * 86_400]),
        kind=st.sampled_from(["m.room.message", "m.room.message", "m.room.encrypted", "m.room.member"]),
        aim=st.one_of(st.none(), st.integers(1, 40)),
        change=st.sampled_from(["edit", "redact", "redact"]),
        backfill=st.sampled_from([False, False, False, True]),
    )
    def send(self, writer: int, sender: str, age: int, kind: str, aim: int | None, change: str, backfill: bool) -> None:
        writer %= self.server.writers
        if backfill:
            self.backfilled += 1
            number = -self.backfilled
        elif self.open.get(writer) and len(self.open[writer]) == 1 and not self._there(self.open[writer][0]):
            number = self.open[writer][0]
        else:
            number = self._take_number(writer)
        self._insert(writer, number, sender, age, kind, aim, change)
        if not self.open:
            self._position()

    def _insert(
        self, writer: int, number: int, sender: str, age: int, kind: str, aim: int | None = None, change: str = "edit"
    ) -> None:
        event = f"$e{number}"
        redaction = aim is not None and change == "redact"
        self.server.execute(
            "INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) VALUES "
            f"({number}, '{event}', '{'m.room.redaction' if redaction else kind}', '!r', '{sender}', "
            f"{int((self.now - age) * 1000)})",
            writer,
        )
        self.used = {*getattr(self, "used", ()), number}
        if redaction:
            self.server.execute(f"INSERT INTO redactions VALUES ('{event}', '$e{aim}', 1)", writer)
        elif aim is not None:
            self.server.execute(f"INSERT INTO event_relations VALUES ('{event}', '$e{aim}', 'm.replace', NULL)", writer)

    def _there(self, number: int) -> bool:
        return number in getattr(self, "used", ())

    @rule(writer=st.integers(0, 7), keep=st.sampled_from([True, True, True, False]))
    def end(self, writer: int, keep: bool) -> None:
        writer %= self.server.writers
        if writer in self.open:
            self.server.execute("COMMIT" if keep else "ROLLBACK", writer)
            del self.open[writer], self.opened[writer]
            self._position()

    @precondition(lambda self: self.traceless and not self.open)
    @rule(number=st.integers(-5, 40))
    def purge(self, number: int) -> None:
        self.server.script(f"DELETE FROM events WHERE stream_ordering = {number}")
        self._silently()

    @precondition(lambda self: self.traceless and not self.open)
    @rule(number=st.integers(-5, 40), outlier=st.sampled_from(["true", "false"]))
    def turn(self, number: int, outlier: str) -> None:
        self.server.script(f"UPDATE events SET outlier = {outlier} WHERE stream_ordering = {number}")
        self._silently()

    @precondition(lambda self: self.traceless and not self.open)
    @rule(name=st.sampled_from(SENDERS), deactivated=st.integers(0, 1))
    def deactivate(self, name: str, deactivated: int) -> None:
        self.server.script(f"UPDATE users SET deactivated = {deactivated} WHERE name = '{name}'")
        self._silently()

    def _silently(self) -> None:
        self.silent = True
        self.silent_in_count = True

    @rule(seconds=st.sampled_from([1, 10, 61, 61, 300, 40_000]))
    def wait(self, seconds: float) -> None:
        if self._may_pass(seconds):
            self.now += seconds

    def _may_pass(self, seconds: float) -> bool:
        """A transaction that stays open for longer than the engine waits would be a silent change."""
        return not self.open or self.now + seconds - min(self.opened.values()) <= LONGEST_TRANSACTION

    @precondition(lambda self: self.engine is not None and self.engine.base is not None)
    @rule(
        writer=st.integers(0, 7),
        sender=st.sampled_from(SENDERS),
        unused=st.sampled_from([0, 20, 50]),
        uncommitted=st.sampled_from([0, 20, 120, 300]),
        keep=st.sampled_from([True, True, True, False]),
    )
    def commit_late(self, writer: int, sender: str, unused: int, uncommitted: int, keep: bool) -> None:
        """A number is taken, others overtake it, and again while its transaction is open; then it is committed."""
        if not self._may_pass(unused + uncommitted):
            return
        if self.server.writers == 1:  # the numbers are taken in the memory of the server, one transaction at a time
            if self.open:
                return
            number = self._take_number(writer)
            self.taken.add(number)
            self._overtake(unused)
            self.taken.remove(number)
            if keep:
                self._insert(0, number, sender, 0, "m.room.message")
            self._position()
        elif writer not in self.open:
            self._begin(writer)
            number = self.open[writer][0]
            self._overtake(unused)
            self._insert(writer, number, sender, 0, "m.room.message")
            self._overtake(uncommitted)
            self.end(writer, keep)
        self.look()

    def _overtake(self, seconds: float) -> None:
        """Some traffic of somebody else, looked at several times on the way."""
        others = [writer for writer in range(self.server.writers) if writer not in self.open]
        for _ in range(3):
            for _ in range(3 if others else 0):
                self.send(others[0], SENDERS[0], 0, "m.room.message", None, "edit", False)
            self.look()
            self.now += seconds / 3

    # --- the observer ---------------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        assert self.engine is not None
        if self.engine.mapping is None:
            self.loop.run(self.engine.open())
        totals = self.loop.run(self.engine.look())
        if self.engine.base is None:
            assert by_name(totals) == {}
        else:
            self._compare(by_name(totals))

    def _compare(self, figures: dict[str, int]) -> None:
        true = truth(self.server, self.now)
        if figures != true:
            assert self.silent, f"{figures} is not {true}"

    @rule()
    def count(self) -> None:
        """One step of a full count; what it corrects is published."""
        assert self.engine is not None
        if self.engine.mapping is None:
            self.loop.run(self.engine.open())
        before = self.loop.run(self.engine.look()) if self.engine.base else None
        if before is not None:
            self._compare(by_name(before))
        if self.engine.counting is None:
            self.loop.run(self.engine.begin())
            self.silent_in_count = False
        if self.engine.counting is not None:
            for mark in self.engine.counting.all():  # pages of a few rows, or of ten days
                mark.span = 10 * 86_400_000_000 if mark is self.engine.counting.writers else 12
        self.loop.run(self.engine.advance())
        after = self.loop.run(self.engine.look())
        if self.engine.counting is None:
            self.silent = self.silent_in_count
            self._compare(by_name(after))
            if before is not None:  # nothing has changed since, so the difference is what the recount corrected
                difference = {name: number - by_name(before)[name] for name, number in by_name(after).items()}
                assert self.engine.differences == difference

    @rule()
    def count_to_the_end(self) -> None:
        for _ in range(200):
            self.count()
            if self.engine is not None and self.engine.counting is None:
                return
        raise AssertionError("a count does not end")

    @precondition(lambda self: self.engine is not None and self.engine.base is not None)
    @rule(sender=st.sampled_from(SENDERS))
    def let_rows_be_sealed(self, sender: str) -> None:
        """Some traffic, and time in which nobody is late: the line moves."""
        for _ in range(3):
            for _ in range(3):
                self.send(0, sender, 0, "m.room.message", None, "edit", False)
            self.look()
            self.wait(65)
        self.look()

    @rule()
    def die(self) -> None:
        """Killed with -9: what is on disk at this moment is all that the next life knows."""
        old, self.lives = self.folder / f"state{self.lives}.db", self.lives + 1
        new = self.folder / f"state{self.lives}.db"
        for suffix in ("", "-wal"):
            if (source := old.with_name(old.name + suffix)).exists():
                shutil.copy(source, new.with_name(new.name + suffix))
        assert self.engine is not None
        self.loop.run(self.engine.close())
        self.engine = self.new_engine(new)

    def teardown(self) -> None:
        for writer in list(self.open):
            self.server.execute("ROLLBACK", writer)
        if self.engine is not None:
            self.loop.run(self.engine.close())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def machine_of(server: Server) -> type[Machine]:
    server.script(schemas.synapse(server.engine))
    return type("Machine", (Machine,), {"server": server})


def run(server: Server) -> None:
    run_state_machine_as_test(
        machine_of(server),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=PHASES,
        ),
    )


def test_every_figure_is_the_truth(server: Server) -> None:
    run(server)


SETTLED_MARKS = sealing.Sealing._settled_marks


def _every_mark_is_settled(self: sealing.Sealing, horizon: tuple[int, int] | None, now: float) -> list[Any]:
    return list(self._marks)


def _horizon_ignored(self: sealing.Sealing, horizon: tuple[int, int] | None, now: float) -> list[Any]:
    return SETTLED_MARKS(self, None, now)


async def _the_limit_is_ignored(snapshot: Snapshot, mapping: Mapping, name: str, low: int) -> int:
    return low


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], bool, int, int]] = {
    "every mark is settled": (
        lambda at: at.setattr(sealing.Sealing, "_settled_marks", _every_mark_is_settled),
        False,
        20,
        20,
    ),
    "the horizon is ignored": (
        lambda at: at.setattr(sealing.Sealing, "_settled_marks", _horizon_ignored),
        False,
        20,
        300,
    ),
    "the limit is ignored": (lambda at: at.setattr(sealing, "_safe", _the_limit_is_ignored), True, 300, 0),
}
"""How to plant it; does the server give a limit; seconds for which a number is unused, then uncommitted."""


@pytest.mark.parametrize("fault", FAULTS)
def test_the_machine_notices_rows_that_are_sealed_too_early(
    server: Server, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, limit, unused, uncommitted = FAULTS[fault]
    machine = machine_of(server)()
    try:
        machine.begin(limit=limit, traceless=False, counted=True)
        machine.let_rows_be_sealed(SENDERS[0])
        machine.commit_late(1, SENDERS[1], unused, uncommitted, keep=True)
        plant(monkeypatch)
        if fault == "the horizon is ignored" and server.engine == "sqlite":
            machine.commit_late(1, SENDERS[1], unused, uncommitted, keep=True)  # SQLite has none: nothing is planted
        else:
            with pytest.raises(AssertionError, match="is not"):
                machine.commit_late(1, SENDERS[1], unused, uncommitted, keep=True)
    finally:
        machine.teardown()
