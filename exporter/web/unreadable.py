"""What is wrong with what cannot be read as HTTP, as far as aiohttp's parser says. Repeats nothing of it.

Tested in ``tests/web/test_aiohttp_seams.py``.
"""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from exporter.web.problems import Problem

log = structlog.get_logger("http")

# What aiohttp reads of a request's head by itself; told to whoever sends more.
MAX_LINE: Final = 8_190  # bytes
MAX_HEADERS: Final = 128
_PROXY: Final = (
    "this begins with a PROXY protocol header, which is not understood here: let the proxy send X-Forwarded-For "
    "instead (HAProxy: without send-proxy; nginx: without proxy_protocol)"
)
# What aiohttp's parser says, and what it means here. The first of them are whole proxies or clients set up for
# something else: they are logged, once each.
_SETUPS: Final = {
    "b'PROXY TCP": _PROXY,
    "b'PROXY UNKNOWN": _PROXY,
    r"b'\x00'": _PROXY,  # version 2 begins with line ends, which are passed over, and a NUL
    "HTTPS traffic on an HTTP port": (
        "this is TLS, and plain HTTP is spoken here: use http://, or set tls_server_config in --web.config.file"
    ),
    "Pause on PRI/Upgrade": "this is HTTP/2, and HTTP/1.1 is spoken here: let the proxy speak HTTP/1.1 to this server",
}
_CHUNKS: Final = "the request body does not come in the chunks that Transfer-Encoding tells of"
_REASONS: Final = {
    **_SETUPS,
    "Duplicate 'Host'": "there are two Host headers",
    "Missing 'Host'": "there is no Host header",
    "Duplicate Content-Length": "there are two Content-Length headers",
    "Invalid character in Content-Length": "Content-Length is not a number",
    "Transfer-Encoding`": "of the transfer codings only chunked is known here",
    "chunk size": _CHUNKS,
    "after chunk data": _CHUNKS,
    "can't be present with": "Content-Length and Transfer-Encoding exclude each other",
    "Invalid header token": "a header's name holds a character that it may not",
    "Invalid header value char": "a header holds a control character",
    "Invalid char in url": "the address holds what has to be percent-encoded, such as ë as %C3%AB",
}
_said: Final[set[str]] = set()


def problem_of(exc: BaseException | None, remote: str | None) -> Problem:
    """What kept aiohttp from reading a request, as far as it says."""
    if isinstance(exc, LineTooLong):  # a token of 12 KB, more often than anything else
        limit = exc.args[1] if len(exc.args) > 1 else MAX_LINE
        return Problem(431, f"the request line or a header line is longer than {limit} bytes")
    if isinstance(exc, BadHttpMessage) and "many headers" in str(exc.message).lower():
        return Problem(431, f"the request has more than {MAX_HEADERS} headers")
    said = str(exc.message) if isinstance(exc, BadHttpMessage) else ""
    reason = next((words for part, words in _REASONS.items() if part in said), "this cannot be read as HTTP")
    if reason in _SETUPS.values() and reason not in _said:
        _said.add(reason)
        log.warning("a request cannot be read", reason=reason, peer=remote)
    return Problem(400, reason)
