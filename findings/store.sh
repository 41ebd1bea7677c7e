#!/usr/bin/env bash
# PostgreSQL 15 (Debian's postgresql-15), asyncpg 0.32.0 from PyPI; nothing of this project.
#
# Guess: a COMMIT that waits for a synchronous standby ends with an error, like every other statement, when
# statement_timeout is over (57014) or when somebody cancels it (57014): then it has not been committed.
#
# Seen: statement_timeout does not end it at all: the client waits for as long as there is no standby. And a cancelled
# COMMIT SUCCEEDS, with a warning and without the standby: the row is there for everybody, and a failover loses it.
#   COMMIT, 2 s after a statement_timeout of 0.5 s: still waiting
#   the same COMMIT, cancelled: no error
#   WARNING: canceling wait for synchronous replication due to user request
#   rows seen by another session: 1
#   SELECT pg_sleep(5): 57014
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
    -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$work/data -c synchronous_standby_names=nobody" start
python3 -m venv "$work/venv" && "$work/venv/bin/pip" -q install asyncpg==0.32.0
"$work/venv/bin/python" - "$port" <<'PYTHON'
import asyncio
import sys

import asyncpg


async def main() -> int:
    url = f"postgresql://postgres@127.0.0.1:{sys.argv[1]}/postgres"
    other = await asyncpg.connect(url)
    await other.execute("SET synchronous_commit = local; CREATE TABLE t (n integer)")
    one = await asyncpg.connect(url, server_settings={"statement_timeout": "500"})
    print(await one.fetchval("SELECT version()"))
    warnings: list[str] = []
    one.add_log_listener(lambda _, message: warnings.append(f"{message.severity_en}: {message.message}"))
    await one.execute("BEGIN")
    await one.execute("INSERT INTO t VALUES (1)")
    commit = asyncio.ensure_future(one.execute("COMMIT"))
    done, _ = await asyncio.wait({commit}, timeout=2.0)
    waiting = not done
    print("COMMIT, 2 s after a statement_timeout of 0.5 s:", "still waiting" if waiting else "ended")
    await other.fetchval("SELECT pg_cancel_backend($1)", one.get_server_pid())
    try:
        await commit
        outcome = "no error"
    except asyncpg.PostgresError as error:
        outcome = error.sqlstate
    print("the same COMMIT, cancelled:", outcome)
    await asyncio.sleep(0.1)
    print(*warnings, sep="\n")
    rows = await other.fetchval("SELECT count(*) FROM t")
    print("rows seen by another session:", rows)
    try:
        await one.execute("SELECT pg_sleep(5)")
        sleeping = "no error"
    except asyncpg.PostgresError as error:
        sleeping = error.sqlstate
    print("SELECT pg_sleep(5):", sleeping)
    same = waiting and outcome == "no error" and rows == 1 and sleeping == "57014"
    return 0 if same and any("synchronous replication" in warning for warning in warnings) else 1


sys.exit(asyncio.run(main()))
PYTHON
