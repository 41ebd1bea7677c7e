"""``python -m tests.observe.make_data.watched``: the figures while people are at it, on running servers.

A source is counted once, before the last day of the history. From then on only what is new is read, several times a
second, while the drive does all that it can do. In the end the figures are compared with the ledger's, and with a full
count: what that corrects is printed. Rows that vanish are what a full count is for; all else should be right without.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

from exporter.observe.engine import Engine
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe.make_data.drive_synapse import SynapseDrive
from tests.observe.make_data.drive_xmpp import NOW, Drive
from tests.observe.make_data.install import install
from tests.observe.make_data.ledger import Ledger
from tests.observe.make_data.synapse import Synapse
from tests.servers.postgres import Postgres
from tests.servers.xmpp_servers import Ejabberd, Prosody

PAUSE = 0.2
"""Seconds between two looks."""


class Watch:
    """An observer of one database, with the clock of its server, which is about to be started."""

    def __init__(self, source: Source, when: datetime) -> None:
        shift = when.timestamp() - time.time()
        self.engine = Engine(source, State(None), load=1.0, clock=lambda: time.time() + shift)
        self.looks = self.failures = 0
        self._watching: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Count, and look from now on."""
        await self.engine.count()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                await self.engine.look()
                self.looks += 1
            except SourceError:
                self.failures += 1
                with contextlib.suppress(SourceError):
                    await self.engine.open()
            await asyncio.sleep(PAUSE)

    async def end(self, truth: dict[str, Any], active: str = "active_users") -> str:
        """The last look, and what a full count says to it."""
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        try:
            known = _figures(await self.engine.look())
            counted = _figures(await self.engine.count())
        finally:
            await self.engine.close()
        wanted = {name: truth[name] for name in ("messages", "messages_today", "conversations", "registered_users")}
        wanted |= truth[active]
        off = {name: known[name] - value for name, value in wanted.items() if known[name] != value}
        left = {name: counted[name] - value for name, value in wanted.items() if counted[name] != value}
        return f"{self.looks} looks, {self.failures} failed; off before a full count: {off}; after it: {left}"


def _url(server: Ejabberd | Prosody | Synapse) -> str:
    if server.database is None:
        return f"sqlite:///{server.file}"
    port, name = server.database
    return f"postgresql://postgres@127.0.0.1:{port}/{name}"


def _figures(totals: SourceTotals) -> dict[str, Any]:
    return {
        "messages": totals.stored_messages,
        "messages_today": totals.messages_today,
        "conversations": totals.stored_conversations,
        "registered_users": totals.registered_users,
        **{f"{days}d": number for days, number in totals.active_users.items()},
    }


async def xmpp(server: Ejabberd | Prosody, postgres: Postgres | None) -> str:
    """The whole drive; watched from the last day on."""
    try:
        if postgres is not None and isinstance(server, Ejabberd):
            assert server.database is not None
            postgres.psql(server.schema_sql(), server.database[1])
        ledger = Ledger()
        drive = Drive(server, ledger)
        await drive.run()
        url = _url(server)
        start = NOW - timedelta(hours=2)
        watch = Watch(Source(url, server.name), start)
        await watch.begin()
        await drive.on(start, drive.today, stop=False)
        async with AsyncExitStack() as stack:
            await drive.living_room(stack)
            active = "active_users_outside_rooms" if server.name == "prosody" else "active_users"
            return await watch.end(ledger.truth(NOW), active)
    finally:
        server.close()


async def synapse(server: Synapse) -> str:
    """The whole drive; watched from the last day on."""
    try:
        server.prepare()
        drive = SynapseDrive(server)
        url = _url(server)
        watch: Watch | None = None
        on = drive.on

        async def watched(when: datetime, what: Any) -> None:
            nonlocal watch
            if what == drive.today:
                watch = Watch(Source(url, "synapse"), when)
                await watch.begin()
            await on(when, what)

        drive.on = watched
        await drive.run()
        assert watch is not None
        return await watch.end(drive.ledger.truth(NOW))
    finally:
        server.close()


async def main() -> None:
    for kind in ("ejabberd", "prosody", "synapse"):
        install(kind)
    postgres = Postgres(fsync="off")
    try:
        postgres.start()
        for engine in ("sqlite", "postgresql"):

            def place(engine: str = engine) -> tuple[int, str] | None:
                return None if engine == "sqlite" else (postgres.port, postgres.create_database())

            there = None if engine == "sqlite" else postgres
            print(f"ejabberd, {engine}: {await xmpp(Ejabberd(place()), there)}", flush=True)
            new = Ejabberd(place(), new_schema=True)
            print(f"ejabberd with the newer schema, {engine}: {await xmpp(new, there)}", flush=True)
            print(f"prosody, {engine}: {await xmpp(Prosody(place()), there)}", flush=True)
            print(f"synapse, {engine}: {await synapse(Synapse(place(), server_name='example.org:8448'))}", flush=True)
    finally:
        postgres.close()


if __name__ == "__main__":
    asyncio.run(main())
