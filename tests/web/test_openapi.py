"""The OpenAPI description: valid, and about exactly the routes that the server has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from exporter.core.protocol import MAX_IDENTIFIER
from exporter.web.routes.openapi import document
from tests.servers.exporter import in_process


def test_the_description_is_valid() -> None:
    validate(document())


def test_every_operation_has_a_name_of_its_own_and_answers_errors_with_problems() -> None:
    names = []
    for path in document()["paths"].values():
        for operation in path.values():
            names.append(operation["operationId"])
            assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}
            assert operation["security"] is not None
    assert len(names) == len(set(names))


def test_the_limits_are_those_of_the_protocol() -> None:
    assert document()["components"]["schemas"]["Identifier"]["maxLength"] == MAX_IDENTIFIER


@pytest.mark.parametrize("telemetry", ["/metrics", "/internal/metrics"])
async def test_the_routes_described_are_the_routes_there_are(telemetry: str, tmp_path: Path) -> None:
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, operations in document(telemetry)["paths"].items()
        for method in operations
    }
    async with in_process(tmp_path, telemetry_path=telemetry) as here:
        status, served, _ = await here.get("/openapi.json")
        assert (status, served) == (200, document(telemetry))
        there = set()
        for runner in here.server.listeners._runners:
            for route in runner.app.router.routes():
                assert route.resource is not None
                formatter = route.resource.get_info().get("formatter", route.resource.canonical)
                if route.method not in ("HEAD", "OPTIONS"):
                    there.add((route.method, re.sub(r"\{\w+\}", "{}", formatter)))
    assert there == described
