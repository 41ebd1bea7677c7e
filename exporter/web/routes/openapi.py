"""``GET /openapi.json``: a description of every route, as plain data. Knows shapes; knows no handler.

A test walks the router and this description side by side, so that neither has a route that the other lacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from exporter import __version__
from exporter.core.protocol import MAX_SEQ
from exporter.web.routes.openapi_schemas import SCHEMAS, Schema, listing, ref

_BASE: Final = "/v1/messaging"
_USER: Final[list[Schema]] = [{"token": []}]
_ADMIN: Final[list[Schema]] = [{"token": []}, {"cookie": []}]
_GUARDED: Final[list[Schema]] = [{}, {"basic": []}]
_ANYONE: Final[list[Schema]] = []
_WORDS: Final = {
    400: "The request is malformed.",
    401: "No valid token (or, where basic auth guards, no valid password).",
    403: "Not for this user, this role or this Origin.",
    404: "No such conversation, message or member.",
    409: "Something of that name exists.",
    415: "The body is of another type, or compressed.",
    413: "A field or the body is too long.",
    426: "This is a WebSocket of version 13.",
    429: "Too many connections of this user.",
    503: "Not now: the database is down or slow, the server is full, starting or draining. See Retry-After.",
}


def document(telemetry_path: str = "/metrics") -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server whose metrics are at ``telemetry_path``."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "messaging-exporter",
            "version": __version__,
            "description": "A WebSocket messaging server that can be seen: live gauges, exact totals, one scrape. "
            "With --web.metrics-listen-address, metrics, health, stats and the admin page are served only there.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_operations(telemetry_path), **_stats(), **_messaging(), **_admin()},
        "components": {
            "schemas": SCHEMAS,
            "responses": {str(status): _problem(words) for status, words in _WORDS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "messaging_token"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


# --- building blocks ----------------------------------------------------------------------------------------


def _problem(words: str) -> Schema:
    return {"description": words, "content": {"application/problem+json": {"schema": ref("Problem")}}}


def _operation(
    id: str,
    summary: str,
    answers: dict[int, Schema],
    *problems: int,
    security: list[Schema],
    parameters: list[Schema] | None = None,
    body: Schema | None = None,
    tag: str,
) -> Schema:
    """One method of one path; whatever else goes wrong is a problem document, too."""
    responses: Schema = {str(status): answer for status, answer in answers.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in problems}
    operation: Schema = {"operationId": id, "summary": summary, "tags": [tag], "security": security}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation | {"responses": responses | {"default": _problem("Any other error.")}}


def _json(words: str, schema: str) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": ref(schema)}}}


def _text(words: str, *kinds: str) -> Schema:
    return {"description": words, "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}


def _empty(words: str) -> Schema:
    return {"description": words}


def _path(name: str, schema: Schema, words: str = "") -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": words}


def _query(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": words}


def _header(name: str, schema: Schema, words: str, *, required: bool = False) -> Schema:
    return {"name": name, "in": "header", "required": required, "schema": schema, "description": words}


# --- the routes ---------------------------------------------------------------------------------------------


def _operations(telemetry_path: str) -> Schema:
    metrics = _text("One scrape.", "text/plain", "application/openmetrics-text")
    names = _query("name[]", listing({"type": "string"}), "Only these families or series.")
    timeout = _header("X-Prometheus-Scrape-Timeout-Seconds", {"type": "string"}, "How long the scraper waits.")
    return {
        "/": {
            "get": _operation(
                "landing",
                "Name, version and links",
                {200: _text("The page.", "text/html")},
                401,
                security=_GUARDED,
                tag="operations",
            )
        },
        telemetry_path: {
            "get": _operation(
                "metrics",
                "Metrics in the text format 0.0.4, or OpenMetrics 1.0.0 where that is preferred",
                {200: metrics},
                401,
                503,
                security=_GUARDED,
                parameters=[names, timeout],
                tag="operations",
            )
        },
        "/-/healthy": {
            "get": _operation(
                "healthy", "The process answers", {200: _text("Yes.", "text/plain")}, security=_ANYONE, tag="operations"
            )
        },
        "/-/ready": {
            "get": _operation(
                "ready",
                "Are connections wanted?",
                {200: _text("Yes.", "text/plain")},
                503,
                security=_ANYONE,
                tag="operations",
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This description",
                {200: {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}},
                security=_ANYONE,
                tag="operations",
            )
        },
    }


def _stats() -> Schema:
    return {
        f"{_BASE}/stats": {
            "get": _operation(
                "stats",
                "The figures of /metrics as JSON",
                {200: _json("The figures.", "Stats")},
                401,
                403,
                security=_ADMIN,
                tag="stats",
            )
        },
        f"{_BASE}/stats/history": {
            "get": _operation(
                "history",
                "The last hour, for charts",
                {200: _json("The last hour.", "History")},
                401,
                403,
                security=_ADMIN,
                tag="stats",
            )
        },
    }


def _messaging() -> Schema:
    conversations, one = f"{_BASE}/conversations", f"{_BASE}/conversations/{{id}}"
    id = _path("id", ref("Identifier"), "The conversation.")
    return {
        f"{_BASE}/ws": {"get": _websocket()},
        conversations: {
            "get": _operation(
                "myConversations",
                "The conversations of which I am a member",
                {200: _json("All of them.", "Conversations")},
                401,
                503,
                security=_USER,
                tag="conversations",
            ),
            "post": _operation(
                "createConversation",
                "Begin a conversation; the creator is a member",
                {201: _json("The conversation.", "Conversation")},
                *(400, 401, 409, 413, 503),
                security=_USER,
                body={"application/json": {"schema": ref("NewConversation")}},
                tag="conversations",
            ),
        },
        f"{one}/participants": {
            "post": _operation(
                "addParticipants",
                "Make users members",
                {201: _json("The conversation.", "Conversation")},
                *(400, 401, 403, 404, 413, 503),
                security=_USER,
                parameters=[id],
                body={"application/json": {"schema": ref("NewParticipants")}},
                tag="conversations",
            )
        },
        f"{one}/participants/{{user}}": {
            "delete": _operation(
                "removeParticipant",
                "End a membership; the user's connections leave at once",
                {204: _empty("Done.")},
                *(400, 401, 403, 404, 413, 503),
                security=_USER,
                parameters=[id, _path("user", ref("Identifier"), "The member.")],
                tag="conversations",
            )
        },
        f"{one}/messages": {
            "get": _operation(
                "messages",
                "Messages after a seq, the oldest first",
                {200: _json("The messages.", "Messages")},
                *(400, 401, 403, 404, 413, 503),
                security=_USER,
                parameters=[
                    id,
                    _query(
                        "after",
                        {"type": "integer", "minimum": 0, "maximum": MAX_SEQ, "default": 0},
                        "The last seq known.",
                    ),
                    _query(
                        "limit",
                        {"type": "integer", "minimum": 1, "maximum": MAX_SEQ, "default": 100},
                        "At most 1,000 are given.",
                    ),
                ],
                tag="conversations",
            )
        },
        f"{one}/messages/{{seq}}": {
            "delete": _operation(
                "deleteMessage",
                "Delete a message, as its sender or an admin; totals fall by one",
                {204: _empty("Done.")},
                *(400, 401, 403, 404, 413, 503),
                security=_USER,
                parameters=[id, _path("seq", ref("Seq"), "The message.")],
                tag="conversations",
            )
        },
    }


def _websocket() -> Schema:
    return _operation(
        "websocket",
        "The WebSocket, subprotocol messaging.v1; browsers offer `bearer.<token>` as a second subprotocol",
        {101: _empty("The connection is a WebSocket now.")},
        *(400, 401, 403, 426, 429, 503),
        security=_USER,
        parameters=[
            _header("Upgrade", {"const": "websocket"}, "", required=True),
            _header("Sec-WebSocket-Version", {"const": "13"}, "", required=True),
            _header("Sec-WebSocket-Key", {"type": "string"}, "16 bytes in base64.", required=True),
            _header("Sec-WebSocket-Protocol", {"type": "string"}, "`messaging.v1`, `bearer.<token>`, or nothing."),
            _header("Origin", {"type": "string"}, "A browser's; see --auth.allowed-origins."),
        ],
        tag="messaging",
    )


def _admin() -> Schema:
    page = _text("The page, or the sign-in form.", "text/html")
    form = _form()
    return {
        "/admin": {
            "get": _operation("admin", "The page", {200: page}, security=[{}, *_ADMIN], tag="admin"),
        },
        "/admin/": {
            "get": _operation(
                "adminSlash", "Leads to /admin", {308: _empty("To /admin.")}, security=_ANYONE, tag="admin"
            )
        },
        "/admin/sign-in": {
            "get": _operation(
                "signInPage", "Leads to /admin", {303: _empty("To /admin.")}, security=_ANYONE, tag="admin"
            ),
            "post": _operation(
                "signIn",
                "Exchange an admin's token for an HttpOnly cookie",
                {
                    200: _json("Signed in (for Accept: application/json).", "SignedIn"),
                    303: _empty("Signed in: to /admin."),
                    **{status: _form_or_problem(status) for status in (400, 401, 403, 415)},
                },
                security=_ANYONE,
                body=form,
                tag="admin",
            ),
        },
        "/admin/sign-out": {
            "post": _operation(
                "signOut",
                "Give the cookie back",
                {204: _empty("Signed out (for Accept: application/json)."), 303: _empty("Signed out: to /admin.")},
                403,
                security=_ANYONE,
                tag="admin",
            )
        },
        "/admin/static/{name}": {
            "get": _operation(
                "static",
                "A file of the page",
                {200: _text("The file.", "text/css", "text/javascript", "image/svg+xml"), 304: _empty("Unchanged.")},
                404,
                security=_ANYONE,
                parameters=[_path("name", {"type": "string"})],
                tag="admin",
            )
        },
    }


def _form() -> Schema:
    schema = {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]}
    return {"application/x-www-form-urlencoded": {"schema": schema}}


def _form_or_problem(status: int) -> Schema:
    """For scripts a problem document, for a browser without them the form with what was wrong."""
    content = _problem("")["content"] | {"text/html": {"schema": {"type": "string"}}}
    return {"description": _WORDS[status], "content": content}


def openapi(telemetry_path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of ``GET /openapi.json``: the description of all routes."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(document(telemetry_path))

    return handle
