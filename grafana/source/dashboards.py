"""All dashboards: file name and text."""

from __future__ import annotations

from collections.abc import Iterator

from grafana.source import database, delivery, health, overview
from grafana.source.boards import assembled, text

BOARDS = (overview.BOARD, delivery.BOARD, database.BOARD, health.BOARD)


def files() -> Iterator[tuple[str, str]]:
    """Name and JSON text of every dashboard."""
    for board in BOARDS:
        yield f"{board.uid}.json", text(assembled(board))
