"""The living triggers on SQLite: row triggers, since it has no others, and one shard, since it has one writer.

``migrate`` puts them in place after the last revision, and ``verify`` compares what is there with them. Changing them
needs a new revision, an empty one if need be, so that an older version does not put its own in their place.

Three properties of SQLite shape them. Foreign keys are off unless a connection switches them on, so other programs'
deletes cascade only by triggers, and orphans are refused by one. The conflict clause of the outer statement (``INSERT
OR IGNORE``) overrides the one of a statement inside a trigger, but not an upsert, hence upserts. And ``sent_at`` is
text in any form that ``date()`` understands, offsets included, so the day is always ``date(sent_at)``, in UTC.

Tested in ``tests/store/test_totals_machine.py``.
"""

from __future__ import annotations


def day(value: str) -> str:
    """The UTC day of a stored time; text that is no time (written before the triggers refused it) has day 0."""
    return f"coalesce(date({value}), '0000-01-01')"


def _bump(column: str, when: str, by: str, where: str = "true") -> str:
    return (
        f"INSERT INTO daily_totals (day, shard, {column}) SELECT {when}, 0, {by} WHERE {where} "
        f"ON CONFLICT (day, shard) DO UPDATE SET {column} = {column} + ({by});"
    )


def _time(table: str, column: str) -> str:
    # 'now' is a time to date(), another one at each look: only what holds a digit can be counted twice alike.
    return (
        f"SELECT RAISE(ABORT, '{table}.{column}: not a time that date() understands') "
        f"WHERE date(NEW.{column}) IS NULL OR NEW.{column} NOT GLOB '*[0-9]*';"
    )


_CONVERSATION = (
    "SELECT RAISE(ABORT, '{0}.conversation_id: no such conversation') "
    "WHERE NOT EXISTS (SELECT 1 FROM conversations WHERE id = NEW.conversation_id);"
)
_LAST_ACTIVE = (
    "SELECT RAISE(ABORT, 'users.last_active_on: not a day') WHERE NEW.last_active_on IS NOT NULL "
    "AND NEW.last_active_on IS NOT date(NEW.last_active_on);"
)

# Who wrote on which day, for good: deleted messages and deleted users leave it. An upsert, for the reason above.
_USER_DAY = (
    "INSERT INTO user_days (day, user_id) VALUES (date(NEW.sent_at), NEW.sender_id) "
    "ON CONFLICT (day, user_id) DO NOTHING;"
)

