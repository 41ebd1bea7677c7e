"""Making and upgrading the schema: adoption of rows that are there, interruption, two at once, and clear refusals."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import pkgutil
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from exporter import store as package
from exporter.core.errors import Misconfigured, Unavailable
from exporter.store import Store, errors
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.location import PostgresLocation, SqliteLocation, locate
from exporter.store.schema.migrate import RACES, revisions
from tests.databases import Clock, Place, Postgresql, Sqlite, assert_exact, eventually, make_as_of, opened, send
from tests.servers.postgres import Postgres

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 3, 10)

OLD_ROWS = """
INSERT INTO users (id, created_at)
    SELECT 'u' || n, ('2026-0' || (1 + n % 3) || '-01T10:00:00Z'){time} FROM numbers WHERE n < 40;
INSERT INTO conversations (id, created_at, total_messages, last_seq)
    SELECT 'c' || n, ('2026-01-0' || (1 + n % 9) || 'T23:30:00Z'){time}, n * 7, n % 5 FROM numbers WHERE n < 30;
INSERT INTO conversation_members (conversation_id, user_id)
    SELECT 'c' || (n % 30), 'u' || (n % 40) FROM numbers WHERE n < 100;
INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at)
    SELECT 'c' || (n % 30), 1 + n / 30, 'u' || (n % 55), 'm' || n, 'x',
        ('2026-03-0' || (1 + n % 9) || 'T12:00:00Z'){time}
    FROM numbers WHERE n < 5000;
"""
NUMBERS = {
    "sqlite": "CREATE TEMP TABLE numbers AS WITH RECURSIVE c (n) AS"
    " (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < 9999) SELECT n FROM c;",
    "postgresql": "CREATE TEMP TABLE numbers AS SELECT generate_series(0, 9999) AS n;",
}


def old_rows(place: Place) -> str:
    """Rows as an earlier release may have left them, with totals that nobody kept right."""
    return NUMBERS[place.name] + OLD_ROWS.format(time="::timestamptz" if place.name == "postgresql" else "")


async def migrate(place: Place, revision: str = "head") -> None:
    store = Store(place.url)
    try:
        await store.migrate(revision)
    finally:
        await store.close()


async def test_there_are_revisions_to_adopt_from() -> None:
    assert len(revisions()) >= 2


async def test_a_database_of_an_earlier_revision_is_adopted_with_its_rows(place: Place) -> None:
    await migrate(place, revisions()[0])
    await place.execute(old_rows(place))
    async with opened(place, clock=Clock()) as store:
        await assert_exact(place, store, TODAY)
        found = await store.totals(5)
        assert (found.stored_messages, found.stored_conversations, found.registered_users) == (5000, 30, 40)
        assert found.active_users[30] == 40
        stored = await send(store, "c1", "u1", "new")
        assert stored.seq == 168
        await assert_exact(place, store, TODAY)


async def test_migrating_again_changes_nothing(place: Place) -> None:
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
        before = await place.fetch("SELECT * FROM daily_totals")
        await store.migrate()
        assert await place.fetch("SELECT * FROM daily_totals") == before


async def run(script: str, url: str) -> int:
    """A Python script in another process; its exit status."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, cwd=ROOT)
    return await process.wait()


MIGRATE = "import asyncio, sys; from exporter.store import Store; asyncio.run(Store(sys.argv[1]).migrate())"


async def test_processes_that_migrate_at_once_do_not_collide(place: Place) -> None:
    await migrate(place, revisions()[0])
    await place.execute(old_rows(place))
    assert await asyncio.gather(*(run(MIGRATE, place.url) for _ in range(3))) == [0] * 3
    async with opened(place, clock=Clock()) as store:
        await assert_exact(place, store, TODAY)


