"""Prosody with ``storage = "sql"``, ``mam`` and ``muc_mam``: measured with 0.12.3 on both engines.

A chat is two rows, one per side; to oneself two rows with the same content; a room's message is one, without its
writer. All kinds of archives share one table. Rows expire, after a week by default.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from exporter.observe.mapping import OF_ROOMS, Dialect, Key, Mapping, Table, Time
from exporter.observe.presets import Columns, require
from exporter.observe.presets.xmpp import (
    XMPP_MESSAGES,
    attribute,
    domain,
    escaped,
    flag,
    from_room,
    is_of,
    local,
    one_of,
    opening,
    pair,
    readable,
    stanza_id,
)

TABLES: Final = (
    Table("prosodyarchive", ("sort_id", "host", "user", "store", "key", "when", "with", "value")),
    Table("prosody", ("host", "user", "store", "key")),
)
USER: Final = 'e."user"'  # both are words of SQL, so they need quotes
WITH: Final = 'e."with"'
MEANING: Final = {
    "stored_messages": f"{XMPP_MESSAGES}; those that have not expired (archive_expires_after, one week by default)",
    "stored_conversations": "rooms that are persistent or have messages, and pairs of people who wrote to each other",
    "registered_users": "accounts",
    "messages_today": "messages of the current UTC day",
    "active_users": "registered users who wrote outside rooms on one of the last N UTC days; Prosody's rooms do not "
    "store who wrote",
}
TOGETHER: Final = 10
"""Seconds within which both copies of a message are made."""
NO_ACCOUNTS: Final = "there are no accounts in the database: they are kept elsewhere (LDAP, external authentication)"


def mapping(there: Columns, dialect: Dialect, hosts: Sequence[str], accounts: bool) -> Mapping:
    """The mapping. ``accounts``: are there any? ``hosts`` are asked for only where there are none."""
    require("Prosody", there, TABLES)
    room, owner = "e.store = 'muc_log'", f"({escaped(USER)} || '@' || e.host)"
    steps = (
        {
            "x_tag": opening(dialect, "e.value"),
            "x_real": flag(readable("e.value", "e.value LIKE '%<body%'")),
            "x_from_room": flag(from_room("e.value")),
            "x_me": f"{USER} || '@' || e.host",
            "x_domain": domain(dialect, WITH),
            "x_local": local(dialect, WITH),
        },
        {f"x_{name}": attribute(dialect, "e.x_tag", name) for name in ("from", "id")},
        {"x_sent": flag(is_of("e.x_from", owner)), "x_myself": flag(f"{WITH} = e.x_me")},
    )

    def here(jid: str) -> str:
        """Is this the address of an account? Without accounts to look at: is it of a host that has archives?"""
        if accounts:
            return (
                f"EXISTS (SELECT 1 FROM prosody p WHERE p.host = {domain(dialect, jid)} "
                f"AND p.\"user\" = {local(dialect, jid)} AND p.store = 'accounts')"
            )
        return f"{domain(dialect, jid)} IN {one_of(hosts, dialect.literal)}"

    # The sender's copy: not of who keeps no archive, has gone, or writes from another server. By the index on the other
    # side and the time, within seconds: both copies are made when the message passes. In that order, PostgreSQL takes
    # this index also where it was never told that a user has more rows than one.
    twin = (
        '(SELECT 1 FROM prosodyarchive b WHERE b.host = e.x_domain AND b."user" = e.x_local '
        "AND b.store = 'archive' AND b.\"with\" = e.x_me "
        f'AND b."when" BETWEEN e."when" - {TOGETHER} AND e."when" + {TOGETHER} '
        f'AND {dialect.position("b.value", stanza_id(dialect, "e.x_id"))} > 0 ORDER BY b."when" LIMIT 1) = 1'
    )
    return Mapping(
        kind="prosody",
        schema="0.12",
        dialect=dialect,
        tables=TABLES,
        table="prosodyarchive",
        keys=(Key("sort_id", "{a}.sort_id"),),
        time=Time('{a}."when"', "s"),
        where="e.store IN ('archive', 'muc_log')",
        units=2,
        steps=steps,
        weight=(
            f"CASE WHEN e.x_real = 0 THEN 0 WHEN {room} THEN 2 WHEN e.x_myself = 1 THEN 1 "
            "WHEN e.x_sent = 1 THEN 2 ELSE 0 END"
        ),
        doubtful=(
            f"CASE WHEN e.x_real = 0 OR {room} OR e.x_myself = 1 OR e.x_sent = 1 OR e.x_from_room = 1 THEN 0 "
            f"WHEN {twin} THEN 0 ELSE 2 END"
        ),
        domain=f"CASE WHEN {room} THEN e.host ELSE e.x_domain END",
        # A received copy tells its sender, too; without accounts to look at, deleted ones would be among them.
        writer=(
            f"CASE WHEN {room} OR e.x_real = 0 THEN NULL WHEN e.x_sent = 1 THEN e.x_me "
            f"ELSE {WITH if accounts else 'NULL'} END"
        ),
        registered=here("{w}"),
        conversation=(
            f"CASE WHEN {room} THEN 'room ' || e.x_me WHEN e.x_real = 0 OR e.x_myself = 1 THEN NULL "
            f"WHEN e.x_sent = 0 AND e.x_from_room = 1 AND NOT {here(WITH)} THEN '{OF_ROOMS}' "
            f"ELSE {pair('e.x_me', WITH)} END"
        ),
        identity="{a}.key",
        users="SELECT COUNT(*) FROM (SELECT DISTINCT host, \"user\" FROM prosody WHERE store = 'accounts') x",
        # A room that was destroyed leaves some of its settings, but nobody who belongs to it.
        rooms="SELECT DISTINCT 'room ' || \"user\" || '@' || host, host FROM prosody "
        "WHERE store = 'config' AND key LIKE '%@%'",
        absent={} if accounts else {"registered_users": NO_ACCOUNTS},
        meaning=MEANING,
        indexes=(("prosodyarchive", "sort_id"), ("prosodyarchive", "host"), ("prosody", "host")),
    )
