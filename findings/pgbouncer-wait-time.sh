#!/usr/bin/env bash
# pgbouncer 1.18.0 and PostgreSQL 15 (Debian 12), psycopg 3.3.9 from PyPI; nothing of this project.
#
# Guess: total_wait_time in SHOW STATS is all the time that clients have spent waiting for a connection to the server,
# as its manual has it. So its rate shows that a pool is too small, and most of all when clients are sent away after
# query_wait_timeout.
#
# Seen: a wait is added when it ends well, and then only. While clients wait nothing is added, and of those who are sent
# away nothing ever is: ten seconds of waiting in vain are 0. So when nobody gets a connection any more, the rate of
# waiting falls to 0; only cl_waiting and maxwait of SHOW POOLS tell, for as long as somebody waits.
#   1 that waits for 1.5 s and gets a connection: total_wait_time + 1.5 s
#   5 that wait for 2 s and are sent away, meanwhile: cl_waiting 5, total_wait_time + 0.0 s
#   5 that wait for 2 s and are sent away, afterwards: cl_waiting 0, total_wait_time + 0.0 s
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
chat = host=127.0.0.1 port=$port dbname=postgres user=postgres pool_size=1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooled
unix_socket_dir =
auth_type = any
admin_users = postgres
pool_mode = transaction
query_wait_timeout = 2
pidfile = pid
INI
as env LD_LIBRARY_PATH="$libraries" unpacked/usr/sbin/pgbouncer pgbouncer.ini 2>log &
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile 'psycopg[binary]==3.3.9'
venv/bin/python - "$pooled" <<'PYTHON' | tee seen
import asyncio
import sys

import psycopg


async def connect(database):
    url = f"postgresql://postgres@127.0.0.1:{sys.argv[1]}/{database}"
    for _ in range(100):
        try:
            return await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError:  # pgbouncer starts
            await asyncio.sleep(0.1)
    raise SystemExit("pgbouncer does not start")


async def main():
    administrator, busy, *clients = [await connect(name) for name in ["pgbouncer"] + ["chat"] * 7]

    async def show(what, column):
        cursor = await administrator.execute(f"SHOW {what}")
        names = [description.name for description in cursor.description]
        rows = [dict(zip(names, row)) for row in await cursor.fetchall()]
        return next(int(row[column]) for row in rows if row["database"] == "chat")

    async def since(before):
        return f"total_wait_time + {(await show('STATS', 'total_wait_time') - before) / 1e6:.1f} s"

    before = await show("STATS", "total_wait_time")
    await busy.execute("BEGIN")  # it has the only connection to the server
    waiting = asyncio.create_task(clients[0].execute("SELECT 1"))
    await asyncio.sleep(1.5)
    await busy.execute("ROLLBACK")
    await waiting
    print("1 that waits for 1.5 s and gets a connection:", await since(before))

    before = await show("STATS", "total_wait_time")
    await busy.execute("BEGIN")
    waiting = [asyncio.create_task(client.execute("SELECT 1")) for client in clients[1:]]
    await asyncio.sleep(1)
    name = "5 that wait for 2 s and are sent away"
    print(f"{name}, meanwhile: cl_waiting {await show('POOLS', 'cl_waiting')}, {await since(before)}")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, psycopg.Error) for outcome in outcomes), outcomes
    print(f"{name}, afterwards: cl_waiting {await show('POOLS', 'cl_waiting')}, {await since(before)}")


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
1 that waits for 1.5 s and gets a connection: total_wait_time + 1.5 s
5 that wait for 2 s and are sent away, meanwhile: cl_waiting 5, total_wait_time + 0.0 s
5 that wait for 2 s and are sent away, afterwards: cl_waiting 0, total_wait_time + 0.0 s
SEEN