KILLED = """
import asyncio, os, signal, sys
from exporter.store import Store
from exporter.store.schema import migrate
original = migrate.upgrade
def upgrade(connection, *arguments):
    original(connection, *arguments)  # everything has been done, nothing has been committed
    os.kill(os.getpid(), signal.SIGKILL)
migrate.upgrade = upgrade
asyncio.run(Store(sys.argv[1]).migrate())
"""


async def test_a_migration_that_is_killed_half_way_has_done_nothing_and_can_be_run_again(place: Place) -> None:
    await migrate(place, revisions()[0])
    await place.execute(old_rows(place))
    assert await run(KILLED, place.url) == -signal.SIGKILL
    assert await place.fetch("SELECT version_num FROM messaging_schema_version") == [(revisions()[0],)]
    async with opened(place, clock=Clock()) as store:
        await assert_exact(place, store, TODAY)


STOPPED = KILLED.replace("SIGKILL", "SIGSTOP").replace(
    "original = ", "from exporter.store.dialects import postgresql; postgresql.ASLEEP = 0.5\noriginal = "
)


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
@pytest.mark.needs("postgres")
async def test_a_migration_whose_machine_falls_asleep_keeps_nothing_from_others(place: Place) -> None:
    await migrate(place, revisions()[0])
    await place.execute(old_rows(place))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPPED, place.url, cwd=ROOT)
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        await eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        async with opened(place, clock=Clock()) as store:
            await assert_exact(place, store, TODAY)
    finally:
        process.kill()
        await process.wait()


async def test_rows_written_while_it_migrates_are_counted(place: Place) -> None:
    await migrate(place, revisions()[0])
    await place.execute(old_rows(place))
    stop = asyncio.Event()

    def write(n: int) -> None:
        statement = (
            "INSERT INTO messages (conversation_id, seq, sender_id, sent_at)"
            f" VALUES ('c2', {10_000 + n}, 'u3', '2026-03-10T01:00:00Z')"
        )
        asyncio.run(place.execute(statement))

    async def writing() -> int:
        n = 0
        while not stop.is_set():
            with contextlib.suppress(asyncpg.DeadlockDetectedError):  # or the migration is
                await asyncio.to_thread(write, n)
                n += 1
        return n

    task = asyncio.create_task(writing())
    await migrate(place)
    stop.set()
    assert await task > 0
    async with opened(place, clock=Clock()) as store:
        await assert_exact(place, store, TODAY)


async def test_a_schema_of_a_newer_version_is_refused_and_not_touched(place: Place) -> None:
    await migrate(place)
    await place.execute("UPDATE messaging_schema_version SET version_num = '9999'")
    store = Store(place.url)
    for call in (store.migrate, store.start):
        with pytest.raises(Misconfigured, match=r"9999.*knows none after") as caught:
            await call()
        assert "\n" not in str(caught.value)
    await store.close()
    assert await place.fetch("SELECT version_num FROM messaging_schema_version") == [("9999",)]


async def test_starting_without_the_schema_says_what_to_run(place: Place) -> None:
    store = Store(place.url)
    if isinstance(place, Sqlite):
        sqlite3.connect(place.path).close()
        place.path.touch()
    with pytest.raises(Misconfigured, match="migrate"):
        await store.start()
    await migrate(place, revisions()[0])
    with pytest.raises(Misconfigured, match="migrate"):
        await store.start()
    await store.close()


async def test_tables_of_another_program_are_left_alone_and_named_as_the_reason(place: Place) -> None:
    if isinstance(place, Sqlite):
        sqlite3.connect(place.path).close()
    await place.execute("CREATE TABLE conversations (number integer)")
    store = Store(place.url)
    with pytest.raises(Misconfigured, match=r"did not make.*conversations"):
        await store.migrate()
    await store.close()
    tables = {"sqlite": "sqlite_master WHERE type = 'table'", "postgresql": "pg_tables WHERE schemaname = 'public'"}
    assert await place.fetch(f"SELECT count(*) FROM {tables[place.name]}") == [(1,)]


