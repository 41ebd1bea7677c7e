"""What routes have in common: answers, numbers of the query, names in the path or in the query. Knows no state.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from exporter.core.errors import BadFrame
from exporter.core.protocol import check_identifier
from exporter.metrics.negotiation import wants_gzip
from exporter.web.problems import Problem

NO_STORE: Final = {"Cache-Control": "no-store"}
JSON: Final = NO_STORE | {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
IMPOSSIBLE_TOTAL: Final = "a conversation's total is below 0, which cannot be: run 'messaging-exporter verify --repair'"


def answer(document: Any, status: int = 200) -> web.Response:
    """JSON, of this moment only. ``document`` is what msgspec encodes, or bytes that are JSON already."""
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return web.Response(status=status, body=body, headers=JSON)


def compress(request: web.Request, response: web.Response) -> None:
    """Send it compressed to whoever accepts that: aiohttp looks for the word ``gzip`` alone, and not at its weight."""
    if wants_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
        response.enable_compression(web.ContentCoding.gzip)


def number(request: web.Request, name: str, default: int, highest: int) -> int:
    """A number from 1 to ``highest`` out of the query; raises a Problem of status 400 for anything else."""
    given = request.query.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) <= 9 and 1 <= int(given) <= highest):
        raise Problem(400, f"{name} is a number from 1 to {highest}")
    return int(given)


def by_path_and_query(path: str) -> tuple[str, str]:
    """The path with names in it, and the same without: there they come in the query.

    URL libraries and browsers take the segments ``.`` and ``..`` away, and some proxies decode ``%2F``; users and
    conversations may have such names.
    """
    return path, re.sub(r"/\{[^/]*\}", "", path.replace("[^/]+", ""))


def identifier(request: web.Request, name: str, *, required: bool = True) -> str:
    """An identifier out of the path, or out of the query; raises a Refusal when it is none.

    Empty when it is not there and not ``required``.
    """
    try:
        unquote_to_bytes(request.path_qs).decode()
    except UnicodeError:  # it would be replaced, and then be the name of somebody else
        raise BadFrame("the address holds bytes that are not UTF-8") from None
    value = request.match_info.get(name) or request.query.get(name, "")
    if value or required:
        check_identifier(value, name)
    return value
