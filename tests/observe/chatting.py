"""Two people of a running ejabberd or Prosody who write to each other while somebody reads the server's SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from tests.servers.xmpp import Device
from tests.servers.xmpp_servers import Ejabberd, Prosody

MESSAGES = 151
ROWS = 2 * MESSAGES
TABLES = {"ejabberd": "archive", "prosody": "prosodyarchive"}


@asynccontextmanager
async def two_people(server: Ejabberd | Prosody) -> AsyncIterator[tuple[Device, Device]]:
    """Ann and Bob, registered and online."""
    ann, bob = (Device(server.port, name, "example.org") for name in ("ann", "bob"))
    for device in (ann, bob):
        await device.register()
        await device.connect()
    try:
        yield ann, bob
    finally:
        await ann.close()
        await bob.close()


async def write(sender: Device, receiver: Device, numbers: range) -> None:
    """One message after the other, each when the other has the one before."""
    for number in numbers:
        name = f"n{number}"
        sender.say(
            f"<message to='{receiver.user}@{receiver.host}' type='chat' id='{name}'><body>hello</body></message>"
        )
        await receiver.receive(lambda element, name=name: element.get("id") == name, name)
    await sender.settled()
    await receiver.settled()


@contextlib.contextmanager
def ordinary_reader(server: Ejabberd | Prosody) -> Iterator[sqlite3.Connection]:
    """Somebody who reads the file as SQLite's manual says, ``mode=ro``, in a transaction that takes its time."""
    connection = sqlite3.connect(f"file:{server.file}?mode=ro", uri=True, isolation_level=None, timeout=20)
    try:
        connection.execute("BEGIN")
        connection.execute(f"SELECT COUNT(*) FROM {TABLES[server.name]}").fetchone()
        yield connection
    finally:
        connection.close()


def rows(server: Ejabberd | Prosody) -> int:
    """How many rows the archive has; the server has stopped."""
    with contextlib.closing(sqlite3.connect(server.file)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return int(connection.execute(f"SELECT COUNT(*) FROM {TABLES[server.name]}").fetchone()[0])
