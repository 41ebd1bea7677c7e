"""``GET /v1/messaging/stats/days``: messages and active users per UTC day, as JSON or CSV. Knows no SQL.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.core.records import DayTotals
from exporter.metrics.negotiation import ranges
from exporter.store import Store
from exporter.store.days import KEPT
from exporter.web.access import require_admin
from exporter.web.routes import schemas
from exporter.web.routes.answers import JSON, number

DEFAULT: Final = 30
_HEADERS: Final = JSON | {"Vary": "Accept, Cookie"}


class Days:
    """The handler."""

    def __init__(self, store: Store, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator

    async def handle(self, request: web.Request) -> web.Response:
        """200 with the last ``days`` (30; at most 400), the oldest first; 503 while the database is not seen.

        CSV where ``Accept`` prefers ``text/csv``: a line of names, then a line per day; what is not known is empty.
        """
        require_admin(request, self._authenticator)
        days = await self._store.days(number(request, "days", DEFAULT, KEPT))
        if _prefers_csv(",".join(request.headers.getall("Accept", ()))):
            headers = _HEADERS | {
                "Content-Type": "text/csv; charset=utf-8; header=present",
                "Content-Disposition": f'attachment; filename="messaging-{len(days)}-days.csv"',
            }
            return web.Response(text=_csv(days), headers=headers)
        listed = [schemas.Day(day.day, day.messages, day.active_users) for day in days]
        reasons = dict.fromkeys(day.error for day in days if day.error is not None)
        shape = schemas.Days(listed, "; ".join(reasons) or None)
        return web.Response(body=msgspec.json.encode(shape), headers=_HEADERS)


def _csv(days: list[DayTotals]) -> str:
    def cell(value: int | None) -> str:
        return "" if value is None else str(value)

    lines = [f"{day.day.isoformat()},{cell(day.messages)},{cell(day.active_users)}" for day in days]
    return "\r\n".join(["day,messages,active_users", *lines, ""])  # RFC 4180


def _prefers_csv(accept: str) -> bool:
    """Does the client ask for CSV rather than for JSON? Nothing, and what cannot be read, is JSON."""
    wanted = {"text/csv": 0.0, "application/json": 0.0}
    for kind, _, weight in ranges(accept):
        if kind in wanted:
            wanted[kind] = max(wanted[kind], weight)
    return wanted["text/csv"] > wanted["application/json"]
