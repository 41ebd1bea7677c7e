"""A WebSocket messaging server that can be seen: live gauges, exact totals, one scrape."""

__version__ = "0.1.0"
