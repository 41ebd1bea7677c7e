"""A user without rights is told which to grant, in statements that can be pasted; with them every figure is right."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from exporter.core.errors import Misconfigured
from exporter.observe import count_once, rights
from exporter.observe.check import ALL_WELL, UNCHECKED, check
from exporter.observe.connections import reader_of
from exporter.observe.engine import Engine
from exporter.observe.presets import mattermost
from exporter.observe.sources import Source, mapping_of
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer, SqliteServer
from tests.observe.test_engine import post
from tests.observe.test_real_databases import TRUTHS, expected, figures, load, moment
from tests.servers.postgres import Postgres

DATABASES = [("ejabberd", "default_schema"), ("ejabberd", "new_schema"), ("prosody", "hashed"), ("synapse", "alone")]


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(("kind", "name"), DATABASES)
async def test_the_statements_that_check_prints_are_enough_and_open_no_secret(
    kind: str, name: str, postgres: Postgres
) -> None:
    database = await load(postgres, kind, name)
    role = f"reader_{database}"
    postgres.psql(f"CREATE ROLE {role} LOGIN")
    source = Source(postgres.url(database, role), kind)
    lines: list[str] = []
    assert await check(source, out=lines.append) == UNCHECKED
    statements = [line.strip() for line in lines if line.strip().startswith("GRANT ")]
    assert statements, lines
    postgres.psql(" ".join(statements), database)

    lines.clear()
    assert await check(source, out=lines.append) == ALL_WELL, lines
    truth = TRUTHS[kind, "postgresql", name]
    assert figures(await count_once(source.url, kind, now=moment(truth))) == expected(kind, truth)
    secret = {"ejabberd": "password FROM users", "prosody": "value FROM prosody", "synapse": "password_hash FROM users"}
    with pytest.raises(AssertionError, match="permission denied"):
        postgres.psql(f"SELECT {secret[kind]}", database, role)


POLICIES = {
    "none": ("", False),
    "some rows": ("CREATE POLICY p ON posts FOR SELECT USING (userid = 'u2');", False),
    "all rows": ("CREATE POLICY p ON posts USING (true);", True),
    "all rows, to somebody else": ("CREATE POLICY p ON posts TO postgres USING (true);", False),
    "all rows, for changes": ("CREATE POLICY p ON posts FOR UPDATE USING (true);", False),
    "all rows but": (
        "CREATE POLICY p ON posts USING (true); CREATE POLICY q ON posts AS RESTRICTIVE USING (userid = 'u2');",
        False,
    ),
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("policy", POLICIES)
async def test_rows_that_row_security_may_hide_are_no_figure(postgres: Postgres, policy: str) -> None:
    """Of a table that its owner put under row security, whom no policy lets in sees nothing, and no error."""
    sql, shown = POLICIES[policy]
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1'), ('u2');")
    post(server, 1, 100)
    role = f"reader_{server.name}"
    server.script(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT ON posts, users, bots, channels TO {role};"
        f"ALTER TABLE posts ENABLE ROW LEVEL SECURITY; {sql}"
    )
    source = Source(postgres.url(server.name, role), "mattermost")
    lines: list[str] = []
    if shown:
        assert await check(source, out=lines.append) == ALL_WELL, lines
        assert "  stored_messages: 100" in lines
        server.close()
        return
    assert await check(source, out=lines.append) == UNCHECKED
    assert lines[-1].startswith("  could not check: row security hides rows of posts from this user")
    engine = Engine(source, State(None), load=1.0)
    with pytest.raises(Misconfigured, match="row security"):
        await engine.count()
    await engine.close()
    server.script(f"ALTER ROLE {role} BYPASSRLS")
    assert await check(source, out=lines.append) == ALL_WELL, lines
    server.close()


VIEWS = {
    "of who asks": ("postgres", "true", False),
    "of who may": ("postgres", "off", True),
    "of others": ("", "off", False),
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("rights", VIEWS)
async def test_rows_that_row_security_may_hide_from_a_view_are_no_figure(postgres: Postgres, rights: str) -> None:
    owner, invoker, shown = VIEWS[rights]
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1'), ('u2');")
    post(server, 1, 100)
    role, other = f"Reader_{server.name}", f"other_{server.name}"
    server.script(
        f'CREATE ROLE "{role}" LOGIN; CREATE ROLE {other}; ALTER TABLE posts RENAME TO kept;'
        "ALTER TABLE kept ENABLE ROW LEVEL SECURITY; GRANT SELECT ON kept TO PUBLIC;"
        f"CREATE VIEW via AS SELECT * FROM kept; ALTER VIEW via OWNER TO {owner or other};"
        f"ALTER VIEW via SET (security_invoker = {invoker}); CREATE VIEW posts AS SELECT * FROM via;"
        f'GRANT SELECT ON posts, users, bots, channels TO "{role}"'
    )
    reader = reader_of(postgres.url(server.name, role))
    try:
        if shown:
            await mapping_of(Source("", "mattermost"), reader)
        else:
            with pytest.raises(Misconfigured, match="row security hides rows of posts"):
                await mapping_of(Source("", "mattermost"), reader)
    finally:
        await reader.close()
        server.close()


INDEXES = {
    "(at)": True,
    "(at DESC)": True,
    "(at, number)": True,
    "(at) WHERE at IS NOT NULL": True,
    "(at DESC NULLS LAST)": False,
    "(at NULLS FIRST)": False,
    "(at) WHERE number > 1": False,
    "(number, at)": False,
    "((at + 1))": False,
    "USING hash (at)": False,
    "USING brin (at)": False,
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("index", INDEXES)
async def test_an_index_is_one_where_it_finds_what_is_new(postgres: Postgres, index: str) -> None:
    server = PostgresqlServer(postgres)
    server.script(f"CREATE TABLE posts (number int, at bigint); CREATE INDEX ON posts {index}")
    reader = reader_of(server.url)
    found = await rights.indexes(reader)
    assert (("posts", "at") in found, ("public.posts", "at") in found) == (INDEXES[index], INDEXES[index])
    await reader.close()
    server.close()


@pytest.mark.parametrize(("rows", "is_one"), [("", True), (" WHERE at IS NOT NULL", True), (" WHERE gone = 0", False)])
async def test_an_index_of_a_file_is_one_where_it_finds_what_is_new(tmp_path: Path, rows: str, is_one: bool) -> None:
    with closing(SqliteServer(tmp_path / "chat.db")) as server:
        server.script(f"CREATE TABLE posts (at int, gone int); CREATE INDEX a ON posts (at){rows}")
        assert (("posts", "at") in await rights.indexes(reader_of(server.url))) is is_one


@pytest.mark.needs("postgres")
async def test_an_index_whose_making_failed_is_none(postgres: Postgres) -> None:
    server = PostgresqlServer(postgres)
    server.script("CREATE TABLE posts (at bigint); INSERT INTO posts VALUES (1), (1)")
    with pytest.raises(AssertionError, match="duplicated"):
        postgres.psql("CREATE UNIQUE INDEX CONCURRENTLY i ON posts (at)", server.name)
    reader = reader_of(server.url)
    assert ("posts", "at") not in await rights.indexes(reader)
    await reader.close()
    server.close()


NUMBERED = {
    "int": {"room"},
    "serial": set(),
    "int GENERATED ALWAYS AS IDENTITY": set(),
    "int UNIQUE": set(),
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("type_", NUMBERED)
async def test_a_number_of_a_sequence_grows_whatever_it_is_unique_with(postgres: Postgres, type_: str) -> None:
    server = PostgresqlServer(postgres)
    server.script(f"CREATE TABLE posts (room int, number {type_}, PRIMARY KEY (room, number))")
    reader = reader_of(server.url)
    assert await rights.unique_with(reader, "posts", "number") == NUMBERED[type_]
    assert await rights.unique_with(reader, "public.posts", "number") == NUMBERED[type_]
    await reader.close()
    server.close()


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("forced", [False, True])
async def test_row_security_hides_nothing_from_its_owner_unless_it_is_forced(postgres: Postgres, forced: bool) -> None:
    server = PostgresqlServer(postgres)
    role = f"owner_{server.name}"
    server.script(
        schemas.mattermost("postgresql") + f"CREATE ROLE {role} LOGIN; GRANT SELECT ON users, bots, channels TO {role};"
        f"ALTER TABLE posts OWNER TO {role}; ALTER TABLE posts ENABLE ROW LEVEL SECURITY;"
        + ("ALTER TABLE posts FORCE ROW LEVEL SECURITY;" if forced else "")
    )
    reader = reader_of(postgres.url(server.name, role))
    mapping = mattermost.mapping(await reader.columns(), reader.dialect)
    assert await rights.hidden(reader, mapping) == (["posts"] if forced else [])
    await reader.close()
    server.close()


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(("kind", "table"), [("synapse", "schema_version"), ("mattermost", "posts")])
async def test_tables_in_a_schema_that_is_not_searched_are_told(postgres: Postgres, kind: str, table: str) -> None:
    server = PostgresqlServer(postgres)
    server.script(f"CREATE SCHEMA chat; SET search_path = chat; {getattr(schemas, kind)('postgresql')}")
    with pytest.raises(Misconfigured, match=rf"no table {table}; there is chat\.{table}; .*SET search_path"):
        await count_once(server.url, kind)
    server.script(f"ALTER DATABASE {server.name} SET search_path = chat")
    assert (await count_once(server.url, kind)).stored_messages == 0
    server.close()
