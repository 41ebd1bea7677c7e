"""``python -m tests.observe.make_data.vanish``: rows that vanish without a trace, on running servers that are watched.

Prosody's archives expire, ejabberd's administrator deletes old messages and an account's archive, Synapse purges a
history, deletes a room, and keeps to a retention. ``observe`` has counted before. After its next recount every figure
is what the ledger says, and the differences that it publishes are what had vanished unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from exporter.observe import count_once
from exporter.observe.engine import Engine
from exporter.observe.published import by_name
from exporter.observe.records import SourceError
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe.make_data.drive_synapse import SynapseDrive
from tests.observe.make_data.drive_xmpp import MUC_NET, MUC_ORG, NET, NOW, ORG, Drive
from tests.observe.make_data.install import install
from tests.observe.make_data.ledger import Ledger
from tests.observe.make_data.synapse import Synapse
from tests.servers.postgres import Postgres
from tests.servers.xmpp_servers import Ejabberd, Prosody

LATER = NOW + timedelta(days=1)
KEPT_DAYS = 5
TAIL = 4
"""Rows that are read again at each look: what vanishes among them is seen without a recount."""

Server = Ejabberd | Prosody | Synapse


def url_of(server: Server) -> str:
    """Of its database."""
    if server.database is None:
        return f"sqlite:///{server.file}"
    port, name = server.database
    return f"postgresql://postgres@127.0.0.1:{port}/{name}"


def expire(server: Prosody, postgres: Postgres | None, ledger: Ledger) -> None:
    """Start it a day later, with archives that expire after a week.

    It tidies up daily, for the first time only when it has run past a midnight: it is made to believe that it did.
    """
    server.expire_after("1w")
    last = int((LATER - timedelta(days=2)).timestamp())
    tasks = [(host, "mam/remove_expired_messages") for host in (ORG, NET)]
    tasks += [(host, "muc_mam/remove_expired_messages") for host in (MUC_ORG, MUC_NET)]
    values = ", ".join(f"('{host}', '', 'cron', '{task}', 'number', '{last}')" for host, task in tasks)
    statement = f'INSERT INTO prosody (host, "user", store, key, type, value) VALUES {values}'
    if postgres is None:
        with contextlib.closing(sqlite3.connect(server.file)) as connection, connection:
            connection.execute(statement)
    else:
        assert server.database is not None
        postgres.psql(statement, server.database[1])
    server.start(LATER)
    ledger.day = LATER.date()
    ledger.purge((LATER - timedelta(days=6)).date())
    ledger.note("archives that expired after a week: gone, and the conversations that were in them only")


def delete_old(server: Ejabberd, ledger: Ledger) -> None:
    """What an administrator's ``ejabberdctl delete_old_mam_messages all 5`` does."""
    server.admin("delete_old_mam_messages", type="all", days=KEPT_DAYS)
    ledger.purge((NOW - timedelta(days=KEPT_DAYS - 1)).date())
    ledger.note("messages that were deleted because of their age: gone, and the conversations that were in them only")


class Watch:
    """An observer of one database, with the clock of its server."""

    def __init__(self, server: Server, when: datetime) -> None:
        shift = when.timestamp() - time.time()
        source = Source(url_of(server), server.name, hosts=(ORG, NET) if isinstance(server, Ejabberd) else ())
        self.engine = Engine(source, State(None), load=1.0, clock=lambda: time.time() + shift, tail=TAIL)

    async def figures(self, step: Callable[[], Awaitable[Any]]) -> dict[str, int]:
        """What a look or a count tells; a file may be written to at every attempt."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return by_name(await step())
                except SourceError:
                    self.engine.require_recheck()
                    await self.engine.open()

    async def told(self, before: dict[str, int], truth: dict[str, Any], active: str) -> str:
        """A look, a recount, and what is wrong with them."""
        looked = await self.figures(self.engine.look)
        counted = await self.figures(self.engine.count)
        wanted = {
            "stored_messages": truth["messages"], "messages_today": truth["messages_today"],
            "stored_conversations": truth["conversations"], "registered_users": truth["registered_users"],
            **{f"active_users_{window}": number for window, number in truth[active].items()},
        }  # fmt: skip
        wrong = {name: (counted.get(name), number) for name, number in wanted.items() if counted.get(name) != number}
        vanished = {name: counted[name] - before[name] for name in counted if counted[name] != before[name]}
        published = {name: number for name, number in self.engine.differences.items() if number}
        seen = {name: looked[name] - before[name] for name in looked if looked[name] != before[name]}
        summed = {name: seen.get(name, 0) + published.get(name, 0) for name in counted}
        right = not looked or {name: number for name, number in summed.items() if number} == vanished
        return (
            f"vanished {vanished}; seen at once {seen if looked else 'that it must be counted anew'}, the recount's "
            f"differences {published}{'' if right else ' DO NOT TELL IT'}; wrong after it: {wrong or 'nothing'}"
        )


async def prosody(server: Prosody, postgres: Postgres | None) -> str:
    """Archives that expire."""
    try:
        ledger = Ledger()
        drive = Drive(server, ledger)
        await drive.run()
        await drive.on(NOW - timedelta(hours=2), drive.today)
        watch = Watch(server, LATER)
        before = await watch.figures(watch.engine.count)
        expire(server, postgres, ledger)
        await until(server, LATER, ledger.truth(LATER)["messages"])
        return await watch.told(before, ledger.truth(LATER), "active_users_outside_rooms")
    finally:
        server.close()


async def until(server: Server, when: datetime, messages: int, seconds: float = 30) -> None:
    """Wait for the server's own job; what is wrong then is told by who compares."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(SourceError):
                    if (await count_once(url_of(server), server.name, now=when)).stored_messages == messages:
                        return
                await asyncio.sleep(0.3)