OLD_VERSION_TABLE = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
)


async def test_the_version_is_taken_over_from_the_table_of_earlier_releases(place: Place) -> None:
    await make_as_of(place, revisions()[1])
    await place.execute(
        f"DROP TABLE messaging_schema_version; {OLD_VERSION_TABLE}; INSERT INTO alembic_version VALUES ('0002');"
        "INSERT INTO conversations (id) VALUES ('c')"
    )
    async with opened(place) as store:
        assert (await store.totals(5)).stored_conversations == 1
    assert await place.fetch("SELECT version_num FROM messaging_schema_version") == [(revisions()[-1],)]
    await place.execute(f"{OLD_VERSION_TABLE}; INSERT INTO alembic_version VALUES ('cafe')")  # the name is free again
    await migrate(place)
    assert await place.fetch("SELECT version_num FROM alembic_version") == [("cafe",)]


@pytest.mark.parametrize("theirs", ["0001", "0002", "3f2a9b"])
async def test_the_version_of_another_application_is_not_ours_and_is_left_alone(place: Place, theirs: str) -> None:
    if isinstance(place, Sqlite):
        sqlite3.connect(place.path).close()
    await place.execute(f"{OLD_VERSION_TABLE}; INSERT INTO alembic_version VALUES ('{theirs}')")
    async with opened(place) as store:
        await store.create_conversation("c", "ann", [])
    assert await place.fetch("SELECT version_num FROM alembic_version") == [(theirs,)]


async def test_rows_of_an_earlier_revision_without_a_time_can_be_read_corrected_and_deleted(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    await migrate(place, revisions()[0])
    await place.execute(
        "INSERT INTO conversations (id, created_at) VALUES ('c', 'once upon a time');"
        "INSERT INTO conversation_members VALUES ('c', 'ann', 0);"
        "INSERT INTO users (id, created_at) VALUES ('ann', 'early'), ('bob', 'earlier');"
        "INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES"
        " ('c', 1, 'ann', 'long ago'), ('c', 2, 'ann', 'longer ago'), ('c', 3, 'ann', 'even longer ago')"
    )
    async with opened(place, clock=Clock()) as store:
        await assert_exact(place, store, TODAY)
        found, _ = await store.messages_after("c", "ann", 0, 10)
        assert [(message.seq, message.sent_at.year) for message in found] == [(1, 1), (2, 1), (3, 1)]
        for statement in (
            "UPDATE messages SET sent_at = '2026-03-10T00:00:00Z' WHERE seq = 1",
            "DELETE FROM messages WHERE seq = 2",
            "UPDATE users SET created_at = '2026-03-10T00:00:00Z' WHERE id = 'ann'",
            "DELETE FROM users WHERE id = 'bob'",
            "DELETE FROM conversations",
        ):
            await place.execute(statement)
            await assert_exact(place, store, TODAY)


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (DatabaseError(ErrorKind.SERIALIZATION, errors.RACED), RACES + 1),
        (DatabaseError(ErrorKind.READ_ONLY, errors.OLD_SESSION), 1),
    ],
)
async def test_what_is_in_the_way_of_a_migration_for_good_is_told_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: DatabaseError, tries: int
) -> None:
    tried = []

    async def fails(*args: object) -> None:
        tried.append(args)
        raise failure

    monkeypatch.setattr("exporter.store.schema.migrate._migrate", fails)
    monkeypatch.setattr("exporter.store.schema.migrate.OLD_SESSIONS", 0.0)
    with pytest.raises(Unavailable, match=failure.text):
        await Store(f"sqlite:///{tmp_path / 'messaging.db'}").migrate()
    assert len(tried) == tries


