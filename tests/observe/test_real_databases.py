"""Databases that the real servers wrote: every figure is what their people did, on both engines.

``make_data`` has driven Debian's ejabberd and Prosody and PyPI's Synapse, and has kept a count of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from exporter.core.errors import Misconfigured
from exporter.observe import SourceTotals, count_once
from exporter.observe.base import KeyScan
from exporter.observe.engine import Engine
from exporter.observe.sealing import MAX_TRANSACTION_AGE
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import Server, SqliteServer
from tests.servers.postgres import Postgres

DATA = Path(__file__).parent / "data"
TRUTHS: dict[tuple[str, str, str], dict[str, Any]] = {
    (file.parent.parent.name, file.parent.name, name): truth
    for file in sorted(DATA.glob("*/*/truth.json"))
    for name, truth in json.loads(file.read_text()).items()
}
"""What people did, by kind, engine and name of the database."""


def cases(engine: str) -> list[Any]:
    marks = [pytest.mark.needs("postgres")] if engine == "postgresql" else []
    return [pytest.param(*case, marks=marks, id="-".join(case)) for case in TRUTHS if case[1] == engine]


telling = [case for case in cases("sqlite") + cases("postgresql") if not TRUTHS[case.values].get("not_told")]
every_database = pytest.mark.parametrize(("kind", "engine", "name"), cases("sqlite") + cases("postgresql"))


def data_of(kind: str, engine: str, name: str) -> bytes:
    """A file's contents, or SQL."""
    return gzip.decompress((DATA / kind / engine / f"{name}.{'db' if engine == 'sqlite' else 'sql'}.gz").read_bytes())


async def load(server: Postgres, kind: str, name: str) -> str:
    """A new database on this server with this dump in it; its name."""
    database = server.create_database()
    connection = await asyncpg.connect(server.url(database))
    try:
        await connection.execute(data_of(kind, "postgresql", name).decode())
    finally:
        await connection.close()
    return database


