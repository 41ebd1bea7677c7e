"""The living triggers on PostgreSQL: statement triggers with transition tables: a batch of a thousand rows is one call.

``migrate`` puts them in place after the last revision, and ``verify`` compares what is there with them. Changing them
needs a new revision, an empty one if need be, so that an older version does not put its own in their place.

Three properties of PostgreSQL shape them. Two transactions that change one row wait for each other, so ``daily_totals``
has shards and each transaction takes one that nobody else has at that time (an advisory lock that ends with it; a
shard by backend number collides for every third pair of writers). Two that lock several rows in different orders lock
each other out, so rows are locked in the order of their keys. And a session has a time zone, so a day is always taken
``AT TIME ZONE 'UTC'``.

What the functions do is index look-ups and nothing else, and they are planned so once per session, whatever the
statistics of tables that grow say. They run with their owner's rights and their own search path: a program that may
only insert messages can do so, and one with another search path meets the same tables.

Tested in ``tests/store/test_migrations.py``.
"""

from __future__ import annotations

SHARDS = 16
"""Transactions that write without waiting for each other's totals; beyond that they share."""

ADVISORY_CLASS = 0x6D736778
"""The first key of the shards' advisory locks: "msgx", to keep away from other programs' keys."""


def day(value: str) -> str:
    """The UTC day of a stored time."""
    return f"({value} AT TIME ZONE 'UTC')::date"


TODAY = day("now()")


def _gives_way(last: str, new: str) -> str:
    """Does a user's day move to that of a new message? Yes when it is later, or when the old one has not come yet."""
    return f"({last} IS NULL OR {last} < {new} OR ({last} > {TODAY} AND {last} > {new}))"


def _bump(columns: str, deltas: str) -> str:
    """Add the rows (day, a delta for each column) of a SELECT to the transaction's own shard."""
    names = columns.split(", ")
    sums = ", ".join(f"sum({name})" for name in names)
    some = " OR ".join(f"sum({name}) <> 0" for name in names)
    added = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in names)
    return f"""
    INSERT INTO daily_totals AS t (day, shard, {columns})
    SELECT day, messaging_shard(), {sums} FROM ({deltas}) AS d (day, {columns})
    GROUP BY day HAVING {some} ORDER BY day
    ON CONFLICT (day, shard) DO UPDATE SET {added};"""


def _counting(columns: str, deltas: str) -> str:
    """The body of a function that does nothing else."""
    return f"\nBEGIN{_bump(columns, deltas)}\n    RETURN NULL;\nEND"


_MESSAGE_PLUS = f"SELECT {day('sent_at')}, 1 FROM added"
_MESSAGE_MINUS = f"SELECT {day('sent_at')}, -1 FROM removed"
_CONVERSATION_PLUS = f"SELECT {day('created_at')}, 1 FROM added"
_CONVERSATION_MINUS = f"SELECT {day('created_at')}, -1 FROM removed"
_USER_PLUS = f"""SELECT {day("created_at")}, 1, 0 FROM added
    UNION ALL SELECT last_active_on, 0, 1 FROM added WHERE last_active_on IS NOT NULL"""
_USER_MINUS = f"""SELECT {day("created_at")}, -1, 0 FROM removed
    UNION ALL SELECT last_active_on, 0, -1 FROM removed WHERE last_active_on IS NOT NULL"""

_LOCK = """IF cardinality(ids) > 1 THEN
        PERFORM 1 FROM conversations AS c WHERE c.id = ANY (ids) ORDER BY c.id FOR NO KEY UPDATE;
    END IF;"""

# A table is emptied of all its rows, those too that an older snapshot does not show: the figures of those would stay.
_BEFORE_EMPTYING = """
BEGIN
    IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
        RAISE 'TRUNCATE of % would leave its figures wrong at this isolation level', TG_TABLE_NAME USING
            ERRCODE = 'feature_not_supported', HINT = 'Use READ COMMITTED for it, or DELETE.';
    END IF;"""

