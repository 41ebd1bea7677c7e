"""Exact under way, of tables of one's own: messages are stamped when they are deleted, and everything fails at times.

Beside ``test_machine``, which plays Synapse: the key is a number or the time, with an index on the time or without;
transactions stay open for minutes and date all that they do with their beginning; readings break off between any two
statements, the state's disk is full, the process is killed; rows vanish, and older ones are put back. A figure may
differ from the truth only after a change that leaves no trace, and after the end of a transaction that a first count
has waited for in vain, until the next recount.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from exporter.observe.connections import Row, Snapshot
from exporter.observe.engine import Engine
from exporter.observe.mapping import Cut
from exporter.observe.published import by_name
from exporter.observe.records import SourceError
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe.databases import Server
from tests.observe.test_machine import LONGEST_TRANSACTION, NOON, PHASES

EXAMPLES = 20
TABLE = """
CREATE TABLE posts (id bigint, at bigint, gone bigint, who text, room text);
CREATE TABLE saved (id bigint, at bigint, gone bigint, who text, room text);
CREATE INDEX i ON posts (id); CREATE INDEX a ON posts (at); CREATE INDEX g ON posts (gone);
"""
MAPPING = """
messages: {table: posts, key: KEY, time: {column: at, unit: ms}, sender: who, conversation: room,
  deleted: {column: gone, unit: ms}}
