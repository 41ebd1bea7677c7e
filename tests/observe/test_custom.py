"""A mapping of one's own: the back end that this project grew out of, on both engines, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter.core.errors import Misconfigured
from exporter.observe import SourceTotals, count_once, counters
from exporter.observe.check import ALL_WELL, FINDINGS, UNCHECKED, check
from exporter.observe.custom import DatabaseFacts, Document
from exporter.observe.engine import Engine
from exporter.observe.mapping import Dialect
from exporter.observe.records import SourceError
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer, Server, SqliteServer
from tests.servers.postgres import Postgres

NOON = 1_773_144_000.0  # 2026-03-10T12:00:00Z
MAPPING = """
messages:
  table: message
  key: id
  time: {column: created_at, unit: timestamp, zone: UTC}
  sender: sender_id
  conversation: conversation_id
  deleted: {column: deleted_at, unit: timestamp}
users: {table: user, id: id, filter: "role <> 'bot'"}
conversations: {table: conversation, id: id, counter: total_messages}
"""
ROWS = """
INSERT INTO "user" (id, role, created_at) VALUES (1, 'user', '2026-01-01'), (2, 'admin', '2026-01-01'),
    (3, 'bot', '2026-01-01'), (4, 'user', '2026-01-01');
INSERT INTO conversation (id, created_at, total_messages) VALUES (1, '2026-01-01', 3), (2, '2026-01-01', 9),
    (3, '2026-01-01', 0);
INSERT INTO message (conversation_id, sender_id, content, created_at, deleted_at) VALUES
    (1, 1, 'a', '2026-03-10 00:00:00', NULL), (1, 2, 'b', '2026-03-09 23:59:59', NULL),
    (1, 1, 'c', '2026-03-10 11:00:00', NULL), (2, 4, 'd', '2026-02-20 10:00:00', '2026-03-01 00:00:00'),
    (2, 3, 'e', '2026-03-10 10:00:00', NULL), (2, 2, 'f', '2025-12-01 00:00:00.123456', NULL);
"""


@pytest.fixture
def server(server: Server) -> Server:
    if isinstance(server, SqliteServer):
        server.script("PRAGMA journal_mode = DELETE;")
    server.script(schemas.origin(server.engine) + ROWS)
    return server


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.yml"
    path.write_text(MAPPING)
    return path


def test_the_origin_is_counted(server: Server, mapping: Path) -> None:
    totals = asyncio.run(count_once(server.url, "custom", now=NOON, config_file=mapping))
    assert (totals.stored_messages, totals.messages_today) == (5, 3)
    assert (totals.stored_conversations, totals.registered_users) == (3, 3)
    assert totals.active_users == {1: 1, 7: 2, 30: 3}
    assert totals.inaccurate_conversations == 1


def test_a_check_lists_the_conversations_whose_counter_is_wrong(server: Server, mapping: Path) -> None:
    said: list[str] = []
    status = asyncio.run(check(Source(server.url, "custom", config_file=mapping), out=said.append))
    assert status == FINDINGS
    assert "    2: the counter says 9, there are 2 messages" in said
    assert "      rows of user with role <> 'bot'" in said
    assert not any(line.startswith("    1:") for line in said)
    assert any("no index on message (deleted_at)" in line for line in said)
    index, right = "CREATE INDEX i ON message (deleted_at)", "UPDATE conversation SET total_messages = 2 WHERE id = 2"
    for change, alone in ((index, "the counter"), (right, None), ("DROP INDEX i", "the index")):
        server.script(change)
        status = asyncio.run(check(Source(server.url, "custom", config_file=mapping), out=said.append))
        assert status == (FINDINGS if alone else ALL_WELL), alone


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("users: {table: u, id: i}", "messages is missing at the top"),
        ("messages: {table: message}", "key is missing under messages"),
        (MAPPING + "rooms: {}", "there is no rooms at the top"),
        (MAPPING.replace("sender_id", "[a]"), "expected text for sender under messages"),
        (MAPPING.replace("unit: timestamp, zone", "unit: minutes, zone"), "expected s, ms, us"),
        (MAPPING.replace("zone: UTC", "zone: Europe/Atlantis"), "no zone of that name"),
        (MAPPING.replace("role <> 'bot'", "1=1; DROP TABLE message"), "one SQL condition"),
        (MAPPING + "users: {table: u, id: i}", "stands twice"),
        (
            MAPPING.replace("key: id", "key: [a, b]"),
            r"the key is one column that grows by itself, not several \(a, b\)",
        ),
        (MAPPING.replace("key: id", '"key": "a, b"'), "the key is one column that grows by itself"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mapping.yml"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=reason) as refused:
        Document(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "right", "reason"),
    [
        ("table: message", "table: messages", "no table messages"),
        ("table: message", "table: Message", "no table Message; there is message"),
        ("sender: sender_id", "sender: Sender_ID", "no column Sender_ID; there is sender_id"),
        ("role <> 'bot'", "nope <> 'bot'", "the filter under users is no SQL condition over the columns of its table"),
        ("role <> 'bot'", "role <> <> 'bot'", "the filter under users is no SQL condition"),
        ("unit: timestamp, zone: UTC", "unit: s", "created_at"),
        ("unit: timestamp, zone: UTC", "unit: ms", "created_at"),
        ("sender: sender_id", "sender: author", "the table message has no column author"),
    ],
)
def test_a_mapping_that_does_not_fit_the_database_is_refused(
    server: Server, tmp_path: Path, wrong: str, right: str, reason: str
) -> None:
    path = tmp_path / "mapping.yml"
    path.write_text(MAPPING.replace(wrong, right))
    with pytest.raises(Misconfigured, match=reason):
        asyncio.run(count_once(server.url, "custom", config_file=path))


def test_a_local_time_without_a_zone_is_reckoned_in_the_zone_of_the_mapping(server: Server, tmp_path: Path) -> None:
    """Midnight UTC of 10 March is 13:00 in Auckland: only what was written later than that is today's."""
    path = tmp_path / "mapping.yml"
    path.write_text(MAPPING.replace("zone: UTC", "zone: Pacific/Auckland"))
    server.script(
        "INSERT INTO message (conversation_id, sender_id, content, created_at) VALUES "
        "(1, 1, 'x', '2026-03-10 12:59:59'), (1, 1, 'y', '2026-03-10 13:00:00')"
    )
    totals = asyncio.run(count_once(server.url, "custom", now=NOON, config_file=path))
    assert totals.messages_today == 1


