"""ejabberd with ``mod_mam`` in SQL: measured with 23.01, both of its schemas, on both engines.

A chat is two rows, one per side; a room's message is one. A row that this side sent is told by the stanza's ``to``; one
that it received counts where the other side cannot have a row of its own here. The default schema has no column for the
host: stanzas tell it. The key is the time: on PostgreSQL ``id`` has no index, and neither is in the order of
commits.
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
    local,
    one_of,
    pair,
    readable,
    stanza_id,
)

ARCHIVE: Final = ("username", "timestamp", "peer", "bare_peer", "xml", "txt", "id", "kind")
MEANING: Final = {
    "stored_messages": f"{XMPP_MESSAGES}; as far as mod_mam keeps them",
    "stored_conversations": "rooms that are persistent or have messages, and pairs of people who wrote to each other",
    "registered_users": "accounts in the table users",
    "messages_today": "messages of the current UTC day",
    "active_users": "registered users who wrote, to people or in rooms, on one of the last N UTC days",
}
TOGETHER: Final = 10_000_000
"""Microseconds within which both rows of a message are written."""
NO_ACCOUNTS: Final = "the table users is empty: accounts are kept elsewhere (LDAP, external authentication)"
COMPRESSED: Final = "messages are stored in binary (compress_xml), which SQL cannot read"


def mapping(there: Columns, dialect: Dialect, hosts: Sequence[str], accounts: bool) -> Mapping:
    """The mapping of the schema that is there. ``accounts``: is anybody in ``users``? Raises Misconfigured."""
    new = is_new(there)
    host = ("server_host",) if new else ()
    tables = (
        Table("archive", (*ARCHIVE, *host)),
        Table("users", ("username", *host)),
        Table("muc_room", ("name", "host")),
    )
    require("ejabberd", there, tables)
    text = dialect.literal
    out = outgoing(dialect)
    real = readable("e.xml", "e.txt <> ''")
    me = "e.username || '@' || " + ("e.server_host" if new else own_host(dialect))

    def here(jid: str) -> str:
        """Is this the address of an account? Without accounts to look at: is it of one of our hosts?"""
        if accounts:
            of_host = f" AND u.server_host = {domain(dialect, jid)}" if new else ""
            known = f"EXISTS (SELECT 1 FROM users u WHERE u.username = {local(dialect, jid)}{of_host})"
            return known if new else f"({domain(dialect, jid)} IN {one_of(hosts, text)} AND {known})"
        return f"{domain(dialect, jid)} IN {one_of(hosts, text)}"

    def twin() -> str:
        """Has the sender a row of this message? Not who keeps no archive, has gone, or writes from another server.

        By the index on user and time, within seconds: both rows are written when the message passes.
        """
        sender, owner = local(dialect, "e.bare_peer"), "e.username || '@'"
        of_host = f" AND b.server_host = {domain(dialect, 'e.bare_peer')}" if new else ""
        found = (
            f"EXISTS (SELECT 1 FROM archive b WHERE b.username = {sender}{of_host} "
            f"AND b.timestamp BETWEEN e.timestamp - {TOGETHER} AND e.timestamp + {TOGETHER} "
            f"AND substr(b.bare_peer, 1, length({owner})) = {owner} AND b.txt = e.txt "
            f"AND {dialect.position('b.xml', stanza_id(dialect, 'e.xml'))} > 0)"
        )
        return found if new else f"({domain(dialect, 'e.bare_peer')} IN {one_of(hosts, text)} AND {found})"

    room = "e.kind = 'groupchat'"
    of_room = f"{from_room('e.xml')} AND NOT {here('e.bare_peer')}"
    return Mapping(
        kind="ejabberd",
        schema="new" if new else "default",
        dialect=dialect,
        tables=tables,
        table="archive",
        keys=(Key("timestamp", "{a}.timestamp", time=Time("{a}.timestamp", "us")),),
        time=Time("{a}.timestamp", "us"),
        where="1 = 1",
        weight=f"CASE WHEN {real} AND ({room} OR {out}) THEN 1 ELSE 0 END",
        doubtful=(
            f"CASE WHEN {room} OR NOT ({real}) OR {out} OR {from_room('e.xml')} THEN 0 WHEN {twin()} THEN 0 ELSE 1 END"
        ),
        domain=f"CASE WHEN {room} THEN {domain(dialect, 'e.username')} ELSE {domain(dialect, 'e.bare_peer')} END",
        writer=f"CASE WHEN NOT ({real}) THEN NULL WHEN {out} THEN {me} ELSE e.bare_peer END",
        registered=here("{w}"),
        conversation=(
            f"CASE WHEN {room} THEN 'room ' || e.username WHEN NOT ({real}) OR e.bare_peer = {me} THEN NULL "
            f"WHEN NOT {out} AND {of_room} THEN '{OF_ROOMS}' "
            f"ELSE {pair(f'({me})', 'e.bare_peer')} END"
        ),
        identity="{a}.username || ' ' || {a}.peer",
        users="SELECT COUNT(*) FROM users",
        rooms="SELECT 'room ' || name || '@' || host, host FROM muc_room",
        opaque="CASE WHEN substr(e.xml, 1, 1) = '<' THEN 0 ELSE 1 END",
        absent={} if accounts else {"registered_users": NO_ACCOUNTS},
        meaning=MEANING,
        indexes=(("archive", "timestamp"), ("users", "username")),
    )


def is_new(there: Columns) -> bool:
    """Is it the schema that stores the host (``new_sql_schema``)?"""
    return "server_host" in there.get("archive", set()) and "server_host" in there.get("users", set())


def outgoing(dialect: Dialect) -> str:
    """SQL: did the owner of this row write it? Then the peer is the addressee; else the peer is the sender."""
    sender = attribute(dialect, "e.xml", "from")
    peer = f"replace({escaped('e.peer')}, '\"', '&quot;')"
    return f"(e.kind = 'chat' AND substr({sender}, 1, length({peer}) + 1) <> {peer} || '''')"


def own_host(dialect: Dialect) -> str:
    """SQL: the host of a row's owner, out of the stanza's address of this side; clients write EXAMPLE.org, too."""
    side = (
        f"(CASE WHEN {outgoing(dialect)} THEN {attribute(dialect, 'e.xml', 'from')} "
        f"ELSE {attribute(dialect, 'e.xml', 'to')} END)"
    )
    host = f"substr({side}, {dialect.position(side, dialect.literal('@'))} + 1)"
    quote, slash = (dialect.position(host, dialect.literal(end)) for end in ("'", "/"))
    # Nothing where there is no address, as in binary stanzas: PostgreSQL refuses a negative length.
    return (
        f"lower(substr({host}, 1, CASE WHEN {slash} BETWEEN 1 AND {quote} THEN {slash} - 1 "
        f"WHEN {quote} > 0 THEN {quote} - 1 ELSE 0 END))"
    )


def hosts_query(dialect: Dialect, rows: int) -> str:
    """A statement: the hosts whose people wrote the newest rows, for the schema that does not store them."""
    return (
        f"SELECT DISTINCT {own_host(dialect)} FROM (SELECT * FROM archive ORDER BY timestamp DESC LIMIT {rows}) e "
        f"WHERE {outgoing(dialect)}"
    )