FUNCTIONS = {
    # Runs through the shards from one that differs between backends to the first that is free (or its own already).
    "messaging_shard() RETURNS integer": f"""
DECLARE
    own integer := pg_backend_pid() % {SHARDS};
BEGIN
    FOR i IN 0..{SHARDS - 1} LOOP
        IF pg_try_advisory_xact_lock({ADVISORY_CLASS}, (own + i) % {SHARDS}) THEN
            RETURN (own + i) % {SHARDS};
        END IF;
    END LOOP;
    RETURN own;
END""",
    # What a statement did is gathered into arrays first: their joins are planned once, for index look-ups, whereas
    # a plan made for a transition table of a thousand rows reads whole tables for one of a single row.
    "messaging_messages_inserted() RETURNS trigger": f"""
DECLARE
    ids text[];
    numbers bigint[];
    tops bigint[];
    days date[];
    one record;
BEGIN
    SELECT count(*) AS n, min(conversation_id) AS id, min(sender_id) AS sender, min(sent_at) AS sent_at, max(seq) AS top
        INTO one FROM added;
    IF one.n = 0 THEN
        RETURN NULL;
    ELSIF one.n = 1 THEN  -- the usual case of a program that inserts row by row, in half the time
        UPDATE conversations SET total_messages = total_messages + 1, last_seq = greatest(last_seq, one.top)
            WHERE id = one.id;
        INSERT INTO daily_totals AS t (day, shard, messages)
            VALUES ({day("one.sent_at")}, messaging_shard(), 1)
            ON CONFLICT (day, shard) DO UPDATE SET messages = t.messages + 1;
        UPDATE users SET last_active_on = {day("one.sent_at")}
            WHERE id = one.sender AND {_gives_way("last_active_on", day("one.sent_at"))};
        RETURN NULL;
    END IF;
    SELECT array_agg(id ORDER BY id), array_agg(n ORDER BY id), array_agg(top ORDER BY id) INTO ids, numbers, tops
        FROM (
            SELECT conversation_id AS id, count(*) AS n, max(seq) AS top FROM added GROUP BY conversation_id
        ) AS d;
    {_LOCK}
    UPDATE conversations AS c
        SET total_messages = c.total_messages + d.n, last_seq = greatest(c.last_seq, d.top)
        FROM unnest(ids, numbers, tops) AS d (id, n, top) WHERE c.id = d.id;{_bump("messages", _MESSAGE_PLUS)}
    SELECT array_agg(id ORDER BY id), array_agg(day ORDER BY id) INTO ids, days
        FROM (
            SELECT sender_id AS id, coalesce(
                max({day("sent_at")}) FILTER (WHERE {day("sent_at")} <= {TODAY}), max({day("sent_at")})
            ) AS day FROM added GROUP BY sender_id
        ) AS d;
    PERFORM 1 FROM users AS u JOIN unnest(ids, days) AS d (id, day)
        ON u.id = d.id AND {_gives_way("u.last_active_on", "d.day")}
        ORDER BY u.id FOR NO KEY UPDATE OF u;
    IF FOUND THEN
        UPDATE users AS u SET last_active_on = d.day FROM unnest(ids, days) AS d (id, day)
            WHERE u.id = d.id AND {_gives_way("u.last_active_on", "d.day")};
    END IF;
    RETURN NULL;
END""",
    "messaging_messages_deleted() RETURNS trigger": f"""
DECLARE
    ids text[];
    numbers bigint[];
BEGIN
    SELECT array_agg(id ORDER BY id), array_agg(n ORDER BY id) INTO ids, numbers
        FROM (SELECT conversation_id AS id, count(*) AS n FROM removed GROUP BY conversation_id) AS d;
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    {_LOCK}
    UPDATE conversations AS c SET total_messages = c.total_messages - d.n
        FROM unnest(ids, numbers) AS d (id, n) WHERE c.id = d.id;{_bump("messages", _MESSAGE_MINUS)}
    RETURN NULL;
END""",
    # A conversation is locked only when its figures change: editing a body waits for nobody.
    "messaging_messages_updated() RETURNS trigger": f"""
DECLARE
    ids text[];
    numbers bigint[];
    tops bigint[];
BEGIN
    SELECT array_agg(id ORDER BY id), array_agg(n ORDER BY id), array_agg(top ORDER BY id) INTO ids, numbers, tops
        FROM (
            SELECT conversation_id AS id, sum(n) AS n, max(seq) FILTER (WHERE n > 0) AS top
            FROM (
                SELECT conversation_id, 1 AS n, seq FROM added
                UNION ALL SELECT conversation_id, -1, seq FROM removed
            ) AS both_sides
            GROUP BY conversation_id
            HAVING sum(n) <> 0 OR max(seq) FILTER (WHERE n > 0) > max(seq) FILTER (WHERE n < 0)
        ) AS d;
    IF ids IS NOT NULL THEN
        {_LOCK}
        UPDATE conversations AS c
            SET total_messages = c.total_messages + d.n, last_seq = greatest(c.last_seq, d.top)
            FROM unnest(ids, numbers, tops) AS d (id, n, top) WHERE c.id = d.id;
    END IF;{_bump("messages", f"{_MESSAGE_PLUS} UNION ALL {_MESSAGE_MINUS}")}
    RETURN NULL;
END""",
    "messaging_messages_truncated() RETURNS trigger": f"""{_BEFORE_EMPTYING}
    UPDATE verification SET repairs = repairs + 1;
    UPDATE daily_totals SET messages = 0 WHERE messages <> 0;
    UPDATE conversations SET total_messages = 0 WHERE total_messages <> 0;
    RETURN NULL;
END""",
    # Of a partition that is emptied only the part of the figures goes.
    "messaging_partition_truncated() RETURNS trigger": f"""
DECLARE
    ids text[];
    numbers bigint[];
    days date[];{_BEFORE_EMPTYING}
    EXECUTE format(
        'SELECT array_agg(id ORDER BY id), array_agg(n ORDER BY id)'
        ' FROM (SELECT conversation_id AS id, count(*) AS n FROM %s GROUP BY 1) AS d', TG_RELID::regclass
    ) INTO ids, numbers;
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    {_LOCK}
    UPDATE conversations AS c SET total_messages = c.total_messages - d.n
        FROM unnest(ids, numbers) AS d (id, n) WHERE c.id = d.id;
    EXECUTE format(
        'SELECT array_agg(day ORDER BY day), array_agg(n ORDER BY day)'
        ' FROM (SELECT {day("sent_at").replace("'", "''")} AS day, count(*) AS n FROM %s GROUP BY 1) AS d',
        TG_RELID::regclass
    ) INTO days, numbers;
    INSERT INTO daily_totals AS t (day, shard, messages)
        SELECT d.day, messaging_shard(), -d.n FROM unnest(days, numbers) AS d (day, n) ORDER BY d.day
        ON CONFLICT (day, shard) DO UPDATE SET messages = t.messages + excluded.messages;
    RETURN NULL;
END""",
    "messaging_conversation_begins() RETURNS trigger": """
BEGIN
    NEW.total_messages := 0;
    RETURN NEW;
END""",
    "messaging_conversations_inserted() RETURNS trigger": _counting("conversations", _CONVERSATION_PLUS),
    "messaging_conversations_deleted() RETURNS trigger": _counting("conversations", _CONVERSATION_MINUS),
    "messaging_conversation_redated() RETURNS trigger": _counting(
        "conversations", f"SELECT {day('NEW.created_at')}, 1 UNION ALL SELECT {day('OLD.created_at')}, -1"
    ),
    "messaging_conversations_truncated() RETURNS trigger": f"""{_BEFORE_EMPTYING}
    UPDATE verification SET repairs = repairs + 1;
    UPDATE daily_totals SET conversations = 0 WHERE conversations <> 0;
    RETURN NULL;
END""",
    "messaging_users_inserted() RETURNS trigger": _counting("users, last_active_users", _USER_PLUS),
    "messaging_users_deleted() RETURNS trigger": f"""
BEGIN
    DELETE FROM conversation_members WHERE user_id IN (SELECT id FROM removed);{
        _bump("users, last_active_users", _USER_MINUS)
    }
    RETURN NULL;
END""",
    "messaging_users_updated() RETURNS trigger": _counting(
        "users, last_active_users", f"{_USER_PLUS} UNION ALL {_USER_MINUS}"
    ),
    "messaging_users_truncated() RETURNS trigger": f"""{_BEFORE_EMPTYING}
    DELETE FROM conversation_members WHERE user_id IN (SELECT id FROM users);
    UPDATE verification SET repairs = repairs + 1;
    UPDATE daily_totals SET users = 0, last_active_users = 0 WHERE users <> 0 OR last_active_users <> 0;
    RETURN NULL;
END""",
    # Who wrote on which day: a row that is there already costs a look into an index. Deleted messages and deleted users
    # leave it: they did write on that day.
    "messaging_user_days_of_messages() RETURNS trigger": f"""
BEGIN
    INSERT INTO user_days (day, user_id) SELECT DISTINCT {day("sent_at")}, sender_id FROM added ORDER BY 1, 2
        ON CONFLICT (day, user_id) DO NOTHING;
    RETURN NULL;
END""",
    "messaging_user_days_inserted() RETURNS trigger": _counting("active_users", "SELECT day, 1 FROM added"),
    "messaging_user_days_deleted() RETURNS trigger": _counting("active_users", "SELECT day, -1 FROM removed"),
}