async def ejabberd(server: Ejabberd, postgres: Postgres | None) -> list[str]:
    """Deleted by age, and everything."""
    try:
        if postgres is not None:
            assert server.database is not None
            postgres.psql(server.schema_sql(), server.database[1])
        ledger = Ledger()
        drive = Drive(server, ledger)
        await drive.run()
        await drive.on(NOW - timedelta(hours=2), drive.today, stop=False)
        watch = Watch(server, NOW)
        before = await watch.figures(watch.engine.count)
        delete_old(server, ledger)
        said = ["by age: " + await watch.told(before, ledger.truth(NOW), "active_users")]
        before = await watch.figures(watch.engine.look)
        server.admin("delete_old_mam_messages", type="all", days=0)
        ledger.purge(LATER.date())
        return [*said, "all: " + await watch.told(before, ledger.truth(NOW), "active_users")]
    finally:
        server.close()


async def synapse(server: Synapse) -> list[str]:
    """A purge, a deleted room, and a retention after a restart."""
    try:
        server.prepare()
        drive = SynapseDrive(server)
        await drive.run()
        said: list[str] = []
        start = NOW + timedelta(minutes=5)
        ledger = drive.ledger
        watch = Watch(server, start)
        busy = ""

        async def administer() -> None:
            nonlocal busy
            ann, eve = drive["ann"], await drive.api.sign_in("eve")
            drive.people["eve"] = eve
            busy = await drive.room(ann, eve)
            for _ in range(12):
                last = await drive.say(eve, busy)
            await ann.settle()
            before = await watch.figures(watch.engine.count)
            body = {"purge_up_to_event_id": last, "delete_local_events": True}
            purge = (await ann.admin("POST", f"/v1/purge_history/{quote(busy)}", body))["purge_id"]
            await drive._until(lambda: ann.admin("GET", f"/v1/purge_history_status/{purge}"))
            ledger.purge_room(busy, kept=1)
            said.append("a purged history: " + await watch.told(before, ledger.truth(NOW), "active_users"))
            before = await watch.figures(watch.engine.look)
            done = (await ann.admin("DELETE", f"/v2/rooms/{quote(drive.team)}", {"purge": True}))["delete_id"]
            await drive._until(lambda: ann.admin("GET", f"/v2/rooms/delete_status/{done}"))
            ledger.purge_room(drive.team)
            ledger.rooms.discard(drive.team)
            await ann.settle()
            said.append("a deleted room: " + await watch.told(before, ledger.truth(NOW), "active_users"))

        await drive.on(start, administer)
        await watch.engine.close()
        later = NOW + timedelta(days=10)
        server.retain("5d")
        watch = Watch(server, later)
        before = await watch.figures(watch.engine.count)

        async def wait() -> None:
            ann = drive["ann"]
            mine = await drive.room(ann)
            await drive.say(ann, mine)
            await asyncio.sleep(20)  # the job has its own interval, and leaves each room's newest event
            await ann.settle()

        await drive.on(later, wait)
        counted = await watch.figures(watch.engine.count)
        published = {name: number for name, number in watch.engine.differences.items() if number}
        return [*said, f"a retention of five days, ten days later: {before} became {counted}; differences {published}"]
    finally:
        server.close()


async def main() -> None:
    for kind in ("ejabberd", "prosody", "synapse"):
        install(kind)
    with contextlib.ExitStack() as stack:
        postgres = Postgres(fsync="off")
        stack.callback(postgres.close)
        postgres.start()
        for engine in ("sqlite", "postgresql"):
            there = None if engine == "sqlite" else postgres

            def place() -> tuple[int, str] | None:
                return None if there is None else (postgres.port, postgres.create_database())  # noqa: B023  # called at once

            print(f"prosody, {engine}: {await prosody(Prosody(place()), there)}", flush=True)
            for new in (False, True):
                for said in await ejabberd(Ejabberd(place(), new_schema=new), there):
                    print(f"ejabberd{', newer schema' if new else ''}, {engine}, {said}", flush=True)
            for said in await synapse(Synapse(place(), server_name="example.org:8448")):
                print(f"synapse, {engine}, {said}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
