"""Tables of the servers as far as they are read, on both engines, and a few rows by hand whose meaning is known."""

from __future__ import annotations

TEXT_KEY = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "bigserial PRIMARY KEY"}


def synapse(engine: str) -> str:
    """Synapse 1.163, schema 94."""
    flag = "BOOLEAN" if engine == "sqlite" else "boolean"
    return f"""
    CREATE TABLE events (stream_ordering bigint NOT NULL, event_id text NOT NULL, type text NOT NULL,
        room_id text NOT NULL, sender text, state_key text, origin_server_ts bigint, received_ts bigint,
        outlier {flag} NOT NULL DEFAULT false, rejection_reason text, depth bigint, instance_name text);
    CREATE UNIQUE INDEX events_stream_ordering ON events (stream_ordering);
    CREATE UNIQUE INDEX events_event_id ON events (event_id);
    CREATE INDEX events_ts ON events (origin_server_ts, stream_ordering);
    CREATE TABLE event_relations (event_id text NOT NULL, relates_to_id text, relation_type text, aggregation_key text);
    CREATE UNIQUE INDEX event_relations_id ON event_relations (event_id);
    CREATE TABLE redactions (event_id text NOT NULL UNIQUE, redacts text NOT NULL, received_ts bigint);
    CREATE INDEX redactions_redacts ON redactions (redacts);
    CREATE TABLE users (name text UNIQUE, creation_ts bigint, is_guest smallint NOT NULL DEFAULT 0,
        deactivated smallint NOT NULL DEFAULT 0, appservice_id text, user_type text, password_hash text);
    CREATE TABLE room_stats_current (room_id text PRIMARY KEY, joined_members int, local_users_in_room int);
    CREATE TABLE room_stats_state (room_id text PRIMARY KEY, room_type text);
    CREATE TABLE current_state_events (event_id text, room_id text, type text, state_key text);
    CREATE TABLE stream_positions (stream_name text, instance_name text, stream_id bigint);
    CREATE TABLE schema_version (version int);
    CREATE TABLE schema_compat_version (compat_version int);
    INSERT INTO schema_version VALUES (94);
    INSERT INTO schema_compat_version VALUES (90);
    """


def ejabberd(engine: str, *, new: bool = False) -> str:
    """ejabberd 23.01, the default schema or the new one."""
    host = "server_host text NOT NULL DEFAULT 'localhost'," if new else ""
    number = "integer PRIMARY KEY AUTOINCREMENT" if engine == "sqlite" else "bigserial"
    first = "server_host, " if new else ""
    indexes = "".join(
        f"CREATE INDEX i_archive_{columns.replace(', ', '_')} ON archive ({first}{columns});"
        for columns in ("username, timestamp", "username, peer", "username, bare_peer", "timestamp")
    )
    return f"""
    CREATE TABLE archive (username text NOT NULL, {host} timestamp bigint NOT NULL, peer text NOT NULL,
        bare_peer text NOT NULL, xml text NOT NULL, txt text, id {number}, kind text, nick text);
    {indexes}
    CREATE TABLE users (username text NOT NULL, {host} password text NOT NULL DEFAULT '');
    CREATE UNIQUE INDEX i_users ON users (username{", server_host" if new else ""});
    CREATE TABLE muc_room (name text NOT NULL, host text NOT NULL, opts text NOT NULL DEFAULT '');
    CREATE TABLE last (username text, seconds text, state text);
    """


def prosody(engine: str) -> str:
    """Prosody 0.12.3."""
    return f"""
    CREATE TABLE prosody (host text, "user" text, store text, key text, type text, value text);
    CREATE UNIQUE INDEX prosody_unique_index ON prosody (host, "user", store, key);
    CREATE TABLE prosodyarchive (sort_id {TEXT_KEY[engine]}, host text, "user" text, store text, key text,
        "when" integer, "with" text, type text, value text);
    CREATE UNIQUE INDEX prosodyarchive_index ON prosodyarchive (host, "user", store, key);
    CREATE INDEX prosodyarchive_with_when ON prosodyarchive (host, "user", store, "with", "when");
    CREATE INDEX prosodyarchive_when ON prosodyarchive (host, "user", store, "when");
    CREATE INDEX prosodyarchive_sort ON prosodyarchive (host, "user", store, sort_id);
    """


def mattermost(engine: str) -> str:
    """Mattermost, from its public migrations."""
    return """
    CREATE TABLE posts (id varchar(26) PRIMARY KEY, createat bigint, updateat bigint, editat bigint DEFAULT 0,
        deleteat bigint DEFAULT 0, userid varchar(26), channelid varchar(26), rootid varchar(26) DEFAULT '',
        originalid varchar(26) DEFAULT '', message text, type varchar(26) DEFAULT '', props text);
    CREATE INDEX idx_posts_create_at ON posts (createat);
    CREATE INDEX idx_posts_update_at ON posts (updateat);
    CREATE TABLE users (id varchar(26) PRIMARY KEY, deleteat bigint DEFAULT 0, remoteid varchar(26), roles text);
    CREATE TABLE bots (userid varchar(26) PRIMARY KEY);
    CREATE TABLE channels (id varchar(26) PRIMARY KEY, type varchar(1), deleteat bigint DEFAULT 0);
    """


def origin(engine: str) -> str:
    """The back end that this project grew out of: FastAPI and SQLModel."""
    when = "timestamp" if engine == "postgresql" else "DATETIME"
    return f"""
    CREATE TABLE "user" (id {TEXT_KEY[engine]}, role text NOT NULL DEFAULT 'user', created_at {when});
    CREATE TABLE conversation (id {TEXT_KEY[engine]}, created_at {when}, total_messages integer NOT NULL DEFAULT 0);
    CREATE TABLE conversation_participant (conversation_id bigint, user_id bigint);
    CREATE TABLE message (id {TEXT_KEY[engine]}, conversation_id bigint NOT NULL, sender_id bigint NOT NULL,
        content text, created_at {when} NOT NULL, deleted_at {when});
    CREATE INDEX ix_message_conversation_id ON message (conversation_id);
    CREATE INDEX ix_message_created_at ON message (created_at);
    """
