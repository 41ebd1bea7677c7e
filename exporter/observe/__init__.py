"""Totals of the messaging servers that people already run, read from their databases without doing harm.

``SourceCollector`` gives records; who shows them is elsewhere: no HTTP and no metric is known here. Imports core,
settings, and how the store finds and reaches a database; only ``connections`` knows drivers.
"""

from __future__ import annotations

from exporter.observe.counting import count_once
from exporter.observe.records import SourceTotals

__all__ = ["SourceTotals", "count_once"]
