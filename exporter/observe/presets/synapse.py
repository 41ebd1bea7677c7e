"""Synapse: measured with 1.163, schema 94, on both engines.

An edit, a reaction, a poll's answer and a redaction are rows of ``events`` like messages. An edit is told by its row in
``event_relations`` (also an encrypted one), a redaction by its row in ``redactions``: the message's own row stays as it
was. Numbers are taken before the commit, so rows appear below the highest that was seen; backfilled history gets
negative ones.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from exporter.observe.mapping import Correction, Cut, Dialect, Key, Mapping, Region, RelaxedFilter, Rows, Table, Time
from exporter.observe.presets import Columns, require

OLDEST: Final = 72
NEWEST: Final = 94
"""Schema versions. A later one will do as long as Synapse itself says that programs which know 94 can work with it."""

TABLES: Final = (
    Table(
        "events",
        (
            "event_id",
            "type",
            "room_id",
            "sender",
            "state_key",
            "outlier",
            "rejection_reason",
            "origin_server_ts",
            "stream_ordering",
        ),
    ),
    Table("event_relations", ("event_id", "relation_type")),
    Table("redactions", ("event_id", "redacts")),
    Table("room_stats_current", ("room_id", "local_users_in_room")),
    Table("room_stats_state", ("room_id", "room_type")),
    Table("current_state_events", ("room_id", "type")),
    Table("users", ("name", "is_guest", "deactivated", "appservice_id", "user_type")),
    Table("stream_positions", ("stream_name", "stream_id")),
)
TYPES: Final = "'m.room.message', 'm.room.encrypted', 'm.sticker', 'm.poll.start', 'org.matrix.msc3381.poll.start'"
MEANING: Final = {
    "stored_messages": "messages, encrypted ones, stickers and polls in rooms that this server knows, without edits, "
    "reactions, poll answers, redacted and rejected ones",
    "stored_conversations": "rooms with a local member, without spaces and rooms that were replaced by an upgrade",
    "registered_users": "accounts, without guests, deactivated ones, bots, support and application services' users",
    "messages_today": "messages of the current UTC day by the time that the sender's server gave them",
    "active_users": "registered users who sent a message, redacted or not, on one of the last N UTC days",
}
VISIBLE: Final = (
    f"e.type IN ({TYPES}) AND e.state_key IS NULL AND NOT e.outlier AND e.rejection_reason IS NULL"  # of messages
)
OTHERS: Final = "relation_type IN ('m.replace', 'm.reference')"
OWN: Final = f"NOT EXISTS (SELECT 1 FROM event_relations r WHERE r.event_id = e.event_id AND r.{OTHERS})"
"""Messages of their own: no edits, no answers to polls."""
OWN_OF_FEW: Final = f"(SELECT 1 FROM event_relations r WHERE r.event_id = e.event_id AND r.{OTHERS} LIMIT 1) IS NULL"
"""The same, looked up for each message: PostgreSQL makes no join of it, whatever it thinks of how many there are."""
SAFE: Final = (
    "SELECT MIN(stream_id) FROM stream_positions WHERE stream_name = 'events' AND stream_id > "
    "(SELECT MAX(stream_id) FROM stream_positions WHERE stream_name = 'events') - 10000"
)
"""With several event persisters each has a row, which stays as it was while that one has nothing to do, for days."""
NO_STATISTICS: Final = "Synapse keeps no statistics of rooms (stats: enabled: false), and nothing else tells them all"
PEOPLE: Final = (
    "{u}.is_guest = 0 AND {u}.deactivated = 0 AND {u}.appservice_id IS NULL "
    "AND ({u}.user_type IS NULL OR {u}.user_type NOT IN ('bot', 'support'))"
)


def mapping(there: Columns, dialect: Dialect, version: str, statistics: bool = True) -> Mapping:
    """The mapping for a schema ``version``. ``statistics``: are there any of rooms? Raises Misconfigured."""
    require("Synapse", there, TABLES)
    time = Time("{a}.origin_server_ts", "ms")
    return Mapping(
        kind="synapse",
        schema=version,
        dialect=dialect,
        tables=TABLES,
        table="events",
        keys=(
            Key("stream_ordering", "{a}.stream_ordering", only="{a}.stream_ordering >= 0"),
            Key("backfill", "{a}.stream_ordering", sign=-1, only="{a}.stream_ordering < 0"),
        ),
        time=time,
        where=f"{VISIBLE} AND {OWN}",
        where_of_few=f"{VISIBLE} AND {OWN_OF_FEW}",
        # With a LIMIT it is looked up: of EXISTS, PostgreSQL may make a hash table of all redactions.
        weight="CASE WHEN (SELECT 1 FROM redactions x WHERE x.redacts = e.event_id LIMIT 1) = 1 THEN 0 ELSE 1 END",
        writer="e.sender",
        recent=Key("recent", "{a}.origin_server_ts", time=time),
        relaxed=RelaxedFilter(
            VISIBLE,
            (
                Correction("edits", "event_relations", "event_id", partial(_edits, dialect), whole=True),
                Correction("redactions", "redactions", "redacts", partial(_redactions, dialect), whole=False),
            ),
        ),
        account=f"SELECT 1 FROM users u WHERE u.name = {{w}} AND {PEOPLE.replace('{u}', 'u')}",
        identity="{a}.event_id",
        users=f"SELECT COUNT(*) FROM users u WHERE {PEOPLE.replace('{u}', 'u')}",
        conversations=(
            "SELECT COUNT(*) FROM room_stats_current c JOIN room_stats_state s ON s.room_id = c.room_id "
            "WHERE c.local_users_in_room > 0 AND COALESCE(s.room_type, '') <> 'm.space' AND NOT EXISTS ("
            "SELECT 1 FROM current_state_events t WHERE t.room_id = c.room_id AND t.type = 'm.room.tombstone')"
        ),
        absent={} if statistics else {"stored_conversations": NO_STATISTICS},
        undone=partial(_redacted, dialect),
        safe={"stream_ordering": SAFE},
        meaning=MEANING,
        indexes=(
            ("events", "stream_ordering"),
            ("events", "event_id"),
            ("events", "origin_server_ts"),
            ("redactions", "redacts"),
            ("redactions", "event_id"),
            ("event_relations", "event_id"),
            ("users", "name"),
        ),
    )


def _looked_up(dialect: Dialect, by: str) -> str:
    """SQL to follow FROM and some rows: their events ``e``, each by its id.

    The cross join keeps SQLite's order, the fence PostgreSQL's: of a table that was never analysed, that expects one
    row, and compared each event with each of the others.
    """
    if dialect.name == "sqlite":
        return f"CROSS JOIN events e ON e.event_id = {by}"
    columns = ", ".join(f"e.{name}" for name in TABLES[0].columns)
    return f"CROSS JOIN LATERAL (SELECT {columns} FROM events e WHERE e.event_id = {by} {dialect.fence}) e"


def _edits(dialect: Dialect, chosen: str, below: str) -> str:
    """Edits and answers to polls."""
    return (
        f"FROM event_relations k {_looked_up(dialect, 'k.event_id')} "
        f"WHERE {chosen} AND k.{OTHERS} AND {VISIBLE} AND {below}"
    )


def _redactions(dialect: Dialect, chosen: str, below: str) -> str:
    """Messages that were redacted, once or several times."""
    return (
        f"FROM (SELECT DISTINCT k.redacts FROM redactions k WHERE {chosen}) d {_looked_up(dialect, 'd.redacts')} "
        f"WHERE {VISIBLE} AND {OWN_OF_FEW} AND {below}"
    )


def _redacted(dialect: Dialect, changed: Rows, target: Region, cut: Cut) -> str:
    """Messages with a redaction in the tail and none among the sealed events.

    With their LIMITs, the last subqueries are looked up for each message: never analysed, PostgreSQL would join all
    redactions with all events instead.
    """
    sealed = f"ry.stream_ordering <= {cut.lows['stream_ordering']} AND ry.stream_ordering >= {-cut.lows['backfill']}"
    return (
        f"FROM {changed('rx')} CROSS JOIN redactions x {_looked_up(dialect, 'x.redacts')} "
        f"WHERE x.event_id = rx.event_id AND {target('e')} AND {VISIBLE} "
        f"AND {OWN_OF_FEW} AND (SELECT 1 FROM redactions y WHERE y.redacts = e.event_id AND "
        f"(SELECT 1 FROM events ry WHERE ry.event_id = y.event_id AND {sealed} LIMIT 1) = 1 LIMIT 1) IS NULL"
    )
