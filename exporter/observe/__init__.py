"""Totals of the messaging servers that people already run, read from their databases without doing harm.

The engine knows no HTTP and no metric: ``SourceCollector`` gives records, ``serving`` shows them. Imports core, settings
and store's locations and errors; only ``connections`` knows drivers, only ``serving`` knows metrics, auth and web.
"""

from __future__ import annotations

from exporter.observe.counting import count_once
from exporter.observe.records import SourceTotals

__all__ = ["SourceTotals", "count_once"]
