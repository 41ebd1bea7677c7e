#!/usr/bin/env bash
# PostgreSQL 15 (Debian's postgresql-15); nothing of this project.
#
# Guess: who holds a lock for a prepared transaction is found as PostgreSQL's manual says under pg_locks: its rows have
# no process, and their virtualtransaction is '-1/' and the transaction's number.
#
# Seen: virtualtransaction is that of the session which prepared it, though that has gone; nothing begins with -1, and
# the manual's join finds no lock. Who holds it is told by the lock that each transaction has on its own number: that
# row has the same virtualtransaction as the other locks of the prepared transaction.
#   rows of the manual's join: 0
#   rows without a process: 2, virtualtransaction begins with -1: 0
#   by the lock on its own number: RowExclusiveLock on t is held by 'a'
# A transaction that was prepared before the server was started again has -1: then the manual's join finds it.
#   after a restart, rows of the manual's join: 2
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
start() {
    as "$bin/pg_ctl" -D "$work/data" -s -w -l "$work/data/log" -o "-c listen_addresses=127.0.0.1 -c port=$port \
        -c max_prepared_transactions=5 -c unix_socket_directories=$work/data" start
}
ask() { "$bin/psql" -h 127.0.0.1 -p "$port" -U postgres -XAtc "$1" postgres; }
JOIN="SELECT count(*) FROM pg_locks l JOIN pg_prepared_xacts p ON l.virtualtransaction = '-1/' || p.transaction"
start
ask "CREATE TABLE t (n integer)" > /dev/null
ask "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'a'" > /dev/null
{
    echo "rows of the manual's join: $(ask "$JOIN")"
    ask "SELECT 'rows without a process: ' || count(*) || ', virtualtransaction begins with -1: '
        || count(*) FILTER (WHERE virtualtransaction LIKE '-1/%') FROM pg_locks WHERE pid IS NULL"
    ask "SELECT 'by the lock on its own number: ' || held.mode || ' on ' || held.relation::regclass || ' is held by '''
        || p.gid || '''' FROM pg_prepared_xacts p
        JOIN pg_locks own ON own.transactionid = p.transaction AND own.pid IS NULL
        JOIN pg_locks held ON held.virtualtransaction = own.virtualtransaction AND held.pid IS NULL
        WHERE held.locktype = 'relation'"
    as "$bin/pg_ctl" -D "$work/data" -s -m fast stop
    start
    echo "after a restart, rows of the manual's join: $(ask "$JOIN")"
} | tee seen
diff -u - seen <<'SEEN'
rows of the manual's join: 0
rows without a process: 2, virtualtransaction begins with -1: 0
by the lock on its own number: RowExclusiveLock on t is held by 'a'
after a restart, rows of the manual's join: 2
SEEN