OTHERS = """
CREATE TABLE "Member" ("Id" varchar(36) PRIMARY KEY);
CREATE TABLE "Chat Message" ("rowNo" bigint PRIMARY KEY, "uid" varchar(36), "memberId" varchar(36), "sentAt" {number},
    "isDeleted" smallint DEFAULT 0);
CREATE INDEX "sent" ON "Chat Message" ("sentAt");
CREATE VIEW "Messages v" AS SELECT * FROM "Chat Message" WHERE "rowNo" > 0;
INSERT INTO "Member" VALUES ('6f1c'), ('7a2d');
INSERT INTO "Chat Message" VALUES (-5, 'a', '6f1c', {at} * {unit}, 0), (1, 'b', '6f1c', {at} * {unit}, 1),
    (2, 'c', '7a2d', ({at} - 86400) * {unit}, 0), (9, 'd', 'gone', {at} * {unit}, 0), (10, 'e', NULL, NULL, 0);
"""


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
@pytest.mark.parametrize(("table", "messages"), [("Chat Message", 4), ("Messages v", 3)])
def test_names_in_quotes_views_numbers_for_flags_and_times_in_any_unit(
    server: Server, tmp_path: Path, unit: str, factor: int, table: str, messages: int
) -> None:
    server.script(
        OTHERS.format(
            at=int(NOON) - 60, unit=f"CAST({factor} AS bigint)", number="double precision" if unit == "s" else "bigint"
        )
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        f"messages: {{table: {table}, key: rowNo, time: {{column: sentAt, unit: {unit}}}, sender: memberId,\n"
        "  conversation: memberId, deleted: {column: isDeleted, unit: flag}}\nusers: {table: Member, id: Id}\n"
    )
    totals = asyncio.run(count_once(server.url, "custom", now=NOON, config_file=path))
    assert (totals.stored_messages, totals.messages_today) == (messages, messages - 2)
    assert (totals.registered_users, totals.stored_conversations) == (2, 3)
    assert totals.active_users == {1: 1, 7: 2, 30: 2}


@pytest.mark.parametrize("digits", [False, True])
def test_a_key_of_texts_is_refused_in_one_line(server: Server, tmp_path: Path, digits: bool) -> None:
    """Also one of digits, of which 10 is below 9."""
    server.script(OTHERS.format(at=int(NOON), unit=1, number="bigint"))
    if digits:
        server.script('UPDATE "Chat Message" SET "uid" = "rowNo"')
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: Chat Message, key: uid, time: {column: sentAt, unit: s}}")
    with pytest.raises(
        (SourceError, Misconfigured), match=r"the key uid .*give a column (of whole numbers|that does), or"
    ):
        asyncio.run(count_once(server.url, "custom", now=NOON, config_file=path))


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(("ours", "theirs"), [("text", "uuid"), ("text", "bigint"), ("integer", "uuid")])
def test_ids_of_different_types_are_told_apart_from_missing_columns(
    postgres: Postgres, tmp_path: Path, ours: str, theirs: str
) -> None:
    other = PostgresqlServer(postgres)
    other.script(
        f"CREATE TABLE people (id {theirs});"
        f"CREATE TABLE message (id bigint PRIMARY KEY, at timestamptz, sender {ours});"
        "INSERT INTO message VALUES (1, now(), '1')"
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamptz}, sender: sender}\n"
        "users: {table: people, id: id}\n"
    )
    with pytest.raises(
        Misconfigured, match=rf"of different types: sender of message \({ours}\) and id of people \({theirs}\)"
    ):
        asyncio.run(count_once(other.url, "custom", config_file=path))
    other.close()


def observed(server: Server, tmp_path: Path, mapping: str) -> SourceTotals:
    """What one count with this mapping tells."""
    path = tmp_path / "mapping.yml"
    path.write_text(mapping)
    return asyncio.run(count_once(server.url, "custom", now=NOON, config_file=path))


FIVE = "(1, {at}), (2, {at}), (3, {at} - 86400 * {unit}), (4, {at}), (5, {at} - 200 * 86400 * {unit})"


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
@pytest.mark.parametrize("wrong", ["s", "ms", "us", "text"])
def test_numbers_in_another_unit_are_told(server: Server, tmp_path: Path, unit: str, factor: int, wrong: str) -> None:
    factor_ = f"CAST({factor} AS bigint)"
    rows = FIVE.format(at=f"{int(NOON) - 60} * {factor_}", unit=factor_)
    server.script(f"CREATE TABLE posts (id bigint PRIMARY KEY, at bigint); INSERT INTO posts VALUES {rows}")
    mapping = f"messages: {{table: posts, key: id, time: {{column: at, unit: {wrong}}}}}"
    if wrong == unit:
        totals = observed(server, tmp_path, mapping)
        assert (totals.stored_messages, totals.messages_today) == (5, 3)
        return
    with pytest.raises(Misconfigured, match=rf"the column at .*(is {unit}|is s or ms or us or flag), not {wrong}"):
        observed(server, tmp_path, mapping)


@pytest.mark.parametrize(
    ("key", "midnight"),
    [("id", ""), *((key, f"{sign}00:00{rest}") for key in ("id", "at") for sign in " T" for rest in ("", ":00.000Z"))],
)
def test_a_text_of_midnight_is_of_its_day_however_much_of_it_is_written(
    server: Server, tmp_path: Path, key: str, midnight: str
) -> None:
    """A date alone is below every moment of its day, as texts compare. A key of days only would be none."""
    rows = ", ".join(f"({i}, '2026-03-{i:02}{midnight}', 'u{i}')" for i in (4, 9, 10))
    rows += f", (3, '2026-03-03{midnight[:1] or ' '}12:00', 'u3')"
    server.script(f"CREATE TABLE posts (id int, at text, who text); INSERT INTO posts VALUES {rows}")
    totals = observed(
        server, tmp_path, f"messages: {{table: posts, key: {key}, time: {{column: at, unit: text}}, sender: who}}"
    )
    assert (totals.stored_messages, totals.messages_today, totals.active_users) == (4, 1, {1: 1, 7: 3, 30: 4})


@pytest.mark.parametrize("midnight", [" 00:00", " 00:00:00", "T00:00", "T00:00:00"])
async def test_a_line_at_midnight_has_what_is_of_midnight_below_it(
    server: Server, tmp_path: Path, midnight: str
) -> None:
    """As state files have it, and so that another database with the same times is told by who wrote then."""
    times = ", ".join(f"('2026-03-10{midnight[0]}11:0{i}', 'bob')" for i in range(2))
    script = f"INSERT INTO posts VALUES ('2026-03-10{midnight}', '{{}}'), {times}"
    server.script(f"CREATE TABLE posts (at text, who text); {script.format('ann')}")
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: at, time: {column: at, unit: text}, sender: who}")
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON, tail=2)
    assert (await engine.count()).stored_messages == 3
    assert engine.base is not None
    assert engine.base.tally.rows == 1
    server.script(f"DELETE FROM posts; {script.format('eve')}")
    assert (await engine.look()).stored_messages is None
    await engine.close()