_NEW = "REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
_OLD = "REFERENCING OLD TABLE AS removed FOR EACH STATEMENT"
_BOTH = "REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT"

TRIGGERS = {
    "messages_inserted": ("AFTER INSERT ON messages", _NEW, "messages_inserted"),
    "messages_deleted": ("AFTER DELETE ON messages", _OLD, "messages_deleted"),
    "messages_updated": ("AFTER UPDATE ON messages", _BOTH, "messages_updated"),
    "messages_truncated": ("AFTER TRUNCATE ON messages", "FOR EACH STATEMENT", "messages_truncated"),
    "conversation_begins": (
        "BEFORE INSERT ON conversations",
        "FOR EACH ROW WHEN (NEW.total_messages <> 0)",
        "conversation_begins",
    ),
    "conversations_inserted": ("AFTER INSERT ON conversations", _NEW, "conversations_inserted"),
    "conversations_deleted": ("AFTER DELETE ON conversations", _OLD, "conversations_deleted"),
    # A row trigger, which may name a column: the counters of conversations change with every message.
    "conversation_redated": (
        "AFTER UPDATE OF created_at ON conversations",
        "FOR EACH ROW WHEN (OLD.created_at IS DISTINCT FROM NEW.created_at)",
        "conversation_redated",
    ),
    "conversations_truncated": ("AFTER TRUNCATE ON conversations", "FOR EACH STATEMENT", "conversations_truncated"),
    "users_inserted": ("AFTER INSERT ON users", _NEW, "users_inserted"),
    "users_deleted": ("AFTER DELETE ON users", _OLD, "users_deleted"),
    "users_updated": ("AFTER UPDATE ON users", _BOTH, "users_updated"),
    "users_truncated": ("BEFORE TRUNCATE ON users", "FOR EACH STATEMENT", "users_truncated"),
    "user_days_of_new_messages": ("AFTER INSERT ON messages", _NEW, "user_days_of_messages"),
    "user_days_of_changed_messages": ("AFTER UPDATE ON messages", _NEW, "user_days_of_messages"),
    "user_days_inserted": ("AFTER INSERT ON user_days", _NEW, "user_days_inserted"),
    "user_days_deleted": ("AFTER DELETE ON user_days", _OLD, "user_days_deleted"),
}


