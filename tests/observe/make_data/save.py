"""From a server's database to test data: the tables that figures come from, without anybody's secrets, and small."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.servers.postgres import Postgres

DATA = Path(__file__).parents[1] / "data"
LIMIT = 300_000
"""Bytes that one compressed database may have at most."""

KEPT = {
    "ejabberd": ("archive", "users", "last", "muc_room", "archive_prefs"),
    "prosody": ("prosody", "prosodyarchive", "prosodyarchive_formatted"),
    "synapse": (
        "events", "event_relations", "redactions", "users", "room_stats_current", "room_stats_state",
        "current_state_events", "local_current_membership", "rooms", "stream_positions", "user_daily_visits",
        "schema_version", "schema_compat_version",
    ),
}  # fmt: skip
"""Tables that stay."""

BLANKED = {
    "ejabberd": (
        "UPDATE users SET password = ''", "UPDATE users SET serverkey = '', salt = '', iterationcount = 0",
        "UPDATE muc_room SET opts = '[]'", "UPDATE last SET state = ''",
    ),
    "prosody": ("UPDATE prosody SET value = ''", "DELETE FROM prosody WHERE store IN ('pep', 'roster', 'cron')"),
    "synapse": ("UPDATE users SET password_hash = NULL",),
}  # fmt: skip
"""What makes the rest of them nobody's."""


def _write(kind: str, engine: str, name: str, data: bytes, truth: dict[str, Any]) -> Path:
    folder = DATA / kind / engine
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{'db' if engine == 'sqlite' else 'sql'}.gz"
    path.write_bytes(gzip.compress(data, mtime=0))
    assert path.stat().st_size < LIMIT, f"{path} has {path.stat().st_size} bytes"
    truths = folder / "truth.json"
    known = json.loads(truths.read_text()) if truths.exists() else {}
    known[name] = truth
    truths.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
    print(f"{kind} {engine} {name}: {path.stat().st_size:,} bytes; {truth['messages']} messages", flush=True)
    return path


def save_sqlite(kind: str, name: str, file: Path, truth: dict[str, Any]) -> Path:
    """Copy an SQLite file that nobody writes to at this moment, and keep what is needed. The journal mode stays."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        for suffix in ("", "-wal"):
            if Path(f"{file}{suffix}").exists():
                shutil.copy(f"{file}{suffix}", f"{copy}{suffix}")
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            tables = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'"
            for type_, table in connection.execute(tables).fetchall():
                if table not in KEPT[kind]:
                    with contextlib.suppress(sqlite3.OperationalError):  # the shadow tables of a text index
                        connection.execute(f'DROP {type_} "{table}"')
            for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{trigger}"')
            for statement in BLANKED[kind]:
                connection.execute(statement)
            connection.execute("VACUUM")
            assert connection.execute("PRAGMA journal_mode").fetchone()[0] == mode
        return _write(kind, "sqlite", name, copy.read_bytes(), truth)


def _program(postgres: Postgres, *arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [str(postgres._binaries / arguments[0]), "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "postgres",
         *arguments[1:]],
        input=text, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_postgresql(kind: str, name: str, postgres: Postgres, database: str, truth: dict[str, Any]) -> Path:
    """The same of a PostgreSQL database, as plain SQL that any client may run; the server may be at work."""
    copy = postgres.create_database()
    _program(postgres, "psql", "-q", "-X", "-d", copy, text=_program(postgres, "pg_dump", database))
    kept = ", ".join(f"'{table}'" for table in KEPT[kind])
    dropped = postgres.psql(
        "SELECT format('DROP TABLE %I CASCADE;', tablename) FROM pg_tables "
        f"WHERE schemaname = 'public' AND tablename NOT IN ({kept})",
        copy,
    )
    triggers = (
        "SELECT format('DROP TRIGGER %I ON %I;', tgname, relname) FROM pg_trigger "
        "JOIN pg_class c ON c.oid = tgrelid WHERE NOT tgisinternal"
    )
    for script in (postgres.psql(triggers, copy), dropped, ";\n".join(BLANKED[kind])):
        _program(postgres, "psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", copy, text=script)
    dump = _program(postgres, "pg_dump", "--no-owner", "--no-privileges", "--rows-per-insert=100", "-d", copy)
    postgres.psql(f"DROP DATABASE {copy}")
    # Lines that only psql understands, and what sets this session's habits.
    lines = [line for line in dump.splitlines() if not line.startswith(("\\", "SET ", "--"))]
    return _write(kind, "postgresql", name, "\n".join(line for line in lines if line).encode(), truth)
