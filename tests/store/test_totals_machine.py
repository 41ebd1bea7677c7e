"""Random statements on SQLite against a model that only counts; hypothesis looks for an order that tells them apart."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.store.schema import triggers_sqlite
from exporter.store.schema.migrations.versions import r0001_tables, r0002_totals, r0004_days
from exporter.store.totals import STATEMENT

NAMES = st.sampled_from(["a", "b", "c"])
USERS = st.sampled_from(["ann", "bob", "eve"])
SEQS = st.integers(1, 6)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TIMES = st.builds(
    lambda minutes, zone: (NOON + timedelta(minutes=minutes)).astimezone(timezone(timedelta(hours=zone))).isoformat(),
    st.one_of(st.integers(-800, 800), st.integers(-60 * 24 * 40, 60 * 24 * 3)),
    st.integers(-11, 11),
)
CLAUSES = st.sampled_from(["INSERT", "INSERT OR IGNORE"])


def utc_day(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).date().isoformat()


class Model:
    """What the tables hold, and what a recount cannot tell: last_seq, last_active_on, and who wrote on which day."""

    def __init__(self) -> None:
        self.conversations: dict[str, int] = {}
        self.users: dict[str, str | None] = {}
        self.messages: dict[tuple[str, int], str] = {}
        self.senders: dict[tuple[str, int], str] = {}
        self.days: set[tuple[str, str]] = set()

    def put(self, name: str, seq: int, user: str, at: str) -> None:
        self.messages[name, seq], self.senders[name, seq] = at, user
        self.days.add((utc_day(at), user))

    def copy(self) -> Model:
        other = Model()
        other.conversations = dict(self.conversations)
        other.users = dict(self.users)
        other.messages, other.senders = dict(self.messages), dict(self.senders)
        other.days = set(self.days)
        return other


class TotalsMachine(RuleBasedStateMachine):
    """Each rule is a statement of another program; a transaction with savepoints may be open around some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.db = sqlite3.connect(Path(self.folder.name) / "m.db", isolation_level=None)
        self.db.execute("PRAGMA synchronous = OFF")
        for statement in r0001_tables.SQLITE.split(";\n"):
            self.db.execute(statement)
        triggers = map(triggers_sqlite.trigger, triggers_sqlite.TRIGGERS)
        findings = "ALTER TABLE verification ADD COLUMN missing_triggers bigint"
        for statement in (*r0002_totals.SQLITE, findings, *r0004_days.SQLITE, *triggers):
            self.db.execute(statement)
        self.model = Model()
        self.saved: list[Model] = []

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    def refused(self, statement: str, *args: object) -> bool:
        """Run it; True when the database refused it, which must then have changed nothing."""
        try:
            self.db.execute(statement, args)
        except sqlite3.IntegrityError:
            return True
        return False

    @rule(clause=CLAUSES, name=NAMES, at=TIMES, total=st.sampled_from([0, 0, 7]))
    def make_conversation(self, clause: str, name: str, at: str, total: int) -> None:
        known = name in self.model.conversations
        refused = self.refused(
            f"{clause} INTO conversations (id, created_at, total_messages) VALUES (?, ?, ?)", name, at, total
        )
        assert refused == (known and clause == "INSERT")
        self.model.conversations.setdefault(name, 0)

    @rule(clause=CLAUSES, user=USERS, at=TIMES)
    def make_user(self, clause: str, user: str, at: str) -> None:
        known = user in self.model.users
        assert self.refused(f"{clause} INTO users (id, created_at) VALUES (?, ?)", user, at) == (
            known and clause == "INSERT"
        )
        self.model.users.setdefault(user, None)

    @rule(clause=CLAUSES, name=NAMES, rows=st.lists(st.tuples(SEQS, USERS, TIMES), min_size=1, max_size=4))
    def write(self, clause: str, name: str, rows: list[tuple[int, str, str]]) -> None:
        values = ", ".join(f"('{name}', {seq}, '{user}', '{at}')" for seq, user, at in rows)
        taken = Counter(seq for seq, _, _ in rows).most_common(1)[0][1] > 1 or any(
            (name, seq) in self.model.messages for seq, _, _ in rows
        )
        refused = self.refused(f"{clause} INTO messages (conversation_id, seq, sender_id, sent_at) VALUES {values}")
        if name not in self.model.conversations:
            assert refused
            return
        assert refused == (taken and clause == "INSERT")
        for seq, user, at in rows if not refused else ():
            if (name, seq) in self.model.messages:
                continue
            self.model.put(name, seq, user, at)
            self.model.conversations[name] = max(self.model.conversations[name], seq)
            if user in self.model.users:
                self.model.users[user] = max(self.model.users[user] or "", utc_day(at))

    @rule(name=NAMES, seq=SEQS)
    def delete_message(self, name: str, seq: int) -> None:
        self.db.execute("DELETE FROM messages WHERE conversation_id = ? AND seq = ?", (name, seq))
        self.model.messages.pop((name, seq), None)

    @rule(name=NAMES)
    def delete_conversation(self, name: str) -> None:
        self.db.execute("DELETE FROM conversations WHERE id = ?", (name,))
        self.model.conversations.pop(name, None)
        self.model.messages = {key: at for key, at in self.model.messages.items() if key[0] != name}

    @rule(user=USERS)
    def delete_user(self, user: str) -> None:
        self.db.execute("DELETE FROM users WHERE id = ?", (user,))
        self.model.users.pop(user, None)

    @rule(name=NAMES, seq=SEQS, to=NAMES, to_seq=SEQS, at=TIMES)
    def move(self, name: str, seq: int, to: str, to_seq: int, at: str) -> None:
        refused = self.refused(
            "UPDATE messages SET conversation_id = ?, seq = ?, sent_at = ? WHERE conversation_id = ? AND seq = ?",
            to, to_seq, at, name, seq,
        )  # fmt: skip
        if (name, seq) not in self.model.messages:
            assert not refused
            return
        moved = (to, to_seq) != (name, seq)
        assert refused == (to not in self.model.conversations or (moved and (to, to_seq) in self.model.messages))
        if not refused:
            del self.model.messages[name, seq]
            self.model.put(to, to_seq, self.model.senders[name, seq], at)
            self.model.conversations[to] = max(self.model.conversations[to], to_seq)

    @rule(at=TIMES)
    def redate_everything(self, at: str) -> None:
        self.db.execute("UPDATE messages SET sent_at = ?", (at,))
        for name, seq in self.model.messages:
            self.model.put(name, seq, self.model.senders[name, seq], at)

    @rule(on=st.booleans())
    def switch_foreign_keys(self, on: bool) -> None:
        self.db.execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")

    @rule()
    def begin_or_save(self) -> None:
        self.db.execute(f"SAVEPOINT s{len(self.saved)}")
        self.saved.append(self.model.copy())

    @precondition(lambda self: self.saved)
    @rule()
    def roll_back(self) -> None:
        self.model = self.saved.pop()
        self.db.execute(f"ROLLBACK TO s{len(self.saved)}")
        self.db.execute(f"RELEASE s{len(self.saved)}")

    @precondition(lambda self: self.saved)
    @rule()
    def keep(self) -> None:
        self.saved.pop()
        self.db.execute(f"RELEASE s{len(self.saved)}")

    @invariant()
    def every_figure_is_the_models(self) -> None:
        model = self.model
        today = NOON.date()
        days = [(today - timedelta(days=back)).isoformat() for back in (0, 6, 29)]
        found = self.db.execute(STATEMENT.replace("$", "?"), days).fetchone()
        active = [sum(day is not None and since <= day <= days[0] for day in model.users.values()) for since in days]
        assert found[:7] == (
            len(model.messages),
            len(model.conversations),
            len(model.users),
            sum(utc_day(at) == days[0] for at in model.messages.values()),
            *active,
        )
        kept = dict(self.db.execute("SELECT id, total_messages FROM conversations"))
        counted = Counter(name for name, _ in model.messages)
        assert kept == {name: counted[name] for name in model.conversations}
        assert dict(self.db.execute("SELECT id, last_seq FROM conversations")) == model.conversations
        assert dict(self.db.execute("SELECT id, last_active_on FROM users")) == model.users
        by_day = dict(self.db.execute("SELECT day, sum(messages) FROM daily_totals GROUP BY day HAVING sum(messages)"))
        assert by_day == dict(Counter(map(utc_day, model.messages.values())))
        assert set(self.db.execute("SELECT day, user_id FROM user_days")) == model.days
        people = "SELECT day, sum(active_users) AS n FROM daily_totals GROUP BY day HAVING n <> 0"
        assert dict(self.db.execute(people)) == dict(Counter(day for day, _ in model.days))


TestTotals = TotalsMachine.TestCase
TestTotals.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_machine_notices_a_wrong_total() -> None:
    machine = TotalsMachine()
    with contextlib.closing(machine.db):
        machine.make_conversation("INSERT", "a", NOON.isoformat(), 0)
        machine.every_figure_is_the_models()
        machine.db.execute("UPDATE daily_totals SET conversations = 2")
        try:
            machine.every_figure_is_the_models()
        except AssertionError:
            return
        finally:
            machine.folder.cleanup()
        raise AssertionError("it did not")
