"""One line per event on stderr, logfmt or JSON. Knows no settings object and nothing of what is logged.

Whatever reaches a line is made safe on the way: what looks like a secret is masked, control characters are
escaped, so that no client can forge a line or move a terminal's cursor. Masking is the last defence; the
first is not to log secrets.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from exporter.core.redaction import MASK, mask, printable

MAX_VALUE: Final = 16_384  # characters of one value; a trace is longer only when something recurses

_STDLIB_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET_KEY: Final = re.compile(r"passw|secret|token|authorization|cookie|credential", re.IGNORECASE)


def configure(level: str = "info", format: str = "logfmt", stream: TextIO | None = None, **every: object) -> None:
    """Send everything, the libraries' lines too, to ``stream`` (stderr) at ``level`` and above.

    ``every`` are fields of every line, such as which worker it is from.
    """
    number = _STDLIB_LEVELS[level]
    out = stream if stream is not None else sys.stderr
    before: list[structlog.types.Processor] = [
        lambda logger, method, event: {**event, **every},
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        _safe,
    ]
    renderer = _renderer(format)
    structlog.configure(
        processors=[*before, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_LoggerFactory(out),
        cache_logger_on_first_use=False,  # a logger made at import time follows a later configure()
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_not_garbage)
    handler.addFilter(_not_of_the_limit)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING) if number > logging.DEBUG else logging.DEBUG)
    for name in ("asyncio", "aiosqlite", "sqlalchemy"):  # chatty at debug, and they show statements
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk behind stderr is no reason for traces on stderr


def _safe(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that masks, escapes and shortens every value."""
    for key, value in event.items():
        event[key] = MASK if key != "event" and _SECRET_KEY.search(key) else _safe_value(value)
    return event


def _safe_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_safe_value(item) for item in value]
    text = printable(mask(str(value)))
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def _renderer(format: str) -> structlog.types.Processor:
    if format == "json":
        return structlog.processors.JSONRenderer(sort_keys=False)
    logfmt = structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)

    def render(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        flat = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in event.items()}
        return logfmt(logger, method, flat)

    return render


def _not_garbage(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered with 400 and is the peer's affair: a port scan must not fill the disk."""
    if record.name != "aiohttp.server" or not record.exc_info:
        return True
    error = record.exc_info[0]
    if error is None or issubclass(error, ConnectionError):  # the latter: it hung up before the answer
        return error is None
    # RequestPayloadError: a body that its headers belie, found when what is left of it is read and thrown away.
    return not (error.__module__.startswith("aiohttp.http") or error.__name__ == "RequestPayloadError")


def _not_of_the_limit(record: logging.LogRecord) -> bool:
    """asyncio's trace of each attempt to accept where no file may be opened: the server says it once."""
    if record.name != "asyncio" or not record.getMessage().startswith("socket.accept() out of system resource"):
        return True
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE)


class _LoggerFactory:
    """Writes whole lines; a reader that went away (a closed pipe) takes nothing down."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *args: Any) -> _LoggerFactory:
        return self

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = warn = error = critical = exception = fatal = log = msg