"""


class _BreaksOff:
    """A reading whose connection is lost before one of its statements."""

    def __init__(self, snapshot: Snapshot, statement: int) -> None:
        self._snapshot, self._left = snapshot, statement

    async def fetch(self, sql: str) -> Sequence[Row]:
        self._left -= 1
        if self._left < 0:
            raise SourceError("the connection was lost")
        return await self._snapshot.fetch(sql)

    async def expect_many(self) -> None:
        await self._snapshot.expect_many()


class Deletions(RuleBasedStateMachine):
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="observe-"))
        self.loop = asyncio.Runner()
        self.now = NOON
        self.number = self.lives = 0
        self.open: dict[int, tuple[float, set[int]]] = {}  # when a writer's transaction began, what it has deleted
        self.waited_for: list[tuple[float, set[int]]] | None = None  # by a first count
        self.given_up: list[tuple[float, set[int]]] = []
        self.silent = self.silent_in_count = self.saved = self.counted = False
        self.cut: tuple[int, Cut] | None = None

    @initialize(
        key=st.sampled_from(["id", "at"]),
        indexed=st.booleans(),
        traceless=st.booleans(),
        skew=st.sampled_from([0, -5, 5]),
    )
    def begin(self, key: str, indexed: bool, traceless: bool, skew: int) -> None:
        self.key, self.traceless, self.skew = key, traceless, skew
        (self.folder / "mapping.yml").write_text(MAPPING.replace("KEY", key))
        self.server.script("DROP TABLE IF EXISTS posts; DROP TABLE IF EXISTS saved;" + TABLE)
        if not indexed and key == "id":
            self.server.script("DROP INDEX a")
        self.engine = self.new_engine()
        self.write(0, 12, 0)
        self.count_to_the_end()

    def new_engine(self) -> Engine:
        source = Source(self.server.url, "custom", config_file=self.folder / "mapping.yml")
        path = self.folder / f"state{self.lives}.db"
        return Engine(source, State(path), load=1.0, clock=lambda: self.now + self.skew, tail=2)

    # --- the server -----------------------------------------------------------------------------------------

    def _moment(self, writer: int) -> float:
        return self.open[writer][0] if writer in self.open else self.now

    @rule(
        writer=st.integers(0, 3),
        rows=st.integers(1, 5),
        age=st.sampled_from([0, 0, 0, 20, -30, 86_400, 20 * 86_400]),
    )
    def write(self, writer: int, rows: int, age: int) -> None:
        writer %= self.server.writers
        if self.key == "at" and age > 20:
            age = 0
        at = int((self._moment(writer) - age) * 1_000)
        numbers = range(self.number + 1, self.number + rows + 1)
        self.number += rows
        values = ", ".join(f"({i}, {at}, NULL, 'u{i % 5}', 'r{i % 7}')" for i in numbers)
        self.server.execute(f"INSERT INTO posts VALUES {values}", writer)

    @rule(writer=st.integers(0, 3), first=st.integers(0, 60), many=st.sampled_from([1, 3, 30]))
    def delete(self, writer: int, first: int, many: int) -> None:
        """By number, counted from the newest."""
        writer %= self.server.writers
        last = self.number - first
        wanted = set(range(last - many + 1, last + 1))
        if any(wanted & taken for other, (_, taken) in self.open.items() if other != writer):
            return  # it would wait for the other
        if writer in self.open:
            self.open[writer][1].update(wanted)
        self.server.execute(
            f"UPDATE posts SET gone = {int(self._moment(writer) * 1_000)} "
            f"WHERE id BETWEEN {min(wanted)} AND {max(wanted)} AND gone IS NULL",
            writer,
        )

    @rule(writer=st.integers(0, 3), deletes=st.booleans())
    def open_transaction(self, writer: int, deletes: bool) -> None:
        writer %= self.server.writers
        if writer not in self.open:
            self.server.execute("BEGIN", writer)
            self.open[writer] = (self.now, set())
            self.delete(writer, 10, 3) if deletes else self.write(writer, 1, 0)
            if deletes:
                self.server.execute("UPDATE posts SET gone = gone WHERE id = -1", writer)

    @rule(writer=st.integers(0, 3), keep=st.sampled_from([True, True, True, False]))
    def end(self, writer: int, keep: bool) -> None:
        writer %= self.server.writers
        if writer in self.open:
            self.server.execute("COMMIT" if keep else "ROLLBACK", writer)
            ended = self.open.pop(writer)
            if any(ended is each for each in self.given_up):
                self.silent = self.silent_in_count = True

    @rule(seconds=st.sampled_from([1, 10, 61, 61, 120, 300, 40_000]))
    def wait(self, seconds: float) -> None:
        began = [at for at, _ in self.open.values()]
        if not began or self.now + seconds - min(began) <= LONGEST_TRANSACTION:
            self.now += seconds

    @precondition(lambda self: self.traceless and not self.open)
    @rule(what=st.sampled_from(["id % 9 = 3", "id <= (SELECT MAX(id) - 6 FROM posts)", "id > 0", "gone IS NOT NULL"]))
    def vanish(self, what: str) -> None:
        self.server.script(f"DELETE FROM posts WHERE {what}")
        self.silent = self.silent_in_count = True

    @precondition(lambda self: self.traceless and not self.open)
    @rule()
    def save(self) -> None:
        self.server.script("DELETE FROM saved WHERE 1 = 1; INSERT INTO saved SELECT * FROM posts")
        self.saved = True

    @precondition(lambda self: self.saved and not self.open)
    @rule()
    def put_back(self) -> None:
        self.server.script("DELETE FROM posts WHERE 1 = 1; INSERT INTO posts SELECT * FROM saved")
        self.silent = self.silent_in_count = True

    # --- the observer ---------------------------------------------------------------------------------------

    def truth(self) -> dict[str, int]:
        day = int((self.now + self.skew) // 86_400)
        active = "(SELECT COUNT(DISTINCT who) FROM posts WHERE at >= {at})"
        wanted = {
            "stored_messages": "(SELECT COUNT(*) FROM posts WHERE gone IS NULL)",
            "messages_today": f"(SELECT COUNT(*) FROM posts WHERE gone IS NULL AND at >= {day * 86_400_000})",
            "stored_conversations": "(SELECT COUNT(DISTINCT room) FROM posts)",
            **{f"active_users_{days}d": active.format(at=(day + 1 - days) * 86_400_000) for days in (1, 7, 30)},
        }
        row = self.server.fetch(f"SELECT {', '.join(wanted.values())}")[0]
        return dict(zip(wanted, row, strict=True))

    def _run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """As the collector does: opened where that is needed."""

        async def run() -> Any:
            if self.engine.mapping is None:
                await self.engine.open()
            return await work()

        return self.loop.run(run())

    @rule()
    def look(self) -> None:
        self._look()

    def _look(self) -> dict[str, int]:
        figures = by_name(self._run(self.engine.look))
        if self.engine.base is None:
            assert figures == {}
            assert self.silent or not self.counted
            self.cut = None
        else:
            true = self.truth()
            assert figures == true or self.silent, f"{figures} is not {true}"
            generation, cut = self.engine.base.generation, self.engine.base.cut
            if self.cut is not None and self.cut[0] == generation:  # what was sealed is not read again
                assert cut.moment >= self.cut[1].moment
                assert all(low >= self.cut[1].lows[name] for name, low in cut.lows.items())
            self.cut = (generation, cut)
        return figures

    def _begin(self, max_wait: float) -> bool:
        is_first = self.engine.base is None
        if self.waited_for is None:
            self.waited_for = list(self.open.values())
        if not self._run(lambda: self.engine.begin(max_wait)):
            return False
        if is_first and self.server.writers > 1:
            self.given_up = [each for each in self.open.values() if any(each is other for other in self.waited_for)]
        self.waited_for = None
        return True

    @rule(max_wait=st.sampled_from([0, 60, 60]))
    def count(self, max_wait: float = 0) -> None:
        """One step of a full count; what it corrects is published."""
        before = self._look()
        if self.engine.to_begin:
            if not self._begin(max_wait):
                return
            self.silent_in_count = False
        for mark in self.engine.counting.all():  # pages of a few rows
            mark.span = 60_000_000 if mark is self.engine.counting.writers or self.key == "at" else 7
        self._run(self.engine.advance)
        after = by_name(self._run(self.engine.look))
        if self.engine.counting is None and self.engine.base is not None:
            self.counted = True
            self.silent = self.silent_in_count
            true = self.truth()
            assert after == true or self.silent, f"{after} is not {true}"
            if before:
                assert self.engine.differences == {name: number - before[name] for name, number in after.items()}

    @rule()
    def count_to_the_end(self) -> None:
        for _ in range(2_000):
            self.count()
            if self.engine.counting is None:
                return
        raise AssertionError("a count does not end")

    @rule(statement=st.integers(0, 12), counts=st.booleans())
    def break_off(self, statement: int, counts: bool) -> None:
        """A pass or a step of a count whose connection is lost between two statements."""
        read = self.engine.reader.read

        async def breaking(work: Callable[[Snapshot], Awaitable[Any]], seconds: float) -> Any:
            return await read(lambda snapshot: work(_BreaksOff(snapshot, statement)), seconds)

        with_steps = self.engine.advance if counts and self.engine.counting else self.engine.look
        self.engine.reader.read = breaking  # type: ignore[method-assign]
        try:
            self._run(with_steps)
        except SourceError:
            self.engine.require_recheck()
        finally:
            del self.engine.reader.read
        self.look()

    @rule(counts=st.booleans())
    def fill_the_disk(self, counts: bool) -> None:
        """Nothing can be written for the time of a pass, or of a step of a count."""
        connection = self.engine.state._connection
        with_steps = self.engine.advance if counts and self.engine.counting else self.engine.look
        if self.engine.mapping is None:
            self._run(self.engine.look)
        connection.execute("PRAGMA query_only = ON")
        try:
            self._run(with_steps)
            self.loop.run(self.engine._pages.kept())
        except SourceError:
            self.engine.require_recheck()
        finally:
            connection.execute("PRAGMA query_only = OFF")
        self.look()

    @rule()
    def die(self) -> None:
        """Killed with -9: what is on disk at this moment is all that the next life knows."""
        old, self.lives = self.folder / f"state{self.lives}.db", self.lives + 1
        for suffix in ("", "-wal"):
            if (source := old.with_name(old.name + suffix)).exists():
                shutil.copy(source, self.folder / f"state{self.lives}.db{suffix}")
        self.loop.run(self.engine.close())
        self.engine, self.waited_for = self.new_engine(), None

    @rule()
    def let_rows_be_sealed(self) -> None:
        """Some traffic, and time in which nobody is late: the line moves."""
        free = [writer for writer in range(self.server.writers) if writer not in self.open]
        for _ in range(3):
            if free:
                self.write(free[0], 4, 0)
            self.look()
            self.wait(65)
        self.look()

    def teardown(self) -> None:
        for writer in list(self.open):
            self.server.execute("ROLLBACK", writer)
        self.loop.run(self.engine.close())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def test_every_figure_is_the_truth_whatever_is_deleted_and_whatever_fails(server: Server) -> None:
    run_state_machine_as_test(
        type("Machine", (Deletions,), {"server": server}),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=PHASES,
        ),
    )
