"""Who holds what sessions of this program wait for, as PostgreSQL tells it. Runs nothing.

Tested in ``tests/store/test_verify.py``.
"""

from __future__ import annotations

from typing import Final

# A transaction that was prepared has no process. What it holds carries the number of the session that prepared it, by
# which its own lock is found, and by that its name.
LOCK_HOLDERS: Final = """
WITH waiting AS (
    SELECT pid FROM pg_stat_activity
    WHERE application_name = $1 AND datname = current_database() AND wait_event_type = 'Lock'
        AND query_start < clock_timestamp() - interval '0.5 seconds'
)
SELECT 'process ' || pid || ' (' || concat_ws(
    ', ', nullif(application_name, ''), usename, state, 'since ' || to_char(xact_start, 'HH24:MI:SS TZ')
) || ')'
FROM pg_stat_activity WHERE pid IN (SELECT unnest(pg_blocking_pids(pid)) FROM waiting)
UNION SELECT concat(
    'prepared transaction ', to_json(gid), ' (', owner, ', since ', to_char(prepared, 'HH24:MI:SS TZ'), ')'
) FROM waiting JOIN pg_locks AS wanted ON wanted.pid = waiting.pid AND NOT wanted.granted
JOIN pg_locks AS held ON held.pid IS NULL AND (held.locktype, held.relation, held.transactionid)
    IS NOT DISTINCT FROM (wanted.locktype, wanted.relation, wanted.transactionid)
JOIN pg_locks AS own ON own.pid IS NULL AND own.virtualtransaction = held.virtualtransaction
JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid AND p.database = current_database()
ORDER BY 1
"""
"""With the name of this program's sessions. Not for whom a server's writer waits, which is a tenth of a second."""