@pytest.mark.parametrize(
    ("type_", "unit", "days"),
    [
        ("date", "timestamp", ["2026-03-09", "2026-03-10"]),
        ("timestamp", "timestamp", ["2026-03-09 00:00:00", "2026-03-10 00:00:00"]),
        ("timestamptz", "timestamptz", ["2026-03-09 00:00:00+00", "2026-03-10 00:00:00+00"]),
        ("text", "text", ["2026-03-09", "2026-03-10"]),
        ("text", "text", ["2026-03-09 00:00:00", "2026-03-10 00:00:00.000000"]),
        ("text", "text", ["2026-03-10T00:00:00.000Z", "2026-03-10T00:00Z"]),
        ("bigint", "s", ["1773014400", "1773100800"]),
        ("bigint", "ms", ["1773014400000", "1773100800000"]),
    ],
)
def test_a_day_is_no_key(server: Server, tmp_path: Path, type_: str, unit: str, days: list[str]) -> None:
    """What comes later on a day that is sealed would not be above the line. One midnight alone is a moment."""
    server.script(f"CREATE TABLE posts (at {type_}); INSERT INTO posts VALUES ('{days[0]}')")
    mapping = f"messages: {{table: posts, key: at, time: {{column: at, unit: {unit}}}}}"
    if len(days[0]) > 10 or type_ == "bigint":
        assert observed(server, tmp_path, mapping).stored_messages == 1
    server.script(f"INSERT INTO posts VALUES ('{days[1]}')")
    with pytest.raises(Misconfigured, match="the key at holds days"):
        observed(server, tmp_path, mapping)
    if type_ != "date":
        noon = (
            str((int(days[0]) + int(days[1])) // 2)
            if type_ == "bigint"
            else f"{days[0][:10]}{days[1][10:11] or ' '}12:00"
        )
        server.script(f"INSERT INTO posts VALUES ('{noon}')")
        assert observed(server, tmp_path, mapping).stored_messages == 3


@pytest.mark.parametrize("use", ["time", "deleted"])
def test_a_number_that_is_none_is_no_defect(postgres: Postgres, tmp_path: Path, use: str) -> None:
    """PostgreSQL's numeric has it, and it is in no unit: nothing is said of it."""
    with closing(PostgresqlServer(postgres)) as server:
        at, gone = ("NaN", "NULL") if use == "time" else (str(int(NOON)), "'NaN'")
        server.script(
            "CREATE TABLE posts (id bigint PRIMARY KEY, at numeric, gone numeric);"
            f"INSERT INTO posts VALUES (1, {int(NOON)}, NULL), (2, '{at}', {gone})"
        )
        time = "time: {column: at, unit: s}, deleted: {column: gone, unit: s}"
        totals = observed(server, tmp_path, f"messages: {{table: posts, key: id, {time}}}")
        assert totals.stored_messages == (2 if use == "time" else 1)


def test_nanoseconds_are_told(server: Server, tmp_path: Path) -> None:
    server.script(f"CREATE TABLE posts (id int, at bigint); INSERT INTO posts VALUES (1, {int(NOON)}000000000)")
    with pytest.raises(Misconfigured, match="at holds 1773144000000000000, which are nanoseconds"):
        observed(server, tmp_path, "messages: {table: posts, key: id, time: {column: at, unit: us}}")


@pytest.mark.parametrize("unit", ["s", "text"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2461110.25", "which is a Julian day: map a view"),
        (f"'{NOON}00'", "as a text: map a view that has it as a number"),
    ],
)
def test_julian_days_and_digits_in_a_text_are_told(tmp_path: Path, unit: str, value: str, reason: str) -> None:
    """Whichever unit is given, SQLite holds them: no other one would do."""
    with closing(SqliteServer(tmp_path / "chat.db")) as server:
        server.script(f"CREATE TABLE posts (id int, at); INSERT INTO posts VALUES (1, {value})")
        with pytest.raises(Misconfigured, match=reason):
            observed(server, tmp_path, f"messages: {{table: posts, key: id, time: {{column: at, unit: {unit}}}}}")


def test_times_with_an_offset_in_texts_are_refused(server: Server, tmp_path: Path) -> None:
    server.script(
        "CREATE TABLE posts (id bigint PRIMARY KEY, at text);"
        "INSERT INTO posts VALUES (1, '2026-03-10T00:00:00Z'), (2, '2026-03-09T23:59:59+00:00')"
    )
    mapping = "messages: {table: posts, key: id, time: {column: at, unit: text}}"
    totals = observed(server, tmp_path, mapping)
    assert (totals.stored_messages, totals.messages_today) == (2, 1)
    server.script("CREATE INDEX posts_id ON posts (id)")
    for utc in (
        "2026-03-10 00:00:00+00",
        "2026-03-10 00:00:00.5 +0000 UTC m=+12.3",
        "2026-03-10-11.30.00.123456",  # as DB2 writes it
        "2026-03-10 11-30-00",
    ):
        server.script(f"UPDATE posts SET at = '{utc}' WHERE id = 2")
        assert observed(server, tmp_path, mapping).messages_today == 2, utc
    for local in (
        "2026-03-10T00:30:00+02:00",
        "2026-03-10T00:30:00+00:30",
        "2026-03-10 00:30+02",
        "2026-03-10T0030-0300",
        "2026-03-10+02:00",
        "2026-03-10 00:30:00.1234 -0300 -03 m=+0.01",
    ):
        server.script(f"UPDATE posts SET at = '{local}' WHERE id = 2")
        with pytest.raises(Misconfigured, match=r"times with an offset .*map a view that has them in UTC"):
            observed(server, tmp_path, mapping)


def test_a_filter_in_capitals_and_an_index_that_leaves_out_the_null(server: Server, tmp_path: Path) -> None:
    """The columns of a filter are read, however it writes them; a usual partial index finds deletions at once."""
    server.script("CREATE INDEX ix_gone ON message (deleted_at) WHERE deleted_at IS NOT NULL")
    mapping = MAPPING.replace("deleted:", "filter: \"CONTENT <> 'a'\"\n  deleted:")
    totals = observed(server, tmp_path, mapping)
    assert (totals.stored_messages, totals.messages_today) == (4, 2)
    said: list[str] = []
    asyncio.run(check(Source(server.url, "custom", config_file=tmp_path / "mapping.yml"), out=said.append))
    assert not any("no index" in line for line in said), said


def test_an_index_that_is_missing_says_what_that_means_and_a_view_s_are_not_known(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "mapping.yml"
    path.write_text(MAPPING)
    said: list[str] = []
    source = Source(server.url, "custom", config_file=path)
    asyncio.run(check(source, out=said.append))
    assert "  there is no index on message (deleted_at): a deletion is seen by the next recount only" in said
    server.script("CREATE VIEW said AS SELECT * FROM message WHERE content <> 'zzz'")
    path.write_text(MAPPING.replace("table: message", "table: said").replace(", counter: total_messages", ""))
    said.clear()
    assert asyncio.run(check(source, out=said.append)) == ALL_WELL, said
    assert any(line.startswith("  said is a view: whether an index serves id is not known here") for line in said)


SCHEMAS = """
CREATE SCHEMA "Chat";
CREATE TABLE "Chat"."Message" ("Id" bigint GENERATED ALWAYS AS IDENTITY, "Sender" uuid, "SentAt" timestamptz NOT NULL)
    PARTITION BY RANGE ("SentAt");
CREATE TABLE "Chat".old PARTITION OF "Chat"."Message" FOR VALUES FROM ('2020-01-01') TO ('2026-03-01');
CREATE TABLE "Chat".new PARTITION OF "Chat"."Message" FOR VALUES FROM ('2026-03-01') TO ('2030-01-01');
CREATE INDEX ON "Chat"."Message" ("Id");
CREATE INDEX ON "Chat"."Message" ("SentAt");
CREATE TABLE people (id uuid PRIMARY KEY);
CREATE TABLE "Message" (id int);
INSERT INTO people SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid FROM generate_series(1, 3) i;
INSERT INTO "Chat"."Message" ("Sender", "SentAt") SELECT ('00000000-0000-0000-0000-00000000000' || i % 5)::uuid,
    timestamptz '2026-03-10 11:00:00+00' - i * interval '1 day' FROM generate_series(0, 49) i;
"""
PARTITIONED = """
messages: {table: Chat.Message, key: KEY, time: {column: SentAt, unit: timestamptz}, sender: Sender}
users: {table: people, id: id}
"""


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("key", ["Id", "SentAt"])
async def test_a_partitioned_table_in_a_schema_of_its_own_with_names_in_capitals(
    postgres: Postgres, tmp_path: Path, key: str
) -> None:
    """By a user who has nothing but the rights that a check prints."""
    other = PostgresqlServer(postgres)
    other.script(SCHEMAS)
    path = tmp_path / "mapping.yml"
    path.write_text(PARTITIONED.replace("KEY", key))
    role = f"reader_{other.name}"
    postgres.psql(f"CREATE ROLE {role} LOGIN")
    source = Source(postgres.url(other.name, role), "custom", config_file=path)
    said: list[str] = []
    assert await check(source, out=said.append) == UNCHECKED
    grants = [line.strip() for line in said if line.strip().startswith("GRANT ")]
    assert grants, said
    assert 'GRANT USAGE ON SCHEMA "Chat" TO ' in grants[0]
    postgres.psql(" ".join(grants), other.name)
    said.clear()
    assert await check(source, out=said.append) == ALL_WELL, said
    clock = NOON
    engine = Engine(source, State(None), load=1.0, clock=lambda: clock, tail=5)
    totals = await engine.count()
    assert (totals.stored_messages, totals.messages_today, totals.registered_users) == (50, 1, 3)
    assert totals.active_users == {1: 0, 7: 3, 30: 3}
    for _ in range(3):
        clock += 70
        other.script('INSERT INTO "Chat"."Message" ("Sender", "SentAt") VALUES (NULL, \'2026-03-10 12:00:30+00\')')
        await engine.look()
    assert (await engine.look()).stored_messages == 53
    await engine.close()
    other.close()


UNFIT = [
    ("uuid", "timestamptz", "id", "timestamptz", r"the key id is of type uuid.*the column of time \(key: at\)"),
    ("text", "timestamptz", "id", "timestamptz", "the key id is of type text"),
    (
        "bigint",
        "timestamptz",
        "id",
        "timestamp",
        "the column at is of type timestamp with time zone: its unit is timestamptz",
    ),
    ("bigint", "timestamp", "id", "timestamptz", "its unit is timestamp, with the zone that it is in, not timestamptz"),
    ("bigint", "timestamp", "id", "ms", "its unit is timestamp, with the zone that it is in, not ms"),
    ("bigint", "bigint", "id", "timestamptz", "the column at is of type bigint: its unit is s or ms or us"),
    ("bigint", "uuid", "id", "text", "the column at is of type uuid, which holds no times"),
]


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(("id_", "at", "key", "unit", "reason"), UNFIT)
def test_a_column_of_another_type_is_told_before_anything_is_counted(
    postgres: Postgres, tmp_path: Path, id_: str, at: str, key: str, unit: str, reason: str
) -> None:
    other = PostgresqlServer(postgres)
    other.script(f"CREATE TABLE posts (id {id_} PRIMARY KEY, at {at})")
    with pytest.raises(Misconfigured, match=reason):
        observed(other, tmp_path, f"messages: {{table: posts, key: {key}, time: {{column: at, unit: {unit}}}}}")
    other.close()


@pytest.mark.parametrize(("unit", "reason"), [("ms", "which is no number"), ("text", "which is no time such as")])
def test_a_column_without_times_is_told_and_nothing_of_it_is_repeated(tmp_path: Path, unit: str, reason: str) -> None:
    """Compared as texts, letters come after every midnight: each such row would be one of today."""
    with closing(SqliteServer(tmp_path / "letters.db")) as other:
        other.script(
            "CREATE TABLE letters (id integer PRIMARY KEY, body text); INSERT INTO letters VALUES (1, 'secret')"
        )
        with pytest.raises(Misconfigured, match=reason) as refused:
            observed(other, tmp_path, f"messages: {{table: letters, key: id, time: {{column: body, unit: {unit}}}}}")
        assert "secret" not in str(refused.value)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("type_", ["timestamptz", "timestamp"])
def test_times_that_python_does_not_have_are_early_and_late_ones(
    postgres: Postgres, tmp_path: Path, type_: str
) -> None:
    other = PostgresqlServer(postgres)
    other.script(
        f"CREATE TABLE posts (id int, at {type_}); CREATE INDEX ON posts (at);"
        "INSERT INTO posts VALUES (1, '0044-03-15 BC'), (2, '2026-03-10 11:00:00'), (3, '20000-01-01'), (4, 'infinity')"
    )
    zone = ", zone: America/New_York" if type_ == "timestamp" else ""
    text = f"messages: {{table: posts, key: at, time: {{column: at, unit: {type_}{zone}}}}}"
    totals = observed(other, tmp_path, text)
    assert (totals.stored_messages, totals.messages_today) == (4, 3)
    other.close()


@pytest.mark.needs("postgres")
async def test_names_that_are_words_of_sql_are_granted_as_such(postgres: Postgres, tmp_path: Path) -> None:
    other = PostgresqlServer(postgres)
    other.script('CREATE TABLE "order" ("group" bigserial PRIMARY KEY, "end" timestamptz)')
    role = f"reader_{other.name}"
    postgres.psql(f"CREATE ROLE {role} LOGIN")
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: order, key: group, time: {column: end, unit: timestamptz}}")
    source = Source(postgres.url(other.name, role), "custom", config_file=path)
    said: list[str] = []
    assert await check(source, out=said.append) == UNCHECKED
    postgres.psql(" ".join(line for line in said if line.strip().startswith("GRANT ")), other.name)
    assert await check(source, out=said.append) == ALL_WELL, said
    other.close()


@pytest.mark.needs("postgres")
def test_the_time_is_the_key_where_ids_do_not_grow(postgres: Postgres, tmp_path: Path) -> None:
    """UUIDs, of whatever version, and keys of several columns."""
    other = PostgresqlServer(postgres)
    other.script(
        "CREATE TABLE posts (room uuid, number int, at timestamptz DEFAULT now(), PRIMARY KEY (room, number));"
        "CREATE INDEX ON posts (at); INSERT INTO posts SELECT gen_random_uuid(), i % 7, "
        "timestamptz '2026-03-10 11:00:00+00' - i * interval '1 hour' FROM generate_series(0, 99) i"
    )
    mapping = "messages: {table: posts, key: number, time: {column: at, unit: timestamptz}, conversation: room}"
    with pytest.raises(Misconfigured, match=r"the key number is unique only together with room: .*\(key: at\)"):
        observed(other, tmp_path, mapping)
    mapping = mapping.replace("key: number", "key: at")
    totals = observed(other, tmp_path, mapping)
    assert (totals.stored_messages, totals.messages_today, totals.stored_conversations) == (100, 12, 100)
    other.close()


def test_a_key_that_is_numbered_anew_in_each_conversation_is_refused(server: Server, tmp_path: Path) -> None:
    number = "bigint" if server.engine == "postgresql" else "integer"
    server.script(
        f"CREATE TABLE posts (room {number}, number {number}, at {number}, PRIMARY KEY (room, number));"
        f"INSERT INTO posts VALUES (1, 1, {int(NOON)}), (1, 2, {int(NOON)}), (2, 1, {int(NOON)})"
    )
    mapping = "messages: {table: posts, key: number, time: {column: at, unit: s}, conversation: room}"
    with pytest.raises(Misconfigured, match=r"the key number is unique only together with room: .*\(key: at\)"):
        observed(server, tmp_path, mapping)
    assert observed(server, tmp_path, mapping.replace("key: number", "key: at")).stored_messages == 3


def test_the_counter_of_a_conversation_that_the_filter_leaves_out_is_not_compared(
    server: Server, tmp_path: Path
) -> None:
    totals = observed(server, tmp_path, MAPPING)
    assert (totals.stored_conversations, totals.inaccurate_conversations) == (3, 1)
    totals = observed(server, tmp_path, MAPPING.replace("total_messages}", 'total_messages, filter: "id <> 2"}'))
    assert (totals.stored_conversations, totals.inaccurate_conversations) == (2, 0)


async def test_counters_of_conversations_whose_ids_are_bytes_are_each_compared_once(
    server: Server, tmp_path: Path
) -> None:
    """UUIDs of 16 bytes, in more than a page, and one without an id."""
    bytes_ = "bytea" if server.engine == "postgresql" else "blob"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
    made = "decode(md5(CAST(i AS text)), 'hex')" if server.engine == "postgresql" else "CAST(i * 7919 % 503 AS blob)"
    server.script(
        f"CREATE TABLE rooms (id {bytes_}, counter int); INSERT INTO rooms {numbers} SELECT {made}, 7 FROM n;"
        f"INSERT INTO rooms VALUES (NULL, 0); CREATE TABLE posts (id int, at int, room {bytes_});"
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        "messages: {table: posts, key: id, time: {column: at, unit: s}, conversation: room}\n"
        "conversations: {table: rooms, id: id, counter: counter}"
    )
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON)
    assert (await engine.count()).inaccurate_conversations == 500
    await engine.close()