# --- places that are not one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "messaging.db",
        "mysql://root:hunter2@host/db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:chat.db",
        "sqlite://host/file",
        "sqlite:///file.db?mode=hunter2",
        "postgresql://user:hunter2@host:port/db",
        "postgresql://user:hunter2@[::1/db",
        "hunter2://",
        "hunter2hunter2hunter2hunter2://",
    ],
)
def test_a_url_that_names_no_database_is_one_clear_line_without_secrets(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Store(url)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value).replace("(hunter2)", "")


@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://ann:hunter2{sign}x@h:5432/db" for sign in "@/?#["),
        *(f"postgresql://ann:1{sign}hunter2@h:5432/db" for sign in "@/#"),
        "postgresql://ann:hunter2@::1:5432/db",
    ],
)
def test_a_password_that_tears_the_url_is_told_how_to_be_written(url: str) -> None:
    with pytest.raises(Misconfigured, match="%40 %2F %3F %23") as caught:
        locate(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite:///data/messaging.db", SqliteLocation(Path("data/messaging.db"))),
        ("sqlite:////var/lib/a%20b.db", SqliteLocation(Path("/var/lib/a b.db"))),
        ("sqlite+aiosqlite:///x.db", SqliteLocation(Path("x.db"))),
        ("postgres://u:p@h/d?sslmode=require", PostgresLocation("postgresql://u:p@h/d?sslmode=require")),
        ("postgresql://h1:5432,h2:5433/d", PostgresLocation("postgresql://h1:5432,h2:5433/d")),
        ("postgresql+asyncpg:///d?host=/run", PostgresLocation("postgresql:///d?host=/run")),
        ("sqlite+pysqlite:///x.db", SqliteLocation(Path("x.db"))),
        ("postgresql+psycopg://u:p@h/d", PostgresLocation("postgresql://u:p@h/d")),
        ("postgresql+psycopg2://u:p@h/d", PostgresLocation("postgresql://u:p@h/d")),
    ],
)
def test_urls_in_all_their_forms(url: str, found: Any) -> None:
    assert locate(url) == found
    assert ":p@" not in repr(locate(url))


def test_a_password_that_sqlalchemy_hides_is_told_where_it_is() -> None:
    """``str(engine.url)`` looks like a URL, and the server would say that the password is wrong."""
    with pytest.raises(Misconfigured, match=r"render_as_string\(False\)"):
        locate(str(make_url("postgresql+psycopg://ann:hunter2@h/d")))


async def refused(url: str, kind: type[Exception], match: str) -> str:
    """Both ways to begin refuse in the same way; the line that a person sees."""
    lines = set()
    for name in ("migrate", "start"):
        store = Store(url, timeout=2.0)
        with pytest.raises(kind, match=match) as caught:
            await getattr(store, name)()
        await store.close()
        lines.add(str(caught.value))
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value) + str(store.error)
    return lines.pop()


async def test_sqlite_places_that_cannot_be(tmp_path: Path) -> None:
    await refused(f"sqlite:///{tmp_path}/no/such/folder/m.db", Misconfigured, "folder")
    await refused(f"sqlite:///{tmp_path}", Misconfigured, "that of a folder")
    (tmp_path / "text.db").write_text("this is not a database, it is a text of some length " * 100)
    await refused(f"sqlite:///{tmp_path}/text.db", Misconfigured, "not a database")
    assert not (tmp_path / "no").exists()


def test_an_sqlite_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(Misconfigured, match=r"3\.35"):
        Store("sqlite:///m.db")


async def test_strange_characters_in_a_path_are_just_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c#d%e"
    folder.mkdir()
    path = folder / "ü&mode=memory.db"
    from urllib.parse import quote

    async with opened(Sqlite(Path(quote(str(path))))) as store:
        await store.create_conversation("c", "ann", [])
    assert path.exists()


@contextlib.contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of one's own, as somebody whom permissions stop: root is nobody for a while."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    try:
        if root:
            # What the store imports when it is needed, now: a clone below a closed home cannot be read by anybody else.
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                importlib.import_module(module.name)
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


