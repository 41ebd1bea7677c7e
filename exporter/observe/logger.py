"""Log lines of what observes: structlog's where it is configured, the standard library's in a host's process.

Tested in ``tests/embed/test_examples.py``.
"""

from __future__ import annotations

import logging
from functools import partialmethod
from typing import Any

import structlog


class Logger:
    """``event`` and values, under one name. In a host that never heard of structlog nothing is printed by it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _log(self, level: int, event: str, **values: Any) -> None:
        if structlog.is_configured():
            structlog.get_logger(self._name).log(level, event, **values)
            return
        words = " ".join([event, *(f"{name}={value}" for name, value in values.items() if value != "")])
        logging.getLogger(self._name).log(level, "%s", words)

    debug = partialmethod(_log, logging.DEBUG)
    info = partialmethod(_log, logging.INFO)
    warning = partialmethod(_log, logging.WARNING)
