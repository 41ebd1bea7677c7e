"""``python -m tests.observe.make_data [KIND [ENGINE]]``: run the real servers and write tests/observe/data anew."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any

from tests.observe.make_data.drive_synapse import FederatedDrive, SynapseDrive
from tests.observe.make_data.drive_xmpp import NOW, Drive
from tests.observe.make_data.drive_xmpp_odd import ANONYMOUS, OddDrive
from tests.observe.make_data.install import install
from tests.observe.make_data.ledger import Ledger
from tests.observe.make_data.save import save_postgresql, save_sqlite
from tests.observe.make_data.synapse import Synapse
from tests.servers.postgres import Postgres
from tests.servers.xmpp_servers import Ejabberd, Prosody

ENGINES = ("sqlite", "postgresql")


async def make_xmpp(
    kind: str,
    name: str,
    make: Callable[..., Ejabberd | Prosody],
    postgres: Postgres | None,
    just_started: bool = False,
    odd: bool = False,
) -> None:
    """One history on one server, and its database as it stands while the server runs."""
    database = None if postgres is None else (postgres.port, postgres.create_database())
    server = make(database)
    try:
        if database is not None and isinstance(server, Ejabberd):
            assert postgres is not None
            postgres.psql(server.schema_sql(), database[1])
        ledger = Ledger()
        drive = OddDrive(server, ledger) if odd else Drive(server, ledger)

        def save(as_: str, **extra: Any) -> None:
            if isinstance(server, Prosody) and server.archives_only:
                ledger.rooms.clear()
                ledger.note("archives only in SQL: rooms without messages are elsewhere, and no conversation here")
            truth = {**ledger.truth(NOW), **extra}
            if postgres is None:
                save_sqlite(kind, as_, server.file, truth)
            else:
                assert database is not None
                save_postgresql(kind, as_, postgres, database[1], truth)

        extra: dict[str, Any] = {}
        if isinstance(server, Ejabberd):
            if not server.new_schema:
                extra["host"] = ",".join(server.hosts)
            if server.compress_xml:
                extra["not_told"] = ["messages", "messages_today", "conversations", "active_users"]
            if server.external:
                extra["not_told"] = ["registered_users"]
        elif server.archives_only:
            extra["not_told"] = ["registered_users"]
        if just_started:
            server.start(NOW - timedelta(minutes=2))
            if isinstance(server, Prosody):
                await drive.register("ann")  # Prosody makes its tables when it stores the first thing
            await drive.rest()
            save(name, **extra)
            return
        await drive.run()
        await drive.on(NOW - timedelta(hours=2), drive.today, stop=False)
        async with AsyncExitStack() as stack:
            if isinstance(drive, OddDrive):
                await drive.visitor(stack)
            else:
                await drive.living_room(stack)
            save(name, **extra)
    finally:
        server.close()


Work = Callable[[], Coroutine[Any, Any, None]]


def ejabberd(postgres: Postgres | None) -> dict[str, Work]:
    """Both schemas, binary XML, accounts that are elsewhere, rarer habits, and a server without people."""

    def of(name: str, odd: bool = False, just_started: bool = False, **options: Any) -> tuple[str, Work]:
        server = partial(Ejabberd, anonymous=ANONYMOUS if odd else None, **options)
        return name, partial(make_xmpp, "ejabberd", name, server, postgres, just_started, odd)

    return dict(
        (
            of("default_schema"),
            of("new_schema", new_schema=True),
            of("compressed", compress_xml=True),
            of("external_accounts", external=True),
            of("odd", odd=True),
            of("odd_new_schema", odd=True, new_schema=True),
            of("just_started", just_started=True),
        )
    )


def prosody(postgres: Postgres | None) -> dict[str, Work]:
    """Hashed and plain passwords, accounts that are elsewhere, rarer habits, and a server without people."""

    def of(name: str, odd: bool = False, just_started: bool = False, **options: Any) -> tuple[str, Work]:
        server = partial(Prosody, anonymous=ANONYMOUS if odd else None, **options)
        return name, partial(make_xmpp, "prosody", name, server, postgres, just_started, odd)

    return dict(
        (
            of("hashed"),
            of("plain", hashed=False),
            of("archives_only", archives_only=True),
            of("odd", odd=True),
            of("just_started", just_started=True),
        )
    )


async def make_synapse(name: str, postgres: Postgres | None) -> None:
    """One history on one homeserver; the database as it stands when the server has stopped."""
    database = None
    if postgres is not None:
        database = (postgres.port, postgres.create_database())
    federates = name == "federated"
    with contextlib.ExitStack() as stack:
        server = Synapse(
            database,
            server_name=None if federates else "example.org:8448",
            federates=federates,
            statistics=name != "without_statistics",
        )
        stack.callback(server.close)
        server.prepare()
        if federates:
            other = Synapse(federates=True)
            stack.callback(other.close)
            other.prepare()
            drive: SynapseDrive = FederatedDrive(server, other)
        else:
            drive = SynapseDrive(server)

        def grow() -> None:
            """Numbers beyond 32 bits, as a large server has them."""
            if postgres is not None and database is not None:
                postgres.psql("SELECT setval('events_stream_seq', 5000000000)", database[1])

        if name == "just_started":
            server.start(NOW - timedelta(minutes=2))
            server.stop()
        else:
            await drive.run(grow)
        truth = drive.ledger.truth(NOW)
        del truth["active_users_outside_rooms"]
        if not server.statistics:
            truth["not_told"] = ["conversations"]
        if postgres is None:
            save_sqlite("synapse", name, server.file, truth)
        else:
            assert database is not None
            save_postgresql("synapse", name, postgres, database[1], truth)


def synapse(postgres: Postgres | None) -> dict[str, Work]:
    """A server of its own, one that federates, and one without people."""
    names = ("alone", "federated", "without_statistics", "just_started")
    return {name: partial(make_synapse, name, postgres) for name in names}


KINDS: dict[str, Callable[[Postgres | None], dict[str, Work]]] = {
    "ejabberd": ejabberd,
    "prosody": prosody,
    "synapse": synapse,
}


async def main() -> None:
    """What was asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.observe.make_data", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=sorted(KINDS))
    parser.add_argument("engine", nargs="?", choices=ENGINES)
    parser.add_argument("name", nargs="?", help="one database only, as truth.json calls it")
    asked = parser.parse_args()
    for kind in [asked.kind] if asked.kind else sorted(KINDS):
        install(kind)
        for engine in [asked.engine] if asked.engine else ENGINES:
            with contextlib.ExitStack() as stack:
                postgres = None
                if engine == "postgresql":
                    postgres = Postgres(fsync="off")
                    stack.callback(postgres.close)
                    postgres.start()
                for name, work in KINDS[kind](postgres).items():
                    if asked.name in (None, name):
                        await work()


if __name__ == "__main__":
    asyncio.run(main())
