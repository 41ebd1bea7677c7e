"""Prosody with ``storage = "sql"``, ``mam`` and ``muc_mam``: measured with 0.12.3 on both engines.

A chat is two rows, one per side; to oneself two rows with the same content; a room's message is one, without its
writer. All kinds of archives share one table. Rows expire, after a week by default.
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
    from_room,
    is_of,
    local,
    one_of,
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
    me = f"{USER} || '@' || e.host"
    out = is_of(attribute(dialect, "e.value", "from"), f"({escaped(USER)} || '@' || e.host)")
    real = readable("e.value", "e.value LIKE '%<body%'")
    myself = f"{WITH} = {me}"
    room = "e.store = 'muc_log'"

    def here(jid: str) -> str:
        """Is this the address of an account? Without accounts to look at: is it of a host that has archives?"""
        if accounts:
            return (
                f"EXISTS (SELECT 1 FROM prosody p WHERE p.host = {domain(dialect, jid)} "
                f"AND p.\"user\" = {local(dialect, jid)} AND p.store = 'accounts')"
            )
        return f"{domain(dialect, jid)} IN {one_of(hosts, dialect.literal)}"

    # The sender's copy: not of who keeps no archive, has gone, or writes from another server. By the index on the other
    # side and the time, within seconds: both copies are made when the message passes.
    twin = (
        f"EXISTS (SELECT 1 FROM prosodyarchive b WHERE b.host = {domain(dialect, WITH)} "
        f'AND b."user" = {local(dialect, WITH)} AND b.store = \'archive\' AND b."with" = {me} '
        f'AND b."when" BETWEEN e."when" - {TOGETHER} AND e."when" + {TOGETHER} '
        f"AND {dialect.position('b.value', stanza_id(dialect, 'e.value'))} > 0)"
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
        weight=f"CASE WHEN NOT ({real}) THEN 0 WHEN {room} THEN 2 WHEN {myself} THEN 1 WHEN {out} THEN 2 ELSE 0 END",
        doubtful=(
            f"CASE WHEN NOT ({real}) OR {room} OR {myself} OR {out} OR {from_room('e.value')} THEN 0 "
            f"WHEN {twin} THEN 0 ELSE 2 END"
        ),
        domain=f"CASE WHEN {room} THEN e.host ELSE {domain(dialect, WITH)} END",
        writer=f"CASE WHEN {room} OR NOT ({real}) THEN NULL WHEN {out} THEN {me} ELSE {WITH} END",
        registered=here("{w}"),
        conversation=(
            f"CASE WHEN {room} THEN 'room ' || {me} WHEN NOT ({real}) OR {myself} THEN NULL "
            f"WHEN NOT {out} AND {from_room('e.value')} AND NOT {here(WITH)} THEN '{OF_ROOMS}' "
            f"ELSE {pair(f'({me})', WITH)} END"
        ),
        identity="{a}.key",
        users="SELECT COUNT(*) FROM (SELECT DISTINCT host, \"user\" FROM prosody WHERE store = 'accounts') x",
        # A room that was destroyed leaves some of its settings, but nobody who belongs to it.
        rooms="SELECT DISTINCT 'room ' || \"user\" || '@' || host, host FROM prosody "
        "WHERE store = 'config' AND key LIKE '%@%'",
        absent={} if accounts else {"registered_users": NO_ACCOUNTS},
        meaning=MEANING,
        indexes=(("prosodyarchive", "sort_id"), ("prosody", "host")),
    )
