"""``docs/http.md``: every route, out of the OpenAPI description that the server itself serves."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from docs.source.text import wrapped
from exporter.web.problems import codes
from exporter.web.routes.openapi import PROBLEMS, document

HEAD = """\
# HTTP routes

This page is made from the server's own description, `/openapi.json`, by `make docs`. Errors are RFC 9457 problem
documents (`application/problem+json`): `type`, `title`, `status`, `detail` and `code` ([all codes](#problems)).

With `--web.metrics-listen-address`, the routes for operations, stats and the admin page are only there.
"""
WHO = {
    (): "anyone",
    ("token",): "a user, by token",
    ("cookie", "token"): "an admin, by token or the page's cookie",
    ("", "basic"): "anyone; with `basic_auth_users`, by password",
    ("", "cookie", "token"): "anyone; an admin sees the figures",
}

MEANINGS = {**PROBLEMS, 500: "A defect of the server: its log has the trace."}


def text() -> str:
    """The whole document."""
    described = document()
    parts = [HEAD]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(f"{method.upper()} {path}", operation, described))
    return "\n".join([*parts, *_problems()])


def _problems() -> Iterator[str]:
    """A row for each status that is an error, with its codes; what no route names has the words of HTTP."""
    yield "## Problems\n\n| status | `code` | meaning |\n| --- | --- | --- |"
    for status, words in codes().items():
        meaning = MEANINGS.get(status, f"{HTTPStatus(status).description}.")
        yield f"| {status} | {', '.join(f'`{word}`' for word in words)} | {meaning} |"
    yield ""


def _operation(title: str, operation: dict[str, Any], described: dict[str, Any]) -> str:
    who = tuple(sorted(next(iter(one), "") for one in operation["security"]))
    lines = [f"## `{title}`\n", wrapped(operation["summary"]), "", f"* Who: {WHO[who]}"]
    for parameter in operation.get("parameters", ()):
        words = str(parameter.get("description", "")).rstrip(".")
        lines.append(wrapped(f"* `{parameter['name']}` ({parameter['in']}): {words}"))
    bodies = operation.get("requestBody", {}).get("content", {}).values()
    lines.extend(wrapped(f"* Takes {_shape(content['schema'])}") for content in bodies)
    problems = []
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            problems.append(status)
        elif status != "default":
            shapes = {_shape(content["schema"]) for content in answer.get("content", {}).values()} - {""}
            lines.append(wrapped(f"* {status}: {answer['description']}" + "".join(f" {shape}" for shape in shapes)))
    if problems:
        lines.append(f"* Problems: {', '.join(problems)}")
    return "\n".join([*lines, ""])


def _shape(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"(`{schema['$ref'].rpartition('/')[2]}`)"
    return ""
