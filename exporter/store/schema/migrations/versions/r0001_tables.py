"""Tables of messages, without totals that anybody keeps right."""

from __future__ import annotations

from sqlalchemy import Connection

_SQLITE_NOW = "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"

SQLITE = f"""
CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    created_at TEXT NOT NULL DEFAULT {_SQLITE_NOW}
) WITHOUT ROWID;
CREATE TABLE conversations (
    id TEXT NOT NULL PRIMARY KEY,
    created_at TEXT NOT NULL DEFAULT {_SQLITE_NOW},
    total_messages INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE conversation_members (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL,
    last_read_seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID;
CREATE INDEX conversation_members_user ON conversation_members (user_id, conversation_id);
CREATE TABLE messages (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    sender_id TEXT NOT NULL,
    client_id TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    body TEXT NOT NULL DEFAULT '',
    sent_at TEXT NOT NULL DEFAULT {_SQLITE_NOW},
    PRIMARY KEY (conversation_id, seq),
    UNIQUE (conversation_id, sender_id, client_id)
);
"""

POSTGRESQL = """
CREATE TABLE users (
    id text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE conversations (
    id text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    total_messages bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0
);
CREATE TABLE conversation_members (
    conversation_id text NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    user_id text NOT NULL,
    last_read_seq bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (conversation_id, user_id)
);
CREATE INDEX conversation_members_user ON conversation_members (user_id, conversation_id);
CREATE TABLE messages (
    conversation_id text NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    seq bigint NOT NULL,
    sender_id text NOT NULL,
    client_id text NOT NULL DEFAULT gen_random_uuid()::text,
    body text NOT NULL DEFAULT '',
    sent_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversation_id, seq),
    UNIQUE (conversation_id, sender_id, client_id)
);
"""


def upgrade(connection: Connection) -> None:
    """Make the tables."""
    script = SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL
    for statement in script.split(";\n"):
        if statement.strip():
            connection.exec_driver_sql(statement)
