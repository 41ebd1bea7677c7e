"""What somebody dropped, renamed or changed by hand is named by a start, ``migrate``, ``verify`` and the diagnosis."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from exporter.core.errors import Misconfigured
from exporter.store import Store
from exporter.store.diagnosis import diagnose
from exporter.store.schema import migrate
from exporter.store.schema.shape import TABLES, Difference, listed
from exporter.store.verify import verify
from exporter.store.verify.schema import watch_schema_forever
from tests.databases import Clock, Place, Postgresql, Sqlite, eventually, opened, send
from tests.servers.postgres import Postgres
from tests.store.test_verify import PARTITIONED


@contextlib.asynccontextmanager
async def closing(place: Place) -> AsyncIterator[Store]:
    """A store that was not started."""
    store = Store(place.url)
    try:
        yield store
    finally:
        await store.close()


async def made(place: Place) -> None:
    """A database with a message in it."""
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", ["bob"])
        await send(store, "c", "ann", "m")


async def everybody_says(place: Place) -> set[str]:
    """What a start, ``migrate`` and ``verify`` refuse with, and what the diagnosis finds."""
    said = set()
    async with closing(place) as store:
        for asked in (store.start, store.migrate, lambda: verify(store)):
            with pytest.raises(Misconfigured) as refused:
                await asked()
            said.add(str(refused.value))
    found = await diagnose(place.url, 5.0)
    assert not found.behind
    return {*said, str(found.problem)}


@pytest.mark.needs("postgres")
async def test_a_server_that_quotes_every_name_has_what_was_made(place: Place) -> None:
    await made(place)
    if isinstance(place, Postgresql):
        quoting = "'ALTER DATABASE %I SET quote_all_identifiers = on', current_database()"
        await place.execute(f"DO $$ BEGIN EXECUTE format({quoting}); END $$")
    async with opened(place) as store:
        assert await store.migrate() == []
        assert (await verify(store)).agrees
        assert (await diagnose(place.url, 5.0)).problem is None


@pytest.mark.needs("postgres")
async def test_the_diagnosis_names_no_place_where_the_driver_alone_chooses_it(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    name = postgres.create_database()
    found = await diagnose(f"postgresql:///{name}?user=postgres&port={postgres.port}", 5.0)
    assert re.fullmatch(r"PostgreSQL \S+", found.engine)


# --- what nobody but its owner can put back -------------------------------------------------------------------

LOST = {
    "a column renamed": ("ALTER TABLE messages RENAME COLUMN body TO text", "column messages.body: missing"),
    "a table renamed": ("ALTER TABLE user_days RENAME TO elsewhere", "table user_days: missing"),
    "a table dropped": ("DROP TABLE verification", "table verification: missing"),
    "a view in its place": (
        "ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people",
        "table users: is a view",
    ),
}
LOST_ON_POSTGRESQL = {
    "a column dropped": ("ALTER TABLE users DROP COLUMN last_active_on", "column users.last_active_on: missing"),
    "a type made narrow": ("ALTER TABLE messages ALTER COLUMN seq TYPE integer", "messages.seq: is of type integer"),
    "another type": ("ALTER TABLE user_days ALTER COLUMN day TYPE text", "column user_days.day: is of type text"),
    "a key whose rows are there twice": (
        """
        ALTER TABLE messages DROP CONSTRAINT messages_pkey; SET session_replication_role = replica;
        INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('c', 1, 'ann')
        """,
        "key messages (conversation_id, seq): missing",
    ),
}


@pytest.mark.parametrize("what", LOST)
async def test_what_is_gone_is_named_by_everybody_with_what_to_do(place: Place, what: str) -> None:
    await made(place)
    change, named = LOST[what]
    await place.execute(change)
    for said in await everybody_says(place):
        assert named in said
        assert "restore it from a backup" in said
        assert "run 'messaging-exporter" not in said, "it would do nothing"


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("what", LOST_ON_POSTGRESQL)
async def test_what_postgresql_lets_people_change_is_named_too(postgres: Postgres, what: str) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    change, named = LOST_ON_POSTGRESQL[what]
    await place.execute(change)
    async with closing(place) as store:
        with pytest.raises(Misconfigured, match=re.escape(named)) as refused:
            await store.migrate()
    assert "backup" in str(refused.value)
    assert named in str((await diagnose(place.url, 5.0)).problem)


async def test_a_column_that_a_later_revision_needs_is_named_before_it_is_tried(place: Place) -> None:
    async with closing(place) as store:
        await store.migrate("0003")
        await place.execute("ALTER TABLE messages RENAME COLUMN sent_at TO at")
        for asked in (store.start, store.migrate):
            with pytest.raises(Misconfigured, match=r"column messages\.sent_at: missing.*backup"):
                await asked()


async def test_a_version_that_is_gone_is_said_and_not_guessed(place: Place) -> None:
    await made(place)
    await place.execute("DELETE FROM messaging_schema_version")
    for said in await everybody_says(place):
        assert "messaging_schema_version is empty" in said
    await place.execute("DROP TABLE messaging_schema_version")
    for said in await everybody_says(place):
        assert "messaging_schema_version is gone" in said
        assert "users" in said


async def test_a_version_without_a_row_is_no_reason_where_nothing_of_ours_is_there(place: Place) -> None:
    await place.execute("CREATE TABLE messaging_schema_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    await made(place)
    assert (await diagnose(place.url, 5.0)).problem is None


# --- what can be made again -----------------------------------------------------------------------------------

REPAIRABLE = {
    "a default": ("ALTER TABLE messages ALTER sent_at DROP DEFAULT", "column messages.sent_at: has no default"),
    "not null": ("ALTER TABLE messages ALTER body DROP NOT NULL", "column messages.body: may be empty (null)"),
    "an index": (
        "DROP INDEX conversation_members_user",
        "index conversation_members (user_id, conversation_id): missing",
    ),
    "a primary key": (
        "ALTER TABLE messages DROP CONSTRAINT messages_pkey",
        "key messages (conversation_id, seq): missing",
    ),
    "a key": (
        "ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_sender_id_client_id_key",
        "key messages (conversation_id, sender_id, client_id): missing",
    ),
    "a reference": (
        "ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_fkey",
        "foreign key messages (conversations): missing",
    ),
    "a log": ("ALTER TABLE user_days SET UNLOGGED", "table user_days: is unlogged: a crash would empty it"),
    "its owner's rights": (
        "ALTER FUNCTION messaging_messages_inserted() SECURITY INVOKER",
        "function messaging_messages_inserted: not as this version makes it",
    ),
    "a second trigger": (
        "CREATE TRIGGER again AFTER INSERT ON messages REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
        " EXECUTE FUNCTION messaging_messages_inserted()",
        "trigger again on messages: counts twice",
    ),
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("what", REPAIRABLE)
async def test_what_can_be_made_again_is_found_and_mended_by_repair_and_by_migrate(
    postgres: Postgres,
    what: str,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    change, named = REPAIRABLE[what]
    async with closing(place) as store:
        for repair in (store.migrate, lambda: verify(store, repair=True)):
            await place.execute(change)
            lines: list[str] = []
            assert (await verify(store, out=lines.append)).missing_triggers == 1
            assert lines == [named]
            found = await diagnose(place.url, 5.0)
            assert named in str(found.problem)
            assert found.behind, "which migrate repairs"
            await repair()
            assert (await verify(store)).agrees
            assert (await diagnose(place.url, 5.0)).problem is None
        await store.start()


OF_ANOTHER_SORT = """
ALTER TABLE users DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_sender_id_client_id_key,
    DROP CONSTRAINT messages_conversation_id_fkey,
    ADD FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE CASCADE NOT VALID;
