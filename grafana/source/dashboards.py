"""All dashboards: file name and text."""

from __future__ import annotations

from collections.abc import Iterator

from grafana.source import database, delivery, health, overview, source
from grafana.source.boards import assembled, text
from grafana.source.v2 import assembled_v2

BOARDS = (overview.BOARD, delivery.BOARD, database.BOARD, health.BOARD, source.BOARD)


def files() -> Iterator[tuple[str, str]]:
    """Name and JSON text of every dashboard, in Grafana's first schema."""
    for board in BOARDS:
        yield f"{board.uid}.json", text(assembled(board))


def files_v2() -> Iterator[tuple[str, str]]:
    """The same in its second."""
    for board in BOARDS:
        yield f"{board.uid}.json", text(assembled_v2(board))
