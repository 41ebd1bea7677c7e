"""docs/operations.md: its back-ups are taken and restored as written, from databases that are in use."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.test_commands import typed
from tests.servers.exporter import ROOT, running
from tests.servers.postgres import Postgres, find_binaries

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL)
SQLITE_BACKUP, SQLITE_RESTORE, PG_BACKUP, PG_RESTORE = BLOCKS


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """``messaging-exporter`` and PostgreSQL's programs are on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "messaging-exporter"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m exporter "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
    path = [str(programs), str(find_binaries() or programs), os.environ["PATH"]]
    return kept | {"PATH": ":".join(path), "PYTHONPATH": str(ROOT)}


async def typed_well(commands: str, shell: dict[str, str], folder: Path) -> str:
    status, out, errors = await typed(f"set -e\n{commands}", shell, folder)
    assert status == 0, out + errors
    return out


@pytest.mark.needs("sqlite3")
async def test_a_copy_of_sqlite_in_use_has_everything_that_was_acknowledged(
    tmp_path: Path, shell: dict[str, str]
) -> None:
    async with running(tmp_path) as exporter:
        await exporter.conversation("room", "ann")
        ann = await exporter.connect("ann")
        await ann.join("room")
        for number in range(5):
            await ann.say("room", "hello", str(number))
        await typed_well(SQLITE_BACKUP, shell, tmp_path)
        await ann.say("room", "after the back-up", "5")
        await ann.close()
        assert await exporter.stop() == 0
        assert "all figures agree" in await typed_well(SQLITE_RESTORE, shell, tmp_path)
        await exporter.start()
        assert (await exporter.scrape())["messaging_stored_messages"] == 5


@pytest.mark.needs("postgres")
async def test_a_dump_of_postgresql_restores_into_an_empty_database_with_its_totals(
    tmp_path: Path, shell: dict[str, str], postgres: Postgres
) -> None:
    if shutil.which("pg_restore", path=shell["PATH"]) is None:
        pytest.skip("this PostgreSQL came without pg_restore")
    full, empty = (postgres.url(postgres.create_database()) for _ in range(2))
    async with running(tmp_path / "one", environment={"MESSAGING_DATABASE_URL": full}) as exporter:
        await exporter.conversation("room", "ann")
        ann = await exporter.connect("ann")
        await ann.join("room")
        for number in range(5):
            await ann.say("room", "hello", str(number))
        await ann.close()
        variables = shell | {"DATABASE": full, "EMPTY": empty, "MESSAGING_DATABASE_URL": empty}
        await typed_well(PG_BACKUP, variables, tmp_path)
    assert "all figures agree" in await typed_well(PG_RESTORE, variables, tmp_path)
    async with running(tmp_path / "two", environment={"MESSAGING_DATABASE_URL": empty}) as restored:
        figures = await restored.scrape()
        assert (figures["messaging_stored_messages"], figures["messaging_messages_today"]) == (5, 5)