@pytest.mark.parametrize("key", ["id", "at"])
async def test_deletions_of_one_person_and_of_one_moment_are_all_seen(server: Server, tmp_path: Path, key: str) -> None:
    server.script(
        "CREATE TABLE posts (id int, at int, sender int, gone int); CREATE INDEX i ON posts (id);"
        "CREATE INDEX a ON posts (at); CREATE INDEX g ON posts (gone);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
        f"INSERT INTO posts SELECT i, {int(NOON)} - 1000 + i / 2, 1, NULL FROM n;"
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        f"messages: {{table: posts, key: {key}, time: {{column: at, unit: s}}, sender: sender, "
        "deleted: {column: gone, unit: s}}"
    )
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON, tail=5)
    assert (await engine.count()).stored_messages == 100
    server.script(f"UPDATE posts SET gone = {int(NOON)} WHERE id <= 20")
    assert (await engine.look()).stored_messages == 80
    await engine.close()


async def test_the_hour_that_is_written_twice_when_clocks_are_put_back(server: Server, tmp_path: Path) -> None:
    """Messages and deletions in the zone's own time, one of each a minute, from an hour before to an hour after."""
    type_ = "timestamp" if server.engine == "postgresql" else "text"
    server.script(f"CREATE TABLE posts (at {type_}, gone {type_}); CREATE INDEX a ON posts (at);")
    server.script("CREATE INDEX g ON posts (gone); INSERT INTO posts VALUES ('2026-01-01 00:00:00', NULL);")
    path = tmp_path / "mapping.yml"
    times = "{column: at, unit: timestamp, zone: Europe/Berlin}"
    path.write_text(f"messages: {{table: posts, key: at, time: {times}, deleted: {times.replace('at,', 'gone,', 1)}}}")
    now = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=lambda: now.timestamp(), tail=5)
    assert (await engine.count()).stored_messages == 1
    for minute in range(180):
        local = f"{now.astimezone(ZoneInfo('Europe/Berlin')):%Y-%m-%d %H:%M:%S}"
        server.script(f"INSERT INTO posts VALUES ('{local}', NULL), ('{local}', NULL);")
        if minute % 10 == 9:
            server.script(
                f"UPDATE posts SET gone = '{local}' WHERE at = (SELECT MIN(at) FROM posts WHERE gone IS NULL)"
            )
        kept = server.fetch("SELECT COUNT(*) FROM posts WHERE gone IS NULL")[0][0]
        assert (await engine.look()).stored_messages == kept, local
        now += timedelta(minutes=1)
    assert engine.base is not None
    assert engine.base.tally.rows > 300
    await engine.close()


