"""A user without rights is told which to grant, in statements that can be pasted; with them every figure is right."""

from __future__ import annotations

import pytest

from exporter.observe import count_once
from exporter.observe.check import ALL_WELL, UNCHECKED, check
from exporter.observe.sources import Source
from tests.observe.test_real_databases import TRUTHS, expected, figures, load, moment
from tests.servers.postgres import Postgres

DATABASES = [("ejabberd", "default_schema"), ("ejabberd", "new_schema"), ("prosody", "hashed"), ("synapse", "alone")]


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(("kind", "name"), DATABASES)
async def test_the_statements_that_check_prints_are_enough_and_open_no_secret(
    kind: str, name: str, postgres: Postgres
) -> None:
    database = await load(postgres, kind, name)
    role = f"reader_{database}"
    postgres.psql(f"CREATE ROLE {role} LOGIN")
    source = Source(postgres.url(database, role), kind)
    lines: list[str] = []
    assert await check(source, out=lines.append) == UNCHECKED
    statements = [line.strip() for line in lines if line.strip().startswith("GRANT ")]
    assert statements, lines
    postgres.psql(" ".join(statements), database)

    lines.clear()
    assert await check(source, out=lines.append) == ALL_WELL, lines
    truth = TRUTHS[kind, "postgresql", name]
    assert figures(await count_once(source.url, kind, now=moment(truth))) == expected(kind, truth)
    secret = {"ejabberd": "password FROM users", "prosody": "value FROM prosody", "synapse": "password_hash FROM users"}
    with pytest.raises(AssertionError, match="permission denied"):
        postgres.psql(f"SELECT {secret[kind]}", database, role)
