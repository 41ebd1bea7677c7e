"""``GET /openapi.json``: the routes of ``openapi.yaml`` and the shapes of ``schemas``, put together. Knows no handler.

A test walks the router and this description side by side, so that neither has a route that the other lacks.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from exporter import __version__
from exporter.core.protocol import MAX_SEQ
from exporter.web.routes import schemas
from exporter.web.routes.answers import by_path_and_query

Schema = dict[str, Any]

_NAMED: Final = {"Identifier": schemas.Identifier, "Seq": schemas.Seq}
_STRUCTS: Final = [
    value for value in vars(schemas).values() if isinstance(value, type) and value.__module__ == schemas.__name__
]
_SECURITY: Final[dict[str, list[Schema]]] = {
    "user": [{"token": []}],
    "admin": [{"token": []}, {"cookie": []}],
    "page": [{}, {"token": []}, {"cookie": []}],
    "guarded": [{}, {"basic": []}],
    "anyone": [],
}
PROBLEMS: Final = {
    400: "The request is malformed.",
    401: "The token is missing or not valid (or, where basic auth guards, the password).",
    403: "The route is not for this user, this role or this Origin.",
    404: "There is no such conversation, message or member.",
    409: "Something of that name exists.",
    413: "A field or the body is too long.",
    415: "The body is of another type, or compressed.",
    426: "This route is a WebSocket of version 13.",
    429: "This user has too many connections.",
    503: "The database is down or slow, or the server is full, starting or draining. See Retry-After.",
}


@functools.cache
def document(telemetry_path: str = "/metrics") -> Schema:
    """The OpenAPI 3.1 document of a server whose metrics are at ``telemetry_path``. Do not change it: it is shared."""
    import yaml  # here, because a server may never be asked, and it costs 15 ms

    text = resources.files("exporter.web.routes").joinpath("openapi.yaml").read_text(encoding="utf-8")
    routes = yaml.safe_load(text.replace("MAX_SEQ", str(MAX_SEQ)).replace("{telemetry}", telemetry_path))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "messaging-exporter",
            "version": __version__,
            "description": "A WebSocket messaging server that can be seen: live gauges, exact totals, one scrape. "
            "With --web.metrics-listen-address, metrics, health, stats and the admin page are served only there.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(routes),
        "components": {
            "schemas": _shapes(),
            "responses": {str(status): _problem(words) for status, words in PROBLEMS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "messaging_token"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def openapi(telemetry_path: str) -> Handler:
    """The handler: 200 with the document."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(document(telemetry_path))

    return handle


def _shapes() -> Schema:
    """The structs' schemas, with the named scalars as components of their own."""
    _, found = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    named = {name: msgspec.json.schema(kind) for name, kind in _NAMED.items()}
    shapes = {**named, **{name: found[name] for name in sorted(found)}}
    for shape in shapes.values():  # docstrings are reStructuredText, descriptions are CommonMark
        if "description" in shape:
            shape["description"] = shape["description"].replace("``", "`")
    return shapes


def _paths(routes: Schema) -> Schema:
    """Every path; those of users and conversations a second time, with the names in the query (``answers.py``)."""
    paths: Schema = {}
    for path, methods in routes.items():
        paths[path] = _path(methods)
        without = by_path_and_query(path)[1]
        if without != path and path.startswith("/v1/"):
            paths.setdefault(without, {}).update({m: _by_query(o) for m, o in paths[path].items()})
    return paths


def _by_query(operation: Schema) -> Schema:
    parameters = [p | {"in": "query"} if p["in"] == "path" else p for p in operation["parameters"]]
    return operation | {
        "operationId": f"{operation['operationId']}ByQuery",
        "summary": f"{operation['summary'][:-1]}; the names `.` and `..`, and any other, in the query.",
        "parameters": parameters,
    }


def _path(methods: Schema) -> Schema:
    shared = methods.pop("parameters", [])
    return {method: _operation(operation, shared) for method, operation in methods.items()}


def _operation(operation: Schema, shared: list[Schema]) -> Schema:
    """One method of one path. Whatever else goes wrong is a problem document, too."""
    answers, problems = operation.pop("answers"), operation.pop("problems", [])
    operation["security"] = _SECURITY[operation.pop("who")]
    parameters = [_parameter(parameter) for parameter in (*shared, *operation.pop("parameters", ()))]
    if parameters:
        operation["parameters"] = parameters
    if body := operation.pop("body", None):
        kind = "application/x-www-form-urlencoded" if body.endswith("Form") else "application/json"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": _ref(body)}}}
    operation["responses"] = {
        **{str(status): _answer(answer) for status, answer in answers.items()},
        **{str(status): {"$ref": f"#/components/responses/{status}"} for status in problems},
        "default": _problem("Any other error."),
    }
    return operation


def _parameter(parameter: Schema) -> Schema:
    if name := parameter.get("conversation"):
        return _parameter({"in": "path", "name": name, "schema": "Identifier", "description": "The conversation."})
    schema = parameter["schema"]
    return {
        **parameter,
        "required": parameter.get("required", parameter["in"] == "path"),
        "schema": _ref(schema) if isinstance(schema, str) else schema,
    }


def _answer(answer: Schema) -> Schema:
    match answer:
        case {"text": words, "kinds": kinds}:
            return {"description": words, "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}
        case {"json": name, "description": words}:
            schema = {"type": name} if name == "object" else _ref(name)
            content = {"application/json": {"schema": schema}}
            if answer.get("csv"):
                content["text/csv"] = {"schema": {"type": "string"}}
            return {"description": words, "content": content}
        case {"form": words}:  # for scripts a problem document, for a browser without them the form with what was wrong
            content = _problem(words)["content"] | {"text/html": {"schema": {"type": "string"}}}
            return {"description": words, "content": content}
    return answer


def _problem(words: str) -> Schema:
    return {"description": words, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
