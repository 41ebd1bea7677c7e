"""Errors over HTTP: RFC 9457 problem documents, whatever went wrong. Knows no route and no state.

A problem names a status, a code from the vocabulary of the wire and a sentence. Nothing that a client sent
comes back in it, so nothing needs escaping; nothing is HTML; an unexpected exception is logged once with
its trace and shown as ``internal`` without it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError
from aiohttp.typedefs import Handler, Middleware

from exporter.core.errors import Conflict, ErrorCode, Refusal

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "5"  # seconds; the database's time-out, so that a retry does not meet the same outage at once
# Seconds for a request with a body, handler included: 1 MiB, the most that is read, comes at 35 kB/s. A body that
# never comes would hold its connection and its memory for ever.
BODY_TIME = 30.0

_STATUS: Final = {
    ErrorCode.BAD_FRAME: 400,
    ErrorCode.UNKNOWN_TYPE: 400,
    ErrorCode.NOT_JOINED: 403,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
# What aiohttp raises or answers by itself, in the words of the wire.
_CODE: Final = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    411: "bad_request",
    413: "too_large",
    415: "unsupported_media_type",
    417: "bad_request",
    426: "upgrade_required",
    429: "rate_limited",
    431: "too_large",
    500: "internal",
    503: "unavailable",
}
_DETAIL: Final = {
    404: "no such page",
    405: "this method is not for this page; the Allow header names those that are",
    413: "the request body is too large",
    500: "something went wrong here; it is in the log",
}
_KEPT_HEADERS: Final = ("Allow", "WWW-Authenticate", "Retry-After", "Upgrade", "Connection", "Sec-WebSocket-Version")
_log = structlog.get_logger("http")


def codes() -> dict[int, list[str]]:
    """Status to the codes that a problem document of that status may have."""
    found = {status: {code} for status, code in _CODE.items()}
    for code, status in _STATUS.items():
        if code not in (ErrorCode.UNKNOWN_TYPE, ErrorCode.NOT_JOINED):  # of a WebSocket alone
            found[status].add(code.value)
    return {status: sorted(words) for status, words in sorted(found.items())}


class Problem(Exception):
    """A refusal over HTTP. ``detail`` is shown as it is: no secret in it, and nothing that the client sent."""

    def __init__(
        self, status: int, detail: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or _CODE.get(status, "internal" if status >= 500 else "bad_request")
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, refusal: Refusal) -> Problem:
        """The problem that says over HTTP what the ``error`` frame says over a WebSocket."""
        if isinstance(refusal, Conflict):
            return cls(409, refusal.message)
        status = _STATUS[refusal.code]
        return cls(status, refusal.message, code=refusal.code.value)

    def response(self) -> web.Response:
        """The answer: ``application/problem+json``, never cached, never sniffed."""
        document = {
            "type": "about:blank",  # RFC 9457 section 4.2.1: the title is then the phrase of the status
            "title": _phrase(self.status),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **self.headers}
        headers["Content-Type"] = CONTENT_TYPE
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("Retry-After", RETRY_AFTER)
        return web.Response(status=self.status, body=json.dumps(document).encode(), headers=headers)


def problems() -> Middleware:
    """The middleware that turns every error into a problem document; put it outside all that may raise."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if "Content-Encoding" in request.headers:
                raise Problem(415, "request bodies are taken uncompressed")
            if not request.can_read_body:
                return await handler(request)
            return await _in_time(request, handler)
        except Problem as problem:
            return _answer(request, problem)
        except Refusal as refusal:
            return _answer(request, Problem.of(refusal))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _answer(request, of_http(error))
        except (web.RequestPayloadError, PayloadEncodingError):  # the second of aiohttp's parser without its extensions
            answer = _answer(request, Problem(400, "the request body is malformed"))
            answer.force_close()  # where the next request begins cannot be told
            return answer
        except Exception as error:  # whatever a handler forgot: the process goes on, and the log says where
            if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
                raise  # the client went away: there is nobody to answer, and nothing of ours went wrong
            route = request.match_info.route.resource  # not the path, which names users and conversations
            path = route.canonical if route is not None else "unknown"
            _log.error("request failed", method=request.method, path=path, exc_info=error)
            return _answer(request, Problem(500, _DETAIL[500]))

    return middleware


async def _in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer; raises a Problem of status 408 when that takes longer than a body may."""
    deadline = asyncio.timeout(BODY_TIME)
    try:
        async with deadline:
            return await handler(request)
    except TimeoutError as error:
        if not deadline.expired():  # one of the handler's own
            raise
        raise Problem(408, f"the request took longer than {BODY_TIME:g} seconds") from error


def _answer(request: web.Request, problem: Problem) -> web.StreamResponse:
    """The problem as a response, unless part of another answer has already left: then only the end is left."""
    if request.writer.output_size:
        raise ConnectionResetError("an answer had already begun")
    return problem.response()


def of_http(error: web.HTTPException) -> Problem:
    """One of aiohttp's own refusals, without their HTML or text, which may repeat what the client sent."""
    headers = {name: error.headers[name] for name in _KEPT_HEADERS if name in error.headers}
    return Problem(error.status, _DETAIL.get(error.status, _phrase(error.status).lower()), headers=headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