async def test_what_was_counted_by_another_mapping_is_counted_anew(server: Server, tmp_path: Path) -> None:
    """Else the sealed rows are those of the old filter, and the new ones those of the new one."""
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(MAPPING)
    source = Source(server.url, "custom", config_file=mapping)
    engine = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=lambda: NOON, tail=1)
    assert (await engine.count()).stored_messages == 5
    await engine.close()
    mapping.write_text(MAPPING.replace("sender: sender_id", "sender: sender_id\n  filter: \"content <> 'a'\""))
    again = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=lambda: NOON, tail=1)
    await again.open()
    assert (await again.look()).stored_messages is None
    assert (await again.count()).stored_messages == 4
    assert again.differences["stored_messages"] == -1
    mapping.write_text(MAPPING.replace("sender: sender_id", "sender: sender_id\n  filter: \"content = 'a'\""))
    assert (await again.count()).stored_messages == 1  # changed while it runs: the next recount reads the file, too
    await again.close()


NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "


async def test_rows_whose_senders_are_bytes_are_no_others(server: Server, tmp_path: Path) -> None:
    """UUIDs of 16 bytes, which are no texts; the key is the time, so the sender tells rows apart."""
    bytes_ = "bytea" if server.engine == "postgresql" else "blob"
    who = "decode('00ff' || md5('u'), 'hex')" if server.engine == "postgresql" else "X'00ff10ab'"
    server.script(f"CREATE TABLE posts (at int, who {bytes_}); CREATE INDEX a ON posts (at);")
    server.script(f"{NUMBERS} INSERT INTO posts SELECT {int(NOON)} - 500 + i, {who} FROM n")
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: at, time: {column: at, unit: s}, sender: who}")
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=lambda: NOON, tail=10)
    assert (await engine.count()).stored_messages == 100
    engine.require_recheck()
    await engine.open()
    assert (await engine.look()).stored_messages == 100
    server.script("UPDATE posts SET who = NULL")
    assert (await engine.look()).stored_messages is None
    await engine.close()


