"""Medians, spread and plain tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sample:
    """The values of one cell, one per round."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else float("nan")

    def show(self, digits: int = 2) -> str:
        """``median (least–most)``"""
        if not self.values:
            return "–"
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f}–{max(self.values):.{digits}f})"


def busy(answer: dict[str, Any]) -> str:
    """How busy the server's and the load's cores were during a command."""
    return f"{answer['server_cpu'] / answer['seconds']:.0%} / {answer['client_cpu'] / answer['seconds']:.0%}"


def ratio(a: Sequence[float], b: Sequence[float]) -> Sample:
    """Round by round a / b: what disturbed one round disturbed both."""
    return Sample([x / y for x, y in zip(a, b, strict=False) if y])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join(
        [line(head), "| " + " | ".join("-" * width for width in widths) + " |", *(line(row) for row in rows)]
    )