TRIGGERS = {
    "messages_inserted": f"""AFTER INSERT ON messages BEGIN
        {_CONVERSATION.format("messages")}
        {_time("messages", "sent_at")}
        UPDATE conversations SET total_messages = total_messages + 1, last_seq = max(last_seq, NEW.seq)
            WHERE id = NEW.conversation_id;
        {_bump("messages", "date(NEW.sent_at)", "1")}
        UPDATE users SET last_active_on = date(NEW.sent_at)
            WHERE id = NEW.sender_id AND (last_active_on IS NULL OR last_active_on < date(NEW.sent_at)
                OR (last_active_on > date('now') AND last_active_on > date(NEW.sent_at)));
        {_USER_DAY}
    END""",
    "messages_deleted": f"""AFTER DELETE ON messages BEGIN
        UPDATE conversations SET total_messages = total_messages - 1 WHERE id = OLD.conversation_id;
        {_bump("messages", day("OLD.sent_at"), "-1")}
    END""",
    "messages_updated": f"""AFTER UPDATE OF conversation_id, seq, sent_at ON messages
    WHEN OLD.conversation_id IS NOT NEW.conversation_id OR OLD.seq IS NOT NEW.seq OR OLD.sent_at IS NOT NEW.sent_at
    BEGIN
        {_CONVERSATION.format("messages")}
        {_time("messages", "sent_at")}
        UPDATE conversations SET total_messages = total_messages - 1
            WHERE id = OLD.conversation_id AND OLD.conversation_id IS NOT NEW.conversation_id;
        UPDATE conversations SET last_seq = max(last_seq, NEW.seq),
            total_messages = total_messages + (OLD.conversation_id IS NOT NEW.conversation_id)
            WHERE id = NEW.conversation_id;
        {_bump("messages", day("OLD.sent_at"), "-1", f"{day('OLD.sent_at')} <> date(NEW.sent_at)")}
        {_bump("messages", "date(NEW.sent_at)", "1", f"{day('OLD.sent_at')} <> date(NEW.sent_at)")}
    END""",
    "conversations_inserted": f"""AFTER INSERT ON conversations BEGIN
        {_time("conversations", "created_at")}
        UPDATE conversations SET total_messages = (SELECT count(*) FROM messages WHERE conversation_id = NEW.id)
            WHERE id = NEW.id AND NEW.total_messages <> 0;
        {_bump("conversations", "date(NEW.created_at)", "1")}
    END""",
    "conversations_deleted": f"""AFTER DELETE ON conversations BEGIN
        DELETE FROM messages WHERE conversation_id = OLD.id;
        DELETE FROM conversation_members WHERE conversation_id = OLD.id;
        {_bump("conversations", day("OLD.created_at"), "-1")}
    END""",
    "conversations_renamed": """BEFORE UPDATE OF id ON conversations WHEN OLD.id IS NOT NEW.id BEGIN
        SELECT RAISE(ABORT, 'conversations.id: still referred to')
            WHERE EXISTS (SELECT 1 FROM messages WHERE conversation_id = OLD.id)
               OR EXISTS (SELECT 1 FROM conversation_members WHERE conversation_id = OLD.id);
    END""",
    "conversations_updated": f"""AFTER UPDATE OF created_at ON conversations
    WHEN OLD.created_at IS NOT NEW.created_at BEGIN
        {_time("conversations", "created_at")}
        {_bump("conversations", day("OLD.created_at"), "-1")}
        {_bump("conversations", "date(NEW.created_at)", "1")}
    END""",
    "members_inserted": f"""AFTER INSERT ON conversation_members BEGIN
        {_CONVERSATION.format("conversation_members")}
    END""",
    "members_updated": f"""AFTER UPDATE OF conversation_id ON conversation_members BEGIN
        {_CONVERSATION.format("conversation_members")}
    END""",
    "users_inserted": f"""AFTER INSERT ON users BEGIN
        {_time("users", "created_at")}
        {_LAST_ACTIVE}
        {_bump("users", "date(NEW.created_at)", "1")}
        {_bump("last_active_users", "NEW.last_active_on", "1", "NEW.last_active_on IS NOT NULL")}
    END""",
    "users_deleted": f"""AFTER DELETE ON users BEGIN
        DELETE FROM conversation_members WHERE user_id = OLD.id;
        {_bump("users", day("OLD.created_at"), "-1")}
        {_bump("last_active_users", "OLD.last_active_on", "-1", "OLD.last_active_on IS NOT NULL")}
    END""",
    "users_updated": f"""AFTER UPDATE OF created_at, last_active_on ON users
    WHEN OLD.created_at IS NOT NEW.created_at OR OLD.last_active_on IS NOT NEW.last_active_on BEGIN
        {_time("users", "created_at")}
        {_LAST_ACTIVE}
        {_bump("users", day("OLD.created_at"), "-1", f"{day('OLD.created_at')} <> date(NEW.created_at)")}
        {_bump("users", "date(NEW.created_at)", "1", f"{day('OLD.created_at')} <> date(NEW.created_at)")}
        {_bump("last_active_users", "OLD.last_active_on", "-1", "OLD.last_active_on IS NOT NULL")}
        {_bump("last_active_users", "NEW.last_active_on", "1", "NEW.last_active_on IS NOT NULL")}
    END""",
    "user_days_of_changed_messages": f"""AFTER UPDATE OF sent_at, sender_id ON messages
    WHEN OLD.sent_at IS NOT NEW.sent_at OR OLD.sender_id IS NOT NEW.sender_id BEGIN
        {_time("messages", "sent_at")}
        {_USER_DAY}
    END""",
    "user_days_inserted": f"""AFTER INSERT ON user_days BEGIN
        {_bump("active_users", "NEW.day", "1")}
    END""",
    "user_days_deleted": f"""AFTER DELETE ON user_days BEGIN
        {_bump("active_users", "OLD.day", "-1")}
    END""",
}


def trigger(name: str) -> str:
    """The statement that makes a trigger."""
    return f"CREATE TRIGGER {name} {TRIGGERS[name]}"
