"""Real servers for the broker's tests: Valkey from the wheel and Redis 7.0, one of each for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.valkey import KINDS, Server, running

BOTH = [pytest.param(kind, marks=pytest.mark.needs(kind)) for kind in KINDS]


@pytest.fixture(scope="module", params=BOTH)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server, shared by the tests of a module: each uses a cluster name of its own."""
    with running(request.param) as started:
        yield started