PARTITION_TRIGGERS = {
    # Also fired when the whole table is emptied, whose own trigger then sets everything to 0.
    "partition_truncated": ("BEFORE TRUNCATE ON messages", "FOR EACH STATEMENT", "partition_truncated"),
}

CONFIG = ("plan_cache_mode=force_generic_plan", "enable_seqscan=off")
"""What the triggers' functions set for themselves, beside their search path."""


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def function(head: str, schema: str) -> str:
    """The statement that makes a function, or makes it again, in the schema of that name."""
    path = quoted(schema)
    settings = " ".join(f"SET {setting}" for setting in CONFIG)
    owned = f"SECURITY DEFINER SET search_path = {path}, pg_temp {settings}" if head.endswith("trigger") else ""
    return f"CREATE OR REPLACE FUNCTION {head} LANGUAGE plpgsql {owned} AS $body${body(head)}$body$"


def body(head: str) -> str:
    """A function's text as the catalogue shows it."""
    return f"{FUNCTIONS[head]}\n"


def table(name: str) -> str:
    """The table of a trigger."""
    return TRIGGERS[name][0].rsplit(" ", 1)[1]


def of_partition(leaf: bool) -> tuple[str, ...]:
    """The triggers that each partition of ``messages`` needs for those who name it; ``leaf``: it holds rows itself."""
    statements = (name for name in TRIGGERS if table(name) == "messages" and "TRUNCATE" not in TRIGGERS[name][0])
    return (*statements, *(["partition_truncated"] if leaf else []))


def trigger(name: str, partition: str | None = None) -> tuple[str, str]:
    """The statements that make a trigger, or make it again, and switch it on; ``partition``: on that one, as quoted."""
    when, rows, function = (TRIGGERS | PARTITION_TRIGGERS)[name]
    event, of = when.rsplit(" ", 1)
    where = partition or of
    return (
        f"CREATE OR REPLACE TRIGGER {name} {event} {where} {rows} EXECUTE FUNCTION messaging_{function}()",
        f"ALTER TABLE {where} ENABLE TRIGGER {name}",
    )
