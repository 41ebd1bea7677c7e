#!/usr/bin/env bash
# pgbouncer 1.18.0 and PostgreSQL 15 (Debian 12), asyncpg 0.32.0 from PyPI; nothing of this project.
#
# Guess: a statement that asyncpg gives up, because its timeout is over, is cancelled at the server; pgbouncer passes a
# cancel request on. One that waits in pgbouncer's queue for a connection has not begun, so it never will.
#
# Seen: who waits in the queue cannot be cancelled: pgbouncer drops the request and keeps the statement ("cancel request
# for idle client"). asyncpg says TimeoutError all the same and keeps the connection. When a connection to the server is
# free, the statement is carried out, however long ago it was reported as failed; who has tried again has it twice. The
# same statement that waits for a lock instead, straight at PostgreSQL or through pgbouncer, is cancelled.
#   PostgreSQL, waits for a lock: TimeoutError, 0 rows; when what it waited for is over 0 rows
#   pgbouncer, waits for a lock: TimeoutError, 0 rows; when what it waited for is over 0 rows
#   pgbouncer, waits in its queue: TimeoutError, 0 rows; when what it waited for is over 1 row
#
# Needs PostgreSQL 15 as Debian installs it. Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin
work=$(mktemp -d)
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$work"
finish() {
    [ ! -e "$work/pid" ] || kill "$(cat "$work/pid")" || true
    as "$bin/pg_ctl" -D "$work/data" -m immediate -s stop || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
apt-get download -qq -o APT::Sandbox::User=root 'pgbouncer=1.18.0-*' libevent-2.1-7 libc-ares2
for package in *.deb; do dpkg -x "$package" unpacked; done
libraries=$(echo "$work"/unpacked/usr/lib/*-linux-gnu)
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free) pooled=$(free)
as "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >/dev/null
as "$bin/pg_ctl" -D "$work/data" -s -w -l "$work/data/log" \
    -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$work/data" start
cat >pgbouncer.ini <<INI
[databases]
one = host=127.0.0.1 port=$port dbname=postgres user=postgres pool_size=1
two = host=127.0.0.1 port=$port dbname=postgres user=postgres pool_size=2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooled
unix_socket_dir =
auth_type = any
pool_mode = transaction
pidfile = pid
INI
as env LD_LIBRARY_PATH="$libraries" unpacked/usr/sbin/pgbouncer pgbouncer.ini 2>log &
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile asyncpg==0.32.0
venv/bin/python - "$port" "$pooled" <<'PYTHON' | tee seen
import asyncio
import sys

import asyncpg

PORT, POOLED = sys.argv[1:]
STRAIGHT = f"postgresql://postgres@127.0.0.1:{PORT}/postgres"
TWO, ONE = (f"postgresql://postgres@127.0.0.1:{POOLED}/{name}" for name in ("two", "one"))


async def connect(url):
    for _ in range(100):
        try:
            return await asyncpg.connect(url, statement_cache_size=0)
        except OSError:  # pgbouncer starts
            await asyncio.sleep(0.1)
    raise SystemExit("pgbouncer does not start")


async def look(name, url, lock):
    watcher, busy, waiting = [await connect(one) for one in (STRAIGHT, url, url)]
    await watcher.execute("DROP TABLE IF EXISTS messages; CREATE TABLE messages (text text)")

    async def rows():
        number = await watcher.fetchval("SELECT count(*) FROM messages")
        return f"{number} row{'s' * (number != 1)}"

    async with busy.transaction():  # it has the only connection to the server, or one of two
        if lock:
            await busy.execute("LOCK TABLE messages IN SHARE MODE")
        try:
            await waiting.execute("INSERT INTO messages VALUES ('hello')", timeout=1)
            outcome = "no error"
        except TimeoutError as error:
            outcome = type(error).__name__
        await asyncio.sleep(1)  # the request to cancel is on its way
        during = await rows()
    await asyncio.sleep(1)  # what still waits has its turn
    print(f"{name}: {outcome}, {during}; when what it waited for is over {await rows()}", flush=True)
    for connection in (watcher, busy, waiting):
        connection.terminate()


async def main():
    await look("PostgreSQL, waits for a lock", STRAIGHT, lock=True)
    await look("pgbouncer, waits for a lock", TWO, lock=True)
    await look("pgbouncer, waits in its queue", ONE, lock=False)


asyncio.run(asyncio.wait_for(main(), 60))
PYTHON
diff seen - <<'SEEN'
PostgreSQL, waits for a lock: TimeoutError, 0 rows; when what it waited for is over 0 rows
pgbouncer, waits for a lock: TimeoutError, 0 rows; when what it waited for is over 0 rows
pgbouncer, waits in its queue: TimeoutError, 0 rows; when what it waited for is over 1 row
SEEN
