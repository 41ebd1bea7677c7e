"""Log lines of what observes: structlog's where it is configured, the standard library's in a host's process.

Tested in ``tests/embed/test_examples.py``.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog


class Logger:
    """``event`` and values, under one name. In a host that never heard of structlog nothing is printed by it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _log(self, level: int, event: str, values: dict[str, Any]) -> None:
        if structlog.is_configured():
            structlog.get_logger(self._name).log(level, event, **values)
            return
        trace = values.pop("exc_info", False)
        words = " ".join([event, *(f"{name}={value}" for name, value in values.items() if value != "")])
        logging.getLogger(self._name).log(level, "%s", words, exc_info=trace)

    def debug(self, event: str, **values: Any) -> None:
        """For whoever looks closely."""
        self._log(logging.DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        """As things should be."""
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Somebody should know."""
        self._log(logging.WARNING, event, values)

    def error(self, event: str, **values: Any) -> None:
        """Somebody should act."""
        self._log(logging.ERROR, event, values)

    def exception(self, event: str, **values: Any) -> None:
        """A defect, with its trace."""
        self._log(logging.ERROR, event, {**values, "exc_info": True})
