#!/usr/bin/env bash
# asyncpg 0.32.0 and psycopg 3.3.4 (its wheel's libpq) from PyPI, PostgreSQL 15 (Debian's postgresql-15); nothing of this
# project.
#
# Guess: with several hosts in the URL asyncpg does what libpq does: the time limit of a connection (libpq's
# connect_timeout, asyncpg's timeout) is for each host, so that one which says nothing is given up for the next.
#
# Seen: asyncpg's is one for all of them. A first host that accepts and says nothing (a process that is stopped, a
# machine that is gone) takes all of it, and the living one behind it is never asked: each attempt ends with
# TimeoutError, for as long as the first is so, whatever the limit. Where the first refuses, the second is asked.
#   psycopg, first host silent, limit 2 s: connected
#   asyncpg, first host silent, limit 2 s: TimeoutError
#   asyncpg, first host silent, limit 4 s: TimeoutError
#   asyncpg, first host refuses, limit 2 s: connected
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
import socket
import sys

import asyncpg
import psycopg

silent = socket.create_server(("127.0.0.1", 0))  # accepts, for the kernel does, and says nothing
with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    refusing = closed.getsockname()[1]


def url(first):
    return f"postgresql://postgres@127.0.0.1:{first},127.0.0.1:{sys.argv[1]}/postgres"


def of_psycopg():
    try:
        psycopg.connect(f"{url(silent.getsockname()[1])}?connect_timeout=2").close()
    except psycopg.OperationalError as error:
        return type(error).__name__
    return "connected"


async def of_asyncpg(first, limit):
    try:
        await (await asyncpg.connect(url(first), timeout=limit)).close()
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    return "connected"


print("psycopg, first host silent, limit 2 s:", of_psycopg())
for limit in (2, 4):
    print(f"asyncpg, first host silent, limit {limit} s:", asyncio.run(of_asyncpg(silent.getsockname()[1], limit)))
print("asyncpg, first host refuses, limit 2 s:", asyncio.run(of_asyncpg(refusing, 2)))
PYTHON
diff seen - <<'SEEN'
psycopg, first host silent, limit 2 s: connected
asyncpg, first host silent, limit 2 s: TimeoutError
asyncpg, first host silent, limit 4 s: TimeoutError
asyncpg, first host refuses, limit 2 s: connected
SEEN