CREATE UNIQUE INDEX ON messages (conversation_id, sender_id, client_id) WHERE body <> '';
ALTER TABLE conversation_members DROP CONSTRAINT conversation_members_conversation_id_fkey,
    ADD FOREIGN KEY (conversation_id) REFERENCES conversations (id);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'conversation_members_user'::regclass;
ALTER TABLE messages ENABLE ALWAYS TRIGGER messages_inserted, ENABLE REPLICA TRIGGER messages_deleted
"""
"""Nothing of it does what this program's own does, but for a trigger that fires always."""


@pytest.mark.needs("postgres")
async def test_a_key_an_index_a_reference_or_a_trigger_of_another_sort_is_made_again(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    await place.execute(OF_ANOTHER_SORT)
    async with closing(place) as store:
        lines: list[str] = []
        await verify(store, repair=True, out=lines.append)
        assert lines == [
            "key users (id): missing",
            "key messages (conversation_id, sender_id, client_id): missing",
            "index conversation_members (user_id, conversation_id): missing",
            "foreign key conversation_members (conversations): missing",
            "foreign key messages (conversations): missing",
            "trigger messages_deleted: missing or disabled",
        ]
        assert (await verify(store)).agrees
        await store.start()


async def test_an_index_of_sqlite_that_has_some_rows_is_none_and_a_wider_one_is_one(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    await made(place)
    at = "conversation_members (user_id, conversation_id"
    name = "conversation_members_user"
    await place.execute(f"DROP INDEX {name}; CREATE INDEX {name} ON {at}) WHERE user_id <> ''")
    async with closing(place) as store:
        lines: list[str] = []
        assert (await verify(store, repair=True, out=lines.append)).repaired
        assert lines == [f"index {at}): missing"]
        await place.execute(f"DROP INDEX {name}; CREATE INDEX wider ON {at}, last_read_seq)")
        assert (await verify(store)).agrees


async def test_a_key_of_sqlite_is_made_again_as_an_index(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    await made(place)
    await place.execute(
        """
        ALTER TABLE users RENAME TO old; CREATE TABLE users (id TEXT NOT NULL, created_at TEXT NOT NULL,
        last_active_on TEXT); INSERT INTO users SELECT * FROM old; DROP TABLE old;
        CREATE INDEX of_no_use ON users (id); CREATE UNIQUE INDEX of_some_rows ON users (id) WHERE id <> ''
        """
    )
    async with closing(place) as store:
        with pytest.raises(Misconfigured, match=r"key users \(id\): missing: run 'messaging-exporter migrate'"):
            await store.start()
        assert await store.migrate() == ["column users.created_at: has no default"], "nothing needs it"
        await store.start()
        await eventually(lambda: store.register("bob"))
        lines: list[str] = []
        await verify(store, repair=True, out=lines.append)
        assert lines == ["column users.created_at: has no default"]
    assert "has no default" in str((await diagnose(place.url, 5.0)).problem)


@pytest.mark.needs("postgres")
async def test_rows_that_are_hidden_and_triggers_that_are_switched_off_for_all_are_found(
    postgres: Postgres,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    (name,) = (await place.fetch("SELECT current_database()"))[0]
    await made(place)
    await place.execute(
        f"ALTER DATABASE {name} SET session_replication_role = replica",
        "CREATE TABLE more () INHERITS (conversations)",
    )
    lines: list[str] = []
    async with closing(place) as store:
        await verify(store, out=lines.append)
    assert lines == [
        "table conversations: other tables inherit from it, whose rows no trigger counts",
        "setting session_replication_role: is replica, by which no trigger counts",
    ]


WELCOME = """
CREATE DOMAIN identifier AS text CHECK (value <> '');
ALTER TABLE users ALTER id TYPE identifier;
ALTER TABLE daily_totals DROP CONSTRAINT daily_totals_pkey, ADD PRIMARY KEY (day, shard) INCLUDE (messages);
ALTER TABLE users ADD COLUMN email text, ADD COLUMN settings jsonb NOT NULL DEFAULT '{}';
ALTER TABLE messages ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED;
CREATE INDEX ON messages USING gin (words);
CREATE UNIQUE INDEX ON users (email) WHERE email IS NOT NULL;
CREATE INDEX wider ON conversation_members (user_id, conversation_id, last_read_seq);
DROP INDEX conversation_members_user;
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant := 'x'; RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT ON conversations FOR EACH ROW EXECUTE FUNCTION fill();
ALTER TABLE conversations ADD COLUMN tenant text NOT NULL DEFAULT '';
ALTER TABLE conversations ALTER tenant DROP DEFAULT;
CREATE TABLE profiles (user_id text PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE);
CREATE VIEW today AS SELECT * FROM messages WHERE sent_at > now() - interval '1 day';
ALTER TABLE messages ADD CONSTRAINT short CHECK (length(body) < 100000)
"""
"""What an administrator adds for good reasons."""


@pytest.mark.needs("postgres")
async def test_what_others_add_to_our_tables_is_no_difference(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    await place.execute(WELCOME)
    async with closing(place) as store:
        assert (await verify(store)).agrees
        assert await store.migrate() == []
        await store.start()
        await store.create_conversation("d", "ann", [])
    assert (await diagnose(place.url, 5.0)).problem is None
    assert await place.fetch("SELECT count(*) FROM pg_indexes WHERE indexname = 'conversation_members_user'") == [(0,)]


@pytest.mark.needs("postgres")
async def test_row_security_is_a_difference_where_it_hides_rows_and_only_there(
    postgres: Postgres,
) -> None:
    database = postgres.create_database()
    role = f"owner_of_{database}"
    admin = Postgresql(postgres.url(database))
    await admin.execute(f"CREATE ROLE {role} LOGIN; ALTER DATABASE {database} OWNER TO {role}")
    place = Postgresql(postgres.url(database, role), admin.url)
    await made(place)
    hidden = "table messages: row security hides rows from this user"
    steps = (
        (f"CREATE POLICY all_of_them ON messages TO {role} USING (true) WITH CHECK (true)", []),
        ("CREATE POLICY no_drafts ON messages AS RESTRICTIVE FOR SELECT USING (body <> '')", [hidden]),
        ("DROP POLICY no_drafts ON messages; DROP POLICY all_of_them ON messages", [hidden]),
        ("CREATE POLICY all_may_go ON messages FOR DELETE USING (true)", [hidden]),
        (f"CREATE POLICY part ON messages TO {role} USING (sender_id <> 'bob') WITH CHECK (true)", [hidden]),
    )
    await admin.execute("ALTER TABLE messages ENABLE ROW LEVEL SECURITY; ALTER TABLE messages FORCE ROW LEVEL SECURITY")
    async with closing(place) as store:
        for change, expected in steps:
            await admin.execute(change)
            lines: list[str] = []
            await verify(store, out=lines.append)
            assert [line for line in lines if line.startswith("table")] == expected, change


@pytest.mark.needs("postgres")
async def test_the_right_that_is_lacking_is_named(postgres: Postgres) -> None:
    database = postgres.create_database()
    admin = Postgresql(postgres.url(database))
    await made(admin)
    role = f"reader_of_{database}"
    await admin.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    problem = str((await diagnose(postgres.url(database, role), 5.0)).problem)
    assert problem.startswith("the database refuses: the user lacks a right: INSERT on users, ")
    assert "DELETE on messages" in problem
    assert "SELECT" not in problem, "it has that one"


# --- partitions -----------------------------------------------------------------------------------------------


@pytest.mark.needs("postgres")
async def test_a_partition_that_was_detached_counts_no_more_and_one_that_was_attached_does(
    postgres: Postgres,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    async with closing(place) as store:
        await place.execute(PARTITIONED)
        await store.migrate()
        assert (await verify(store)).agrees
        await place.execute("ALTER TABLE messages DETACH PARTITION messages_0")
        lines: list[str] = []
        report = await verify(store, out=lines.append)
        assert report.missing_triggers == 6
        assert "trigger messages_inserted on messages_0: counts what is no part of messages, or no longer" in lines
        assert (await verify(store, repair=True)).repaired
        await place.execute("INSERT INTO messages_0 (conversation_id, seq, sender_id) VALUES ('c', 99, 'ann')")
        assert (await verify(store)).agrees
        await place.execute(
            "DELETE FROM messages_0 WHERE seq = 99",
            "ALTER TABLE messages ATTACH PARTITION messages_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        )
        assert (await verify(store)).missing_triggers == 6
        assert (await verify(store, repair=True)).repaired


@pytest.mark.needs("postgres")
async def test_a_server_notices_by_itself_what_is_wrong_with_a_partition_and_when_it_is_mended(
    postgres: Postgres,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await made(place)
    await place.execute(PARTITIONED)
    async with opened(place) as store:
        with structlog.testing.capture_logs() as logs:
            watcher = asyncio.create_task(watch_schema_forever(store, 0.05))

            async def wrong() -> int | None:
                return (await store.totals(5)).missing_triggers

            await place.execute("ALTER TABLE messages DETACH PARTITION messages_0")
            await eventually(wrong)
            assert await wrong() == 6
            await store.migrate()

            async def right() -> bool:
                return await wrong() == 0

            await eventually(right)
            watcher.cancel()
            await asyncio.wait({watcher})
    told = [entry for entry in logs if entry["event"] == "the database's schema is not as it was made"]
    assert ["on messages_0: counts what is no part of messages" in entry["found"] for entry in told] == [True]
    assert sum("verify --repair" in entry["event"] for entry in logs) == 1


# --- names ----------------------------------------------------------------------------------------------------

IN_THE_WAY = {
    "CREATE SEQUENCE users": "users (a sequence)",
    "CREATE TYPE messages AS (a text)": "messages (a composite type)",
    "CREATE TYPE messages AS ENUM ('a')": "messages (a type)",
    "CREATE VIEW conversations AS SELECT 1": "conversations (a view)",
    "CREATE MATERIALIZED VIEW user_days AS SELECT 1": "user_days (a materialized view)",
    "CREATE UNLOGGED TABLE daily_totals (a text)": "daily_totals",
    "CREATE TABLE theirs (a text); CREATE INDEX verification ON theirs (a)": "verification (an index)",
    "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;"
    "CREATE FOREIGN TABLE users (a text) SERVER s": "users (a foreign table)",
    "CREATE SEQUENCE messaging_schema_version": "messaging_schema_version (a sequence)",
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("made", IN_THE_WAY)
async def test_whatever_has_one_of_our_names_is_named_with_what_it_is(postgres: Postgres, made: str) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    await place.execute(made)
    async with closing(place) as store:
        for asked in (store.migrate, store.start):
            with pytest.raises(Misconfigured) as refused:
                await asked()
            assert str(refused.value).endswith(f"They are: {IN_THE_WAY[made]}")


async def test_a_trigger_of_another_program_is_in_nobodys_way_on_sqlite(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    await place.execute(
        "CREATE TABLE notes (body); CREATE TRIGGER messages AFTER INSERT ON notes BEGIN SELECT 1; END",
    )
    await made(place)
    assert (await diagnose(place.url, 5.0)).problem is None


def test_of_many_differences_one_line_tells_six_and_how_many_more_there_are() -> None:
    many = [Difference(f"table {number}", "missing") for number in range(7)]
    six = "; ".join(f"table {number}: missing" for number in range(6))
    assert (listed(many[:6]), listed(many)) == (six, f"{six} (and 1 more)")


def test_the_description_knows_no_revision_that_there_is_not() -> None:
    since = {table.since for table in TABLES.values()}
    since |= {column.since for table in TABLES.values() for column in table.columns.values()}
    assert since <= set(migrate.revisions())
