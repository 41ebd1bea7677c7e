"""The schema's revisions: modules of ``versions`` with ``upgrade(connection)``, run by ``store.schema.migrate``.

A new one is a module there and a line below; what was released is never changed. Revisions are SQL for both databases;
a library for migrations would add nothing to that but its own start-up (10 MiB and 0.1 s for alembic, measured).
"""

from __future__ import annotations

from typing import Final

REVISIONS: Final = {
    "0001": "r0001_tables",
    "0002": "r0002_totals",
    "0003": "r0003_findings",
    "0004": "r0004_days",
}
"""Number to module, oldest first."""