async def test_a_read_only_file_is_refused() -> None:
    with ordinary_user() as folder:
        place = Sqlite(folder / "messaging.db")
        await migrate(place)
        place.path.chmod(0o444)
        store = Store(place.url)
        with pytest.raises(Misconfigured, match="read-only"):
            await store.start()
        await store.close()
        place.path.chmod(0o644)
        folder.chmod(0o555)
        await refused(place.url, Misconfigured, r"read-only|opened")
        folder.chmod(0o755)


@pytest.mark.needs("postgres")
async def test_postgresql_places_that_cannot_be(postgres: Postgres) -> None:
    name = postgres.create_database()
    base = f"@127.0.0.1:{postgres.port}/"
    await refused(f"postgresql://postgres:hunter2{base}nowhere", Misconfigured, "does not exist")
    await refused(f"postgresql://nobody_such:hunter2{base}{name}", Misconfigured, "does not admit the user")
    with pytest.raises(Misconfigured, match="sslmode") as caught:  # seen before there is anything to begin
        Store(f"postgresql://postgres:hunter2{base}{name}?sslmode=hunter2")
    assert "hunter2" not in str(caught.value)
    await refused("postgresql://postgres:hunter2@127.0.0.1:1/x?password=hunter2", Unavailable, "reached")
    await refused("postgresql://postgres:hunter2@host.invalid/x", Unavailable, "reached")


@pytest.mark.needs("postgres")
async def test_postgresql_without_rights_is_refused_and_left_as_it_was(postgres: Postgres) -> None:
    name = postgres.create_database()
    role = "r" + name
    place = Postgresql(postgres.url(name, role))
    admin = Postgresql(postgres.url(name))
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    with pytest.raises(Misconfigured, match="lacks a right"):
        await migrate(place)
    assert await admin.fetch(tables) == [(0,)]
    # Who may make tables and not the functions that count their rows gets neither.
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    with pytest.raises(Misconfigured, match=r"lacks a right: function messaging_shard: missing"):
        await migrate(place)
    assert await admin.fetch(tables) == [(0,)]
    await admin.execute(f"REVOKE CREATE ON SCHEMA public FROM {role}; GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC")
    await migrate(admin)
    await admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    store = Store(place.url)
    with pytest.raises(Misconfigured, match="lacks a right"):
        await store.start()
    await admin.execute(
        f"GRANT INSERT, DELETE ON messages, conversation_members TO {role};"
        f"GRANT INSERT, UPDATE ON users, conversations TO {role}; GRANT UPDATE ON conversation_members TO {role}"
    )
    await store.start()
    await store.create_conversation("c", "ann", [])
    assert (await send(store, "c", "ann", "m")).seq == 1
    await store.close()
    await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.needs("postgres")
async def test_postgresql_in_a_schema_of_its_own_beside_another(postgres: Postgres) -> None:
    admin = Postgresql(postgres.url(postgres.create_database()))
    await admin.execute('CREATE SCHEMA "One ""Two"; CREATE SCHEMA three')
    for path in ('"One ""Two"', "three"):
        place = Postgresql(admin.url + "?search_path=" + path.replace('"', "%22").replace(" ", "%20"))
        async with opened(place, clock=Clock()) as store:
            await store.create_conversation("c", "ann", [])
            await send(store, "c", "ann", "m")
            await assert_exact(place, store, TODAY)
    await admin.execute("INSERT INTO \"One \"\"Two\".messages (conversation_id, seq, sender_id) VALUES ('c', 9, 'x')")
    assert await admin.fetch('SELECT total_messages FROM "One ""Two".conversations') == [(2,)]
    assert await admin.fetch("SELECT total_messages FROM three.conversations") == [(1,)]


@pytest.mark.needs("postgres")
async def test_a_database_that_is_read_only_is_refused(postgres: Postgres) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name))
    await migrate(place)
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.close()
    await refused(place.url, Misconfigured, "read-only")
