"""ejabberd with ``mod_mam`` in SQL: measured with 23.01, both of its schemas, on both engines.

A chat is two rows, one per side; a room's message is one. A row that this side sent is told by the stanza's ``to``; one
that it received counts where the other side cannot have a row of its own here. The default schema has no column for the
host: stanzas tell it. The key is the time: on PostgreSQL ``id`` has no index, and neither is in the order of
commits.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
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
    local,
    one_of,
    opening,
    pair,
    readable,
    stanza_id,
)
from exporter.observe.statements import stepped

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
    peer_domain, peer_local, room = "e.x_domain", "e.x_local", "e.kind = 'groupchat'"

    def here(jid: str) -> str:
        """Is this the address of an account? Without accounts to look at: is it of one of our hosts?"""
        if accounts:
            of_host = f" AND u.server_host = {domain(dialect, jid)}" if new else ""
            known = f"EXISTS (SELECT 1 FROM users u WHERE u.username = {local(dialect, jid)}{of_host})"
            return known if new else f"({domain(dialect, jid)} IN {one_of(hosts, text)} AND {known})"
        return f"{domain(dialect, jid)} IN {one_of(hosts, text)}"

    # The sender's row of a message that this side received. There is none of who keeps no archive, has gone, or writes
    # from another server. By the index on user and time, within seconds: both rows are written when the message passes.
    # In that order, PostgreSQL takes this index also where it was never told that a user has more rows than one.
    of_host = f" AND b.server_host = {peer_domain}" if new else ""
    twin = (
        f"(SELECT 1 FROM archive b WHERE b.username = {peer_local}{of_host} "
        f"AND b.timestamp BETWEEN e.timestamp - {TOGETHER} AND e.timestamp + {TOGETHER} "
        "AND substr(b.bare_peer, 1, length(e.username) + 1) = e.username || '@' AND b.txt = e.txt "
        f"AND {dialect.position('b.xml', stanza_id(dialect, 'e.x_id'))} > 0 ORDER BY b.timestamp LIMIT 1) = 1"
    )
    return Mapping(
        kind="ejabberd",
        schema="new" if new else "default",
        dialect=dialect,
        tables=tables,
        table="archive",
        keys=tuple(_keys(hosts if new else (), text)),
        time=Time("{a}.timestamp", "us"),
        where="1 = 1",
        steps=steps(dialect, new),
        weight=flag(f"e.x_real = 1 AND ({room} OR e.x_sent = 1)"),
        doubtful=(
            f"CASE WHEN {room} OR e.x_real = 0 OR e.x_sent = 1 OR e.x_from_room = 1 THEN 0 "
            f"WHEN {twin} THEN 0 ELSE 1 END"
        ),
        domain=f"CASE WHEN {room} THEN {domain(dialect, 'e.username')} ELSE {peer_domain} END",
        # A received copy tells its sender, too; without accounts to look at, deleted ones would be among them.
        writer=(
            "CASE WHEN e.x_real = 0 THEN NULL WHEN e.x_sent = 1 THEN e.x_me "
            f"WHEN {'1 = 1' if accounts else room} THEN e.bare_peer END"
        ),
        registered=here("{w}"),
        conversation=(
            f"CASE WHEN {room} THEN 'room ' || e.username WHEN e.x_real = 0 OR e.bare_peer = e.x_me THEN NULL "
            f"WHEN e.x_sent = 0 AND e.x_from_room = 1 AND NOT {here('e.bare_peer')} THEN '{OF_ROOMS}' "
            f"ELSE {pair('e.x_me', 'e.bare_peer')} END"
        ),
        identity="{a}.username || ' ' || {a}.peer",
        users="SELECT COUNT(*) FROM users",
        rooms="SELECT 'room ' || name || '@' || host, host FROM muc_room",
        opaque="CASE WHEN substr(e.xml, 1, 1) = '<' THEN 0 ELSE 1 END",
        absent={} if accounts else {"registered_users": NO_ACCOUNTS},
        meaning=MEANING,
        # The newer schema's indexes begin with the host.
        indexes=(
            (("archive", "server_host"), ("users", "server_host"))
            if new
            else (("archive", "timestamp"), ("archive", "username"), ("users", "username"))
        ),
    )


def is_new(there: Columns) -> bool:
    """Is it the schema that stores the host (``new_sql_schema``)?"""
    return "server_host" in there.get("archive", ()) and "server_host" in there.get("users", ())


def _keys(hosts: Sequence[str], literal: Callable[[str], str]) -> Iterator[Key]:
    """The time; of each host for itself where the schema's only index on it begins with the host.

    ``hosts`` are in the database's own order. Hosts that appear later lie between them, which the index finds, too.
    """
    column, time = "{a}.timestamp", Time("{a}.timestamp", "us")
    if not hosts:
        yield Key("timestamp", column, time=time)
        return
    host = "{a}.server_host"
    others = [f"{host} < {literal(hosts[0])}", f"{host} > {literal(hosts[-1])}"]
    others += [f"({host} > {literal(one)} AND {host} < {literal(next_)})" for one, next_ in pairwise(hosts)]
    for name in hosts:
        yield Key(f"timestamp of {name}", column, time=time, only=f"{host} = {literal(name)}")
    # The lowest host within each gap is one step in the index, whatever the database thinks of how many there are.
    there = " OR ".join(f"(SELECT MIN(h.server_host) FROM archive h WHERE {gap}) IS NOT NULL" for gap in others)
    yield Key(
        "timestamp of others", column, time=time, only=f"({' OR '.join(others)})", there=there.replace("{a}", "h")
    )


def steps(dialect: Dialect, new: bool) -> tuple[dict[str, str], ...]:
    """What a row's stanza says: who it is from, whether this side sent it, and the owner's address ``x_me``."""
    peer = f"replace({escaped('e.peer')}, '\"', '&quot;')"
    host = "e.server_host"
    sides: tuple[dict[str, str], ...] = ()
    if not new:
        # The host of the owner, out of the stanza's address of this side; clients write EXAMPLE.org, too.
        side = "CASE WHEN e.x_sent = 1 THEN e.x_from ELSE e.x_to END"
        quote, slash = (dialect.position("e.x_host", dialect.literal(end)) for end in ("'", "/"))
        # Nothing where there is no address, as in binary stanzas: PostgreSQL refuses a negative length.
        host = (
            f"lower(substr(e.x_host, 1, CASE WHEN {slash} BETWEEN 1 AND {quote} THEN {slash} - 1 "
            f"WHEN {quote} > 0 THEN {quote} - 1 ELSE 0 END))"
        )
        sides = ({"x_side": side}, {"x_host": domain(dialect, "e.x_side")})
    return (
        {
            "x_tag": opening(dialect, "e.xml"),
            "x_real": flag(readable("e.xml", "e.txt <> ''")),
            "x_from_room": flag(from_room("e.xml")),
            "x_domain": domain(dialect, "e.bare_peer"),
            "x_local": local(dialect, "e.bare_peer"),
        },
        {f"x_{name}": attribute(dialect, "e.x_tag", name) for name in ("from", "to", "id")},
        # The peer is the addressee of what this side sent; else it is the sender.
        {"x_sent": flag(f"e.kind = 'chat' AND substr(e.x_from, 1, length({peer}) + 1) <> {peer} || ''''")},
        *sides,
        {"x_me": f"e.username || '@' || {host}", "x_own": host},
    )


def hosts_query(dialect: Dialect, rows: int) -> str:
    """A statement: the hosts whose people wrote the newest rows, for the schema that does not store them."""
    newest = stepped(ARCHIVE, "archive e", steps(dialect, False), dialect, f"ORDER BY e.timestamp DESC LIMIT {rows}")
    return f"SELECT DISTINCT e.x_own FROM {newest} WHERE e.x_sent = 1"