async def test_an_index_by_which_deletions_are_seen_comes_and_goes(server: Server, tmp_path: Path) -> None:
    """A count without it has left out what was deleted before it, and one with it has not."""
    server.script("CREATE TABLE posts (id int, at int, gone int); CREATE INDEX i ON posts (id);")
    server.script(f"{NUMBERS} INSERT INTO posts SELECT i, {int(NOON)} - 500 + i, NULL FROM n")
    server.script(f"UPDATE posts SET gone = {int(NOON)} - 30 WHERE id < 5")
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: id, time: {column: at, unit: s}, deleted: {column: gone, unit: s}}")
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=lambda: NOON, tail=10)
    assert (await engine.count()).stored_messages == 96
    for change, messages in (("CREATE INDEX g ON posts (gone)", 96), ("DROP INDEX g", 95)):
        server.script(change)
        engine.require_recheck()
        await engine.open()
        assert (await engine.look()).stored_messages is None
        assert (await engine.count()).stored_messages == messages
        assert engine.differences["stored_messages"] == 0
        server.script(f"UPDATE posts SET gone = {int(NOON)} WHERE id = 50")
        assert (await engine.look()).stored_messages == 95
    await engine.close()


async def test_counters_of_a_database_that_is_counted_anew_are_not_known(server: Server, tmp_path: Path) -> None:
    """Neither what was found before, nor what a comparison that was under way had found."""
    server.script(
        "CREATE TABLE posts (id int, at int, room int); CREATE INDEX i ON posts (id);"
        "CREATE TABLE rooms (id int, counter int); INSERT INTO rooms VALUES (1, 7);"
    )
    server.script(f"{NUMBERS} INSERT INTO posts SELECT i, {int(NOON)} - 500 + i, 1 FROM n")
    path = tmp_path / "mapping.yml"
    path.write_text(
        "messages: {table: posts, key: id, time: {column: at, unit: s}, conversation: room}\n"
        "conversations: {table: rooms, id: id, counter: counter}"
    )
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=lambda: NOON, tail=10)
    assert (await engine.count()).inaccurate_conversations == 1
    engine.require_recheck()
    await engine.open()
    assert (await engine.look()).inaccurate_conversations == 1
    await engine.begin()
    while engine.counting:
        await engine.advance()
    comparison = engine.counters.comparison
    assert comparison
    server.script("DELETE FROM posts")
    totals = await engine.look()
    assert (totals.stored_messages, totals.inaccurate_conversations, engine.counters.comparison) == (None, None, None)
    await engine.close()


async def test_a_restart_knows_how_many_counters_were_wrong(server: Server, mapping: Path, tmp_path: Path) -> None:
    """The comparison comes with the next recount only."""
    source, path = Source(server.url, "custom", config_file=mapping), tmp_path / "state.db"
    engine = Engine(source, State(path), load=1.0, clock=lambda: NOON)
    await engine.count()
    await engine.close()
    again = Engine(source, State(path), load=1.0, clock=lambda: NOON)
    await again.open()
    assert (await again.look()).inaccurate_conversations == 1
    await again.close()


async def test_what_was_found_of_another_counter_is_not_told_of_this_one(server: Server, tmp_path: Path) -> None:
    """Nor does it outlive the line of the file that asked for it: changed while it runs, or before a start."""
    server.script("ALTER TABLE conversation ADD COLUMN shown integer; UPDATE conversation SET shown = 0")
    path = tmp_path / "mapping.yml"
    path.write_text(MAPPING)
    source = Source(server.url, "custom", config_file=path)

    def engine() -> Engine:
        return Engine(source, State(tmp_path / "state.db"), load=1.0, clock=lambda: NOON, tail=1)

    first = engine()
    assert (await first.count()).inaccurate_conversations == 1
    path.write_text(MAPPING.replace("total_messages", "shown"))
    await first.begin()
    assert (await first.look()).inaccurate_conversations is None
    assert (await first.count()).inaccurate_conversations == 2
    await first.close()
    path.write_text(MAPPING.replace(", counter: total_messages", ""))
    second = engine()
    await second.open()
    totals = await second.look()
    assert (totals.stored_messages, totals.inaccurate_conversations) == (5, None)
    await second.close()


@pytest.mark.parametrize(
    ("name", "fault"), [("SECONDS", 0.0), ("statement", lambda *_: "SELECT nothing")], ids=["too slow", "refused"]
)
async def test_counters_that_cannot_be_compared_hold_up_no_recount(
    server: Server, mapping: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Any
) -> None:
    """One takes too long, as it does without an index, or may not be read; what was found before is of before."""
    now = NOON
    source = Source(server.url, "custom", config_file=mapping)
    engine = Engine(source, State(None), load=1.0, recount_interval=60, clock=lambda: now, tail=1)
    assert (await engine.count()).inaccurate_conversations == 1
    monkeypatch.setattr(counters, name, fault)
    server.script("DELETE FROM message WHERE content = 'f'")
    for _ in range(2):
        now += 60
        for _ in range(20):
            await step(engine)
        assert engine.to_begin is False
        assert engine.recounted_at == now
        assert (await engine.look()).stored_messages == 4
    assert (await engine.look()).inaccurate_conversations is None
    monkeypatch.undo()
    while engine.due:
        await step(engine)
    assert (await engine.look()).inaccurate_conversations == 1
    await engine.close()


