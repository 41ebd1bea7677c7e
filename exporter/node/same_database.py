"""Do all nodes of a cluster use one database? Where not, two clusters have one name, and the logs of both say so.

Each node tells the others which one it uses, when it begins to hear them, and each minute while one of them uses
another. Nothing is taken from anybody: which of the two has the wrong settings only people know. But what is said there
is not heard here: it would take the place of what is said here under the same number, and people would be sent what
others must not see.

Tested in ``tests/node/test_same_database.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from exporter.broker.connection import Connection
from exporter.broker.frames import IncomingFrame, Kind
from exporter.broker.nodes_channel import NodesChannel
from exporter.core.errors import Refusal

log = structlog.get_logger(__name__)

AGAIN: Final = 60.0
"""Seconds until a database is asked again that cannot be, or that is not the others': it may be by then."""
GONE: Final = 5 * AGAIN
"""Seconds after which a node is foreign no longer that does not say so again: it has ended, or its word that it uses
this database now was lost. Whoever knows of a foreign one says which one it uses each time that it has asked."""


class SameDatabase:
    """``identity`` asks which database this node uses, empty: nobody knows; ``name`` is how operators know the node.

    ``missed`` is called when something of others may have been missed.
    """

    def __init__(
        self,
        nodes_channel: NodesChannel,
        identity: Callable[[], Coroutine[Any, Any, str]],
        name: str,
        missed: Callable[[], object],
    ) -> None:
        self._nodes_channel, self._identity, self._name, self._missed = nodes_channel, identity, name, missed
        self._others: dict[bytes, tuple[str, float]] = {}  # nodes that use another one, which, when they said so last
        self._asking: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._mine: str | None = None
        self._said: str | None = None  # what the others were told last
        self._warned_of: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: asyncio.Task[None] | None = None
        nodes_channel.handlers[Kind.DATABASE] = self._heard
        nodes_channel.on_open = self._opened

    def close(self) -> None:
        """Nothing is compared any more."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _opened(self, connection: Connection) -> None:
        self._connection = connection
        if self._telling is not None:
            self._telling.cancel()
        self._telling = self._spawn(self._tell(connection))

    async def _ask(self) -> None:
        """Each time anew: another database may have the address by now, and nobody is to be told of the one before."""
        while True:
            try:
                self._mine = await self._identity()
            except Refusal:
                await asyncio.sleep(AGAIN)
            else:
                self._tell_apart()
                return

    def _tell_apart(self) -> None:
        """Who is foreign, and who no longer: a database that moves does so for one node after the other."""
        before, since = self._nodes_channel.foreign_nodes, asyncio.get_running_loop().time() - GONE
        self._others = {
            node: (theirs, heard)
            for node, (theirs, heard) in self._others.items()
            if theirs != self._mine and heard > since
        }
        self._nodes_channel.foreign_nodes = foreign_nodes = frozenset(self._others if self._mine else ())
        if before - foreign_nodes:
            self._missed()
        if self._others and (self._asking is None or self._asking.done()):
            self._asking = self._spawn(self._ask_now_and_then())

    async def _ask_now_and_then(self) -> None:
        while self._others:
            await asyncio.sleep(AGAIN)
            await self._tell(self._connection)

    async def _tell(self, connection: Connection | None) -> None:
        await self._ask()
        self._say(connection)

    def _say(self, connection: Connection | None) -> None:
        if connection is not None and connection.open and self._mine:
            self._nodes_channel.publish(
                connection, Kind.DATABASE, 0, data=msgspec.json.encode((self._mine, self._name))
            )
            self._said = self._mine

    def _heard(self, node: bytes, frame: IncomingFrame, late: float) -> None:
        try:
            theirs, name = msgspec.json.decode(frame[1], type=tuple[str, str])
        except msgspec.DecodeError:
            return  # a later release's
        if self._mine:
            said_so = node in self._others and self._others[node][0] == theirs
            self._others[node] = theirs, asyncio.get_running_loop().time()
            if theirs == self._mine:
                self._tell_apart()
            elif not said_so:
                self._spawn(self._compare(theirs, name))

    async def _compare(self, theirs: str, name: str) -> None:
        await self._ask()
        if self._mine == theirs:
            self._warned_of.discard(theirs)
        elif self._mine and theirs not in self._warned_of:
            self._warned_of.add(theirs)
            log.warning(
                "another node of this cluster uses another database: what is said there is not heard here, but "
                "who comes and goes is, and the cluster's figures are of both; give both the same --database.url, "
                "or one of them a --cluster.name of its own",
                node=name,
            )
        if self._mine != theirs or self._mine != self._said:
            self._say(self._connection)  # they may not have heard which one is used here, or of one before
