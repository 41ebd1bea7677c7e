"""A mapping of one's own: the back end that this project grew out of, on both engines, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.core.errors import Misconfigured
from exporter.observe import count_once
from exporter.observe.check import FINDINGS, check
from exporter.observe.custom import Document
from exporter.observe.records import SourceError
from exporter.observe.sources import Source
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer, Server, SqliteServer
from tests.servers.postgres import Postgres, postgres

__all__ = ["postgres"]

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


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "sqlite":
        server: Server = SqliteServer(tmp_path / "own.db", "delete")
    else:
        shared: Postgres = request.getfixturevalue("postgres")
        server = PostgresqlServer(shared)
    try:
        server.script(schemas.origin(server.engine) + ROWS)
        yield server
    finally:
        server.close()


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
    assert not any(line.startswith("    1:") for line in said)
    assert any("no index on message (deleted_at)" in line for line in said)


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


def test_a_key_of_texts_is_refused_in_one_line(server: Server, tmp_path: Path) -> None:
    server.script(OTHERS.format(at=int(NOON), unit=1, number="bigint"))
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: Chat Message, key: uid, time: {column: sentAt, unit: s}}")
    with pytest.raises(SourceError, match="the key uid holds neither whole numbers nor times"):
        asyncio.run(count_once(server.url, "custom", now=NOON, config_file=path))


@pytest.mark.needs("postgres")
def test_ids_of_different_types_are_told_apart_from_missing_columns(postgres: Postgres, tmp_path: Path) -> None:
    other = PostgresqlServer(postgres)
    other.script(
        "CREATE TABLE people (id uuid); CREATE TABLE message (id bigint PRIMARY KEY, at timestamptz, sender text);"
        "INSERT INTO message VALUES (1, now(), 'x')"
    )
    path = tmp_path / "mapping.yml"
    path.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamptz}, sender: sender}\n"
        "users: {table: people, id: id}\n"
    )
    with pytest.raises(SourceError, match="columns that are compared are of different types"):
        asyncio.run(count_once(other.url, "custom", config_file=path))
    other.close()