@pytest.mark.parametrize("indexed", [False, True])
def test_who_was_deleted_at_no_time_is_there(server: Server, tmp_path: Path, indexed: bool) -> None:
    """Whether that is written as nothing or as 0."""
    at = int(NOON)
    server.script(
        "CREATE TABLE posts (id bigint, at bigint, gone bigint);"
        f"INSERT INTO posts VALUES (1, {at}, 0), (2, {at}, NULL), (3, {at}, {at}), (4, {at}, 1)"
        + ("; CREATE INDEX i ON posts (gone)" if indexed else "")
    )
    mapping = "messages: {table: posts, key: id, time: {column: at, unit: s}, deleted: {column: gone, unit: s}}"
    assert observed(server, tmp_path, mapping).stored_messages == 2


@pytest.mark.parametrize("indexed", [False, True])
async def test_a_text_for_no_deletion_is_none(server: Server, tmp_path: Path, indexed: bool) -> None:
    """Empty, or on SQLite 0: also where the newest row is deleted, or none is."""
    type_, unit, none = ("datetime", "timestamp", "0") if server.engine == "sqlite" else ("text", "text", "''")
    server.script(
        f"CREATE TABLE posts (id int, at int, gone {type_} DEFAULT {none}); CREATE INDEX i ON posts (id);"
        f"INSERT INTO posts (id, at, gone) VALUES (1, {int(NOON)}, ''), (2, {int(NOON)}, NULL);"
        f"INSERT INTO posts (id, at) VALUES (3, {int(NOON)}), (4, {int(NOON)});"
        + ("CREATE INDEX g ON posts (gone)" if indexed else "")
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        f"messages: {{table: posts, key: id, time: {{column: at, unit: s}}, deleted: {{column: gone, unit: {unit}}}}}"
    )
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON, tail=1)
    assert (await engine.count()).stored_messages == 4
    server.script("UPDATE posts SET gone = '2026-03-10 12:00:00' WHERE id = 4")
    assert (await engine.look()).stored_messages == 3
    assert (await engine.count()).stored_messages == 3
    await engine.close()


async def test_numbers_that_begin_far_below_zero_grow_like_others(server: Server, tmp_path: Path) -> None:
    """So that as many fit in as there are in 64 bits."""
    lowest = 1 - 2**63
    server.script(
        "CREATE TABLE posts (id bigint PRIMARY KEY, at int);"
        f"INSERT INTO posts VALUES ({lowest}, {int(NOON)}), ({lowest + 1}, {int(NOON)}), ({lowest + 2}, {int(NOON)})"
    )
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: id, time: {column: at, unit: s}}")
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON)
    assert (await engine.count()).stored_messages == 3
    server.script(f"INSERT INTO posts SELECT id + 3, at FROM posts WHERE id = {lowest + 2}")
    assert (await engine.look()).stored_messages == 4
    assert (await engine.count()).stored_messages == 4
    await engine.close()


def test_a_row_without_a_key_is_not_counted(server: Server, tmp_path: Path) -> None:
    at = int(NOON)
    server.script(f"CREATE TABLE posts (id int, at int); INSERT INTO posts VALUES (NULL, {at}), (1, {at}), (2, {at})")
    assert (
        observed(server, tmp_path, "messages: {table: posts, key: id, time: {column: at, unit: s}}").stored_messages
        == 2
    )


def test_a_number_of_any_size_is_a_flag(server: Server, tmp_path: Path) -> None:
    at = int(NOON)
    server.script(
        "CREATE TABLE posts (id int, at int, gone bigint);"
        f"INSERT INTO posts VALUES (1, {at}, 0), (2, {at}, NULL), (3, {at}, 1), (4, {at}, {at}000)"
    )
    mapping = "messages: {table: posts, key: id, time: {column: at, unit: s}, deleted: {column: gone, unit: flag}}"
    assert observed(server, tmp_path, mapping).stored_messages == 2


@pytest.mark.parametrize("type_", ["text", "boolean", ""])
@pytest.mark.parametrize("yes", ["1", "2026-03-10 12:00:00"])
def test_a_text_that_begins_with_a_number_is_a_flag_on_sqlite(tmp_path: Path, type_: str, yes: str) -> None:
    """SQLite has any type in any column; an empty text is no deletion, also of a row that is not looked at before."""
    with closing(SqliteServer(tmp_path / "chat.db")) as server:
        server.script(
            f"CREATE TABLE posts (id integer PRIMARY KEY, at int, gone {type_});"
            f"INSERT INTO posts VALUES (-3, {int(NOON)}, ''), (-2, {int(NOON)}, '0'), (-1, {int(NOON)}, '{yes}');"
            "WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 1000)"
            f"INSERT INTO posts SELECT n, {int(NOON)}, CASE WHEN n % 2 = 0 THEN '{yes}' ELSE '0' END FROM g"
        )
        mapping = "messages: {table: posts, key: id, time: {column: at, unit: s}, deleted: {column: gone, unit: flag}}"
        assert observed(server, tmp_path, mapping).stored_messages == 502


@pytest.mark.parametrize(("no", "yes"), [("f", "t"), ("false", "true")])
def test_a_text_is_no_flag(tmp_path: Path, no: str, yes: str) -> None:
    """SQLite makes 0 of every word."""
    with closing(SqliteServer(tmp_path / "chat.db")) as server:
        server.script(
            "CREATE TABLE posts (id int, at int, gone boolean);"
            f"INSERT INTO posts VALUES (1, {int(NOON)}, '{no}'), (2, {int(NOON)}, '{yes}')"
        )
        mapping = "messages: {table: posts, key: id, time: {column: at, unit: s}, deleted: {column: gone, unit: flag}}"
        with pytest.raises(Misconfigured, match="gone holds a text, which is no flag"):
            observed(server, tmp_path, mapping)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("unit", "none"),
    [
        ("s", "-1"),
        ("ms", "-62135596800000"),
        ("timestamptz", "0001-01-01 00:00:00+00"),
        ("timestamp", "1970-01-01 14:00:00"),
        ("text", "0000-00-00 00:00:00"),
        ("timestamptz", "-infinity"),
    ],
)
async def test_who_was_deleted_up_to_1970_is_there(
    server: Server, tmp_path: Path, unit: str, none: str, indexed: bool
) -> None:
    """As frameworks write it that have a time always: -1, the year 1, the first moment of 1970 in any zone."""
    if server.engine == "sqlite":
        none = none.replace("-infinity", "0001-01-01")  # which is a word there
    type_ = "bigint" if unit in ("s", "ms") else unit
    rows = ", ".join(f"({i}, {int(NOON)}, '{none}')" for i in range(1, 5))
    server.script(
        f"CREATE TABLE posts (id int, at int, gone {type_}); CREATE INDEX i ON posts (id);"
        f"INSERT INTO posts VALUES {rows};" + ("CREATE INDEX g ON posts (gone)" if indexed else "")
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        f"messages: {{table: posts, key: id, time: {{column: at, unit: s}}, deleted: {{column: gone, unit: {unit}}}}}"
    )
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=lambda: NOON, tail=1)
    assert (await engine.count()).stored_messages == 4
    noon = {"s": int(NOON), "ms": int(NOON) * 1000}.get(unit, "2026-03-10 12:00:00")
    for i, left in ((1, 3), (4, 2)):  # the first is sealed
        server.script(f"UPDATE posts SET gone = '{noon}' WHERE id = {i}")
        if indexed or i == 4:
            assert (await engine.look()).stored_messages == left
        assert (await engine.count()).stored_messages == left
    await engine.close()


