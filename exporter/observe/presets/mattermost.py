"""Mattermost: from its public migrations and store source; tried on tables made by hand.

An edit keeps the post's row and adds one more with the old text, marked by ``originalid``; a deletion stamps
``deleteat``; joins, leaves and the like are posts whose type begins with ``system_``.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from typing import Final

from exporter.observe.mapping import Cut, Dialect, Key, Mapping, Region, Rows, Table, Time
from exporter.observe.presets import Columns, require

TABLES: Final = (
    Table("posts", ("id", "createat", "updateat", "deleteat", "userid", "originalid", "type")),
    Table("users", ("id", "deleteat", "remoteid")),
    Table("bots", ("userid",)),
    Table("channels", ("id", "type", "deleteat")),
)
MEANING: Final = {
    "stored_messages": "posts and replies that people wrote: without deleted ones, former versions of edited ones, "
    "system messages and bots' posts",
    "stored_conversations": "open and private channels, direct and group messages that are not archived",
    "registered_users": "accounts that are not deactivated, guests included, without bots and other servers' users",
    "messages_today": "messages of the current UTC day",
    "active_users": "registered users who wrote a post, deleted or not, on one of the last N UTC days",
}
POST: Final = (
    "e.originalid = '' AND e.type NOT LIKE 'system\\_%' ESCAPE '\\' "
    "AND NOT EXISTS (SELECT 1 FROM bots b WHERE b.userid = e.userid)"
)
PEOPLE: Final = (
    "u.deleteat = 0 AND COALESCE(u.remoteid, '') = '' AND NOT EXISTS (SELECT 1 FROM bots b WHERE b.userid = u.id)"
)


def mapping(there: Columns, dialect: Dialect) -> Mapping:
    """The mapping. Raises Misconfigured."""
    require("Mattermost", there, TABLES)
    created = Time("{a}.createat", "ms")
    return Mapping(
        kind="mattermost",
        schema="posts.originalid",
        dialect=dialect,
        tables=TABLES,
        table="posts",
        keys=(Key("createat", "{a}.createat", time=created),),
        time=created,
        where=POST,
        weight="CASE WHEN e.deleteat = 0 THEN 1 ELSE 0 END",
        writer="e.userid",
        account=f"SELECT 1 FROM users u WHERE u.id = {{w}} AND {PEOPLE}",
        identity="{a}.id",
        users=f"SELECT COUNT(*) FROM users u WHERE {PEOPLE}",
        conversations="SELECT COUNT(*) FROM channels WHERE deleteat = 0 AND type IN ('O', 'P', 'D', 'G')",
        undone=_deleted,
        change=Key("updateat", "{a}.updateat", time=Time("{a}.updateat", "ms")),  # a deletion moves it
        meaning=MEANING,
        indexes=(("posts", "createat"), ("posts", "updateat"), ("users", "id"), ("bots", "userid")),
    )


def _deleted(changed: Rows, target: Region, cut: Cut) -> str:
    """Posts deleted since."""
    return f"FROM {changed('e')} WHERE e.deleteat > {cut.moment // 1000} AND {target('e')} AND {POST}"