@pytest.fixture
def loaded(kind: str, engine: str, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of this database, loaded."""
    if engine == "sqlite":
        (tmp_path / "source.db").write_bytes(data_of(kind, engine, name))
        return f"sqlite:///{tmp_path}/source.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(asyncio.run(load(server, kind, name)))


def figures(totals: SourceTotals) -> dict[str, Any]:
    """In the words of the truth."""
    return {
        "messages": totals.stored_messages,
        "messages_today": totals.messages_today,
        "conversations": totals.stored_conversations,
        "registered_users": totals.registered_users,
        "active_users": {f"{days}d": number for days, number in totals.active_users.items()},
    }


def expected(kind: str, truth: dict[str, Any]) -> dict[str, Any]:
    """What a preset can know of it: Prosody's rooms do not say who wrote."""
    active = "active_users_outside_rooms" if kind == "prosody" else "active_users"
    names = ("messages", "messages_today", "conversations", "registered_users")
    return {**{name: truth[name] for name in names}, "active_users": truth[active]}


def moment(truth: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(truth["now"])


@every_database
def test_every_figure_is_what_people_did(kind: str, engine: str, name: str, loaded: str) -> None:
    truth = TRUTHS[kind, engine, name]
    totals = asyncio.run(count_once(loaded, kind, host=truth.get("host"), now=moment(truth)))
    not_told = truth.get("not_told", [])
    want = expected(kind, truth)
    for figure in not_told:
        want[figure] = dict.fromkeys(want[figure]) if figure == "active_users" else None
    assert figures(totals) == want
    assert len(totals.unknown) == len(not_told), "what is not told is said, with its reason"
    assert all(totals.unknown.values())


@pytest.mark.parametrize(("kind", "engine", "name"), telling)
async def test_every_figure_is_the_same_of_rows_that_were_sealed_page_by_page(
    kind: str, engine: str, name: str, loaded: str
) -> None:
    """A row stays unsealed; pages begin with a few rows of the messages, and of what they are held against."""
    truth = TRUTHS[kind, engine, name]
    hosts = tuple(filter(None, [truth.get("host")]))
    clock = moment(truth).timestamp
    counted = Engine(Source(loaded, kind, hosts=hosts), State(None), load=1.0, clock=clock, tail=1, overlap=0.0)
    try:
        await counted.open()
        await counted.begin()
        assert counted.counting is not None
        for scan in counted.counting.all():
            scan.span = max(1, min(scan.span, (scan.top - scan.bottom) // 20)) if isinstance(scan, KeyScan) else 2
        while counted.counting:
            await counted.advance()
        assert figures(await counted.look()) == expected(kind, truth)
        assert counted.base is not None
        assert (counted.base.tally.rows > 0) is (truth["messages"] > 0)
    finally:
        await counted.close()


@pytest.mark.parametrize(("kind", "engine", "name"), telling)
async def test_every_figure_is_the_same_when_the_line_has_moved_over_the_rows(
    kind: str, engine: str, name: str, loaded: str, tmp_path: Path
) -> None:
    """None was sealed when they were counted."""
    truth = TRUTHS[kind, engine, name]
    source, now = Source(loaded, kind, hosts=tuple(filter(None, [truth.get("host")]))), moment(truth).timestamp()
    first = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=lambda: now, tail=100_000)
    assert figures(await first.count()) == expected(kind, truth)
    await first.close()
    again = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=lambda: now, tail=1, overlap=0.0)
    try:
        await again.open()
        for _ in range(4):
            now += MAX_TRANSACTION_AGE / 2  # on SQLite, times wait for a writer that may be there
            assert figures(await again.look()) == expected(kind, truth)
        assert again.base is not None
        assert (again.base.tally.rows > 0) is (truth["messages"] > 0)
    finally:
        await again.close()


@pytest.mark.parametrize(("kind", "engine", "name"), telling)
def test_on_the_next_days_the_windows_have_moved_and_the_totals_stay(
    kind: str, engine: str, name: str, loaded: str
) -> None:
    truth = TRUTHS[kind, engine, name]
    totals = asyncio.run(count_once(loaded, kind, host=truth.get("host"), now=moment(truth) + timedelta(days=40)))
    want = expected(kind, truth)
    quiet = {"messages_today": 0, "active_users": {"1d": 0, "7d": 0, "30d": 0}}
    assert figures(totals) == {**want, **quiet}


@pytest.mark.parametrize(
    ("kind", "engine", "name"), [case for case in cases("sqlite") if "default_schema" in str(case.id)]
)
@pytest.mark.parametrize("host", [None, "example.org", "example.net"])
def test_the_hosts_of_the_schema_that_stores_none_are_told_by_its_messages(
    kind: str, engine: str, name: str, loaded: str, host: str | None
) -> None:
    truth = TRUTHS[kind, engine, name]
    totals = asyncio.run(count_once(loaded, kind, host=host, now=moment(truth)))
    assert figures(totals) == expected(kind, truth)


@pytest.mark.parametrize("file", sorted(DATA.glob("*/*/*.gz")), ids=lambda file: "-".join(file.parts[-3:]))
def test_the_data_holds_nobodys_secrets(file: Path) -> None:
    data = gzip.decompress(file.read_bytes())
    assert file.stat().st_size < 300_000
    for secret in (b"SCRAM", b"$2b$", b"'s password", b"bridge-token", b"server-token", b"syt_", b"PRIVATE KEY"):
        assert secret not in data, secret


@pytest.mark.parametrize(
    ("version", "oldest", "refusal"),
    [
        ("94", "94", None),
        ("99", "94", None),
        ("99", "95", "version 99, for programs that know 95 or later; known are 72 to 94"),
        ("72", "68", None),
        ("71", "68", "version 71"),
        ("NULL WHERE FALSE", "94", "this database of Synapse is empty: start Synapse once"),
    ],
)
def test_a_schema_of_synapse_is_read_as_far_as_synapse_itself_says_so(
    tmp_path: Path, version: str, oldest: str, refusal: str | None
) -> None:
    server = SqliteServer(tmp_path / "source.db")
    server.script(
        schemas.synapse("sqlite") + "DELETE FROM schema_version; DELETE FROM schema_compat_version;"
        f"INSERT INTO schema_version SELECT {version}; INSERT INTO schema_compat_version SELECT {oldest};"
    )
    with pytest.raises(Misconfigured, match=refusal) if refusal else contextlib.nullcontext():
        assert asyncio.run(count_once(server.url, "synapse")).stored_messages == 0
    server.close()


def test_of_mattermost_what_people_wrote_counts(server: Server) -> None:
    """On tables made by hand: of each kind of row, one that counts and those that do not."""
    noon = 1_773_144_000_000  # 2026-03-10T12:00:00Z
    server.script(
        schemas.mattermost(server.engine)
        + "INSERT INTO users (id, deleteat, remoteid) VALUES ('ann', 0, NULL), ('bob', 0, ''), ('gone', 7, NULL),"
        "    ('robot', 0, NULL), ('remote', 0, 'other'), ('quiet', 0, NULL);"
        "INSERT INTO bots VALUES ('robot');"
        "INSERT INTO channels VALUES ('1', 'O', 0), ('2', 'P', 0), ('3', 'D', 0), ('4', 'G', 0), ('5', 'O', 7),"
        "    ('6', 'X', 0);"
        "INSERT INTO posts (id, createat, updateat, deleteat, userid, originalid, type) VALUES"
        f"    ('1', {noon}, {noon}, 0, 'ann', '', ''), ('2', {noon}, {noon}, 0, 'remote', '', 'custom_poll'),"
        f"    ('3', {noon}, {noon}, {noon}, 'bob', '', ''), ('4', {noon}, {noon}, 0, 'ann', '1', ''),"
        f"    ('5', {noon}, {noon}, 0, 'quiet', '', 'system_join_channel'), ('6', {noon}, {noon}, 0, 'robot', '', ''),"
        f"    ('7', {noon}, {noon}, 0, 'gone', '', 'systematic'), ('8', {noon - 86_400_000}, {noon}, 0, 'ann', '', '')"
    )
    totals = asyncio.run(count_once(server.url, "mattermost", now=noon / 1000))
    assert (totals.stored_messages, totals.messages_today) == (4, 3)
    assert (totals.stored_conversations, totals.registered_users) == (4, 3)
    assert totals.active_users == {1: 2, 7: 2, 30: 2}


@pytest.mark.parametrize("kind", ["ejabberd", "prosody"])
def test_a_message_whose_sender_keeps_no_copy_of_it_counts_beside_one_of_the_same_id(server: Server, kind: str) -> None:
    """Ann archives what she writes to Carl only, with a client that numbers its messages anew for everybody."""
    rows, noon = (("ann", "carl", "carl"), ("carl", "ann", "carl"), ("bob", "ann", "bob")), 1_773_144_000
    stanza = "<message from=''ann@x/r'' to=''{}@x'' type=''chat'' id=''n1''><body>hi</body></message>"
    if kind == "ejabberd":
        server.script(
            schemas.ejabberd(server.engine) + "INSERT INTO users (username) VALUES ('ann'), ('bob'), ('carl');"
        )
        for owner, other, to in rows:
            peer = "ann@x/r" if other == "ann" else f"{other}@x"
            server.script(
                "INSERT INTO archive (username, timestamp, peer, bare_peer, xml, txt, kind) VALUES "
                f"('{owner}', {noon}000000, '{peer}', '{other}@x', '{stanza.format(to)}', 'hi', 'chat')"
            )
    else:
        server.script(schemas.prosody(server.engine))
        for owner, other, to in rows:
            server.script(
                f"INSERT INTO prosody VALUES ('x', '{owner}', 'accounts', 'password', 'string', 'p');"
                'INSERT INTO prosodyarchive (host, "user", store, key, "when", "with", type, value) VALUES '
                f"('x', '{owner}', 'archive', '{owner}', {noon}, '{other}@x', 'xml', '{stanza.format(to)}')"
            )
    totals = asyncio.run(count_once(server.url, kind, now=noon))
    assert (totals.stored_messages, totals.stored_conversations, totals.active_users[1]) == (2, 2, 1)


async def test_a_state_of_before_goes_on_where_a_key_has_no_rows(server: Server, tmp_path: Path) -> None:
    """That of hosts which are not known yet; its lowest value is in the state."""
    server.script(
        schemas.ejabberd(server.engine, new=True)
        + "INSERT INTO archive (username, server_host, timestamp, peer, bare_peer, xml, txt, kind) VALUES ('ann', 'x', "
        "1773144000000000, 'bob@x', 'bob@x', '<message from=''ann@x/r'' to=''bob@x''><body>hi</body></message>', 'hi', "
        "'chat')"
    )
    source, file = Source(server.url, "ejabberd"), tmp_path / "state.db"
    engine = Engine(source, State(file), load=1.0)
    await engine.count()
    await engine.close()
    state = State(file)
    base = state.get("base")
    base["cut"]["lows"]["timestamp of others"] = -(2**62)
    with state.step():
        state.put("base", base)
    engine = Engine(source, state, load=1.0)
    await engine.open()
    assert (await engine.look()).stored_messages is not None
    await engine.close()


async def test_a_virtual_host_that_appears_is_counted_at_once(tmp_path: Path) -> None:
    truth = TRUTHS["ejabberd", "sqlite", "new_schema"]
    file = tmp_path / "source.db"
    file.write_bytes(data_of("ejabberd", "sqlite", "new_schema"))
    engine = Engine(
        Source(f"sqlite:///{file}", "ejabberd"), State(None), load=1.0, clock=lambda: moment(truth).timestamp()
    )
    try:
        assert (await engine.count()).stored_messages == truth["messages"]
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(
                "INSERT INTO archive (username, server_host, timestamp, peer, bare_peer, xml, txt, kind, nick) "
                "SELECT username, 'new.example', timestamp, peer, bare_peer, "
                "replace(xml, '@example.org', '@new.example'), txt, kind, nick FROM archive WHERE username = 'lea'"
            )
        assert (await engine.look()).stored_messages == truth["messages"] + 1
        assert (await engine.count()).stored_messages == truth["messages"] + 1
    finally:
        await engine.close()