@pytest.mark.parametrize(
    ("unit", "none", "deleted"),
    [
        ("timestamptz", "infinity", "2026-03-10 12:00:00+00"),
        ("text", "9999-12-31 00:00:00", "2026-03-10 12:00:00"),
        ("timestamp", "2999-12-31 23:59:59", "2026-03-10 12:00:00"),
        ("s", "253402300799", str(int(NOON))),
        ("ms", str(2**63 - 1), str(int(NOON) * 1000)),
    ],
)
def test_a_deletion_at_the_end_of_time_is_told(
    server: Server, tmp_path: Path, unit: str, none: str, deleted: str
) -> None:
    """As tables with a time up to which a row holds have it for those that still do."""
    type_ = "bigint" if unit in ("s", "ms") else unit
    if server.engine == "sqlite":
        none = none.replace("infinity", "9999-12-31")  # which is a word there
    server.script(
        f"CREATE TABLE posts (id int PRIMARY KEY, at int, upto {type_});"
        f"INSERT INTO posts VALUES (1, {int(NOON)}, '{none}'), (2, {int(NOON)}, '{deleted}')"
    )
    mapping = (
        f"messages: {{table: posts, key: id, time: {{column: at, unit: s}}, deleted: {{column: upto, unit: {unit}}}}}"
    )
    with pytest.raises(Misconfigured, match="upto holds a time without end"):
        observed(server, tmp_path, mapping)


@pytest.mark.parametrize("condition", ['"my kind" <> 1', "KINDOF <> 1", '"kindOf" <> 1'])
def test_a_filter_reads_the_columns_that_it_names(server: Server, tmp_path: Path, condition: str) -> None:
    """In quotes with a blank, or, where that finds them, in other letters."""
    name = "kindof" if server.engine == "postgresql" and condition[0] == "K" else '"kindOf"'
    server.script(
        f'CREATE TABLE posts (id int, at int, "my kind" int, {name} int);'
        f"INSERT INTO posts VALUES (1, {int(NOON)}, 1, 1), (2, {int(NOON)}, 2, 2), (3, {int(NOON)}, 2, 2)"
    )
    mapping = f"messages: {{table: posts, key: id, time: {{column: at, unit: s}}, filter: '{condition}'}}"
    assert observed(server, tmp_path, mapping).stored_messages == 2


@pytest.mark.parametrize(("dialect", "columns"), [("postgresql", ["id", "type"]), ("sqlite", ["id", "type", "Text"])])
def test_a_filter_needs_no_right_to_a_column_that_it_does_not_find(
    tmp_path: Path, dialect: str, columns: list[str]
) -> None:
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: id, time: {column: id, unit: s}, filter: \"TYPE = 'text'\"}")
    there = {"posts": {"id": "integer", "type": "text", "Text": "text"}}
    mapping = Document(path).mapping(there, Dialect(dialect), DatabaseFacts())
    assert sorted(mapping.tables[0].columns) == sorted(columns)


def test_a_column_that_is_made_of_others_is_one(server: Server, tmp_path: Path) -> None:
    server.script(
        "CREATE TABLE posts (id int, at int, ms bigint GENERATED ALWAYS AS (at * CAST(1000 AS bigint)) STORED);"
        f"INSERT INTO posts (id, at) VALUES (1, {int(NOON)}), (2, {int(NOON)} - 86400)"
    )
    totals = observed(server, tmp_path, "messages: {table: posts, key: id, time: {column: ms, unit: ms}}")
    assert (totals.stored_messages, totals.messages_today) == (2, 1)


def test_a_name_that_is_no_text_of_its_database_is_somebody_s(tmp_path: Path) -> None:
    """SQLite keeps what it is given."""
    server = SqliteServer(tmp_path / "chat.db")
    server.script(
        "CREATE TABLE posts (id int, at int, who text);"
        f"INSERT INTO posts VALUES (1, {int(NOON)}, CAST(x'ff41' AS text)), (2, {int(NOON)}, 'ann')"
    )
    mapping = "messages: {table: posts, key: id, time: {column: at, unit: s}, sender: who}"
    assert observed(server, tmp_path, mapping).active_users == {1: 2, 7: 2, 30: 2}
    server.close()


@pytest.mark.parametrize("separator", [" ", "T"])
async def test_texts_are_sealed_as_they_are_written(tmp_path: Path, separator: str) -> None:
    """By the other sign, all of a day would lie above any of its moments."""
    server = SqliteServer(tmp_path / "chat.db")
    server.script(
        "CREATE TABLE posts (at text); CREATE INDEX i ON posts (at);"
        f"{NUMBERS} INSERT INTO posts SELECT strftime('%Y-%m-%d{separator}%H:%M:%S', {int(NOON)} - i * 10, 'unixepoch')"
        "FROM n"
    )
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: at, time: {column: at, unit: text}}")
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=lambda: NOON, tail=10)
    assert (await engine.count()).stored_messages == 100
    assert engine.base is not None
    assert engine.base.tally.rows == 90
    await engine.close()
    server.close()


async def test_what_takes_too_long_to_compare_is_compared_in_smaller_pages(
    server: Server, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there are smaller ones; and what is no matter of time is told."""
    engine = Engine(
        Source(server.url, "custom", config_file=mapping), State(None), load=1.0, clock=lambda: NOON, tail=1
    )
    await engine.count()
    assert engine.mapping is not None
    comparison, pages, read = counters.Comparison(), [], engine.reader.read

    async def slow(*args: Any) -> Any:
        pages.append(comparison.page)
        if comparison.page > 3:
            raise SourceError("slow", slow=True)
        return await read(*args)

    monkeypatch.setattr(engine.reader, "read", slow)
    while not comparison.done:
        await comparison.step(engine.reader, engine.mapping)
    assert pages[:3] == [200, 25, 3]
    assert [(said, counted) for _, said, counted in comparison.wrong] == [(9, 2)]
    monkeypatch.setattr(engine.reader, "read", read)
    monkeypatch.setattr(counters, "statement", lambda *_: "SELECT nothing")
    with pytest.raises(SourceError) as told:
        await counters.Comparison().step(engine.reader, engine.mapping)
    assert not told.value.slow
    await engine.close()


async def step(engine: Engine) -> None:
    """One step, as it is made in the background."""
    with contextlib.suppress(SourceError):
        if engine.to_begin:
            await engine.begin()
        await engine.advance()
