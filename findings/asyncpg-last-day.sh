#!/usr/bin/env bash
# asyncpg 0.32.0 and psycopg 3.3.4 from PyPI, PostgreSQL 15 (Debian's postgresql-15); nothing of this project.
#
# Guess: a date that PostgreSQL has given goes back as the same date, or is refused where Python has none for it.
#
# Seen: with asyncpg, 9999-12-31 goes back as "infinity" and 0001-01-01 as "-infinity" (Python's last and first day
# stand for those), so a row of that day, read and used in the next WHERE, is not found. A timestamp does the same with
# its last microsecond. psycopg gives and takes 9999-12-31 as itself.
#   asyncpg, date 9999-12-31 comes back as infinity
#   asyncpg, date 0001-01-01 comes back as -infinity
#   asyncpg, date 9999-12-30 comes back as 9999-12-30
#   asyncpg, timestamp 9999-12-31 23:59:59.999999 comes back as infinity
#   asyncpg, rows of the day that was read: 0 of 1
#   psycopg, date 9999-12-31 comes back as 9999-12-31
#   psycopg, rows of the day that was read: 1 of 1
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin
work=$(mktemp -d)
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$work"
finish() { as "$bin/pg_ctl" -D "$work/data" -m immediate -s stop || true; rm -rf "$work"; }
trap finish EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$work"
as "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync > /dev/null
as "$bin/pg_ctl" -D "$work/data" -s -w -l "$work/data/log" \
    -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$work/data" start
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q --disable-pip-version-check install --no-compile asyncpg==0.32.0 'psycopg[binary]==3.3.4'
"$work/venv/bin/python" - "$port" <<'PYTHON' | tee seen
import asyncio
import sys

import asyncpg
import psycopg

URL = f"postgresql://postgres@127.0.0.1:{sys.argv[1]}/postgres"
VALUES = (
    ("date", "9999-12-31"), ("date", "0001-01-01"), ("date", "9999-12-30"),
    ("timestamp", "9999-12-31 23:59:59.999999"),
)  # fmt: skip


async def of_asyncpg():
    connection = await asyncpg.connect(URL)
    await connection.execute("CREATE TABLE days (day date)")
    await connection.execute("INSERT INTO days VALUES ('9999-12-31')")
    for kind, text in VALUES:
        value = await connection.fetchval(f"SELECT {kind} '{text}'")
        print(f"asyncpg, {kind} {text} comes back as", await connection.fetchval(f"SELECT $1::{kind}::text", value))
    day = await connection.fetchval("SELECT day FROM days")
    found = await connection.fetchval("SELECT count(*) FROM days WHERE day = $1", day)
    print(f"asyncpg, rows of the day that was read: {found} of 1")
    await connection.close()


asyncio.run(of_asyncpg())
with psycopg.connect(URL) as connection:
    (value,) = connection.execute("SELECT date '9999-12-31'").fetchone()
    print("psycopg, date 9999-12-31 comes back as", *connection.execute("SELECT %s::date::text", [value]).fetchone())
    (day,) = connection.execute("SELECT day FROM days").fetchone()
    (found,) = connection.execute("SELECT count(*) FROM days WHERE day = %s", [day]).fetchone()
    print(f"psycopg, rows of the day that was read: {found} of 1")
PYTHON
diff seen - <<'SEEN'
asyncpg, date 9999-12-31 comes back as infinity
asyncpg, date 0001-01-01 comes back as -infinity
asyncpg, date 9999-12-30 comes back as 9999-12-30
asyncpg, timestamp 9999-12-31 23:59:59.999999 comes back as infinity
asyncpg, rows of the day that was read: 0 of 1
psycopg, date 9999-12-31 comes back as 9999-12-31
psycopg, rows of the day that was read: 1 of 1
SEEN
