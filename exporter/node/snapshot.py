"""One moment's figures, put together: what ``/metrics``, the JSON and the page show. Knows no HTTP.

First everything that may take time: the database's totals up to a deadline, the independent recount and the fullest
send buffer in slices. Then, in one turn of the loop, everything that belongs together.

Tested in ``tests/integration/test_events.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Protocol

from msgspec.structs import asdict

from exporter.core.records import DatabaseView, Saturation, Snapshot
from exporter.core.recount import SLICE, Drift, Recount
from exporter.node.node import Node
from exporter.node.publisher import NodeConnection
from exporter.node.totals_collector import Collector

_is_live: Final = attrgetter("is_live")
# A recount of 10,000 connections takes some 6 ms of work in slices: not more often than this, in seconds, when many.
RECOUNT_EVERY: Final = 5.0
FEW: Final = 1_000


class OpenConnections(Protocol):
    """The connections whose sockets are open; a copy for each walk, because whoever walks gives way in between."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[NodeConnection]: ...


class SnapshotBuilder:
    """Makes snapshots."""

    def __init__(self, node: Node, collector: Collector, connections: OpenConnections, connection_limit: int) -> None:
        self._node = node
        self._connections = connections
        self._connection_limit = connection_limit
        self._drift = Drift()
        self._recounted_at = float("-inf")
        self.database = collector.collect
        """The part that takes time without taking work; ``around`` does the rest."""

    async def snapshot(self, deadline: float, *, saturation: bool = True) -> Snapshot:
        """All figures; the database gets ``deadline`` seconds, after which its figures are not known.

        Without ``saturation`` nothing is looked at that grows with the connections (some 6 ms of work at 10,000): the
        recount and the fullest send buffer are then not those of this moment. The JSON and the page show neither.
        """
        return await self.around(await self.database(deadline), saturation=saturation)

    async def around(self, database: DatabaseView, *, saturation: bool = True) -> Snapshot:
        """The rest, in slices; what is live is of the turn of the loop in which this returns."""
        started = time.perf_counter()
        if saturation:
            await self._recount()
        send_buffer_max = await self._send_buffer_max() if saturation else 0
        return self._assemble(database, send_buffer_max, started)

    def _assemble(self, database: DatabaseView, send_buffer_max: int, started: float) -> Snapshot:
        node = self._node
        saturation = Saturation(
            send_buffer_max=send_buffer_max,
            slow_consumers=len(node.fan_out.slow),
            connection_limit=self._connection_limit,
            typing_oldest_age=node.hub.oldest_typing_age(time.monotonic()),
        )
        return Snapshot(
            as_of=time.time(),
            live=node.hub.stats(),
            cluster=node.cluster(),
            alone=node.broker.alone,
            broker_up=node.broker.up,
            database=database,
            saturation=saturation,
            drift=asdict(self._drift),
            live_duration=time.perf_counter() - started,
            broker=node.broker.view,
        )

    async def _recount(self) -> None:
        now = time.monotonic()
        if len(self._connections) > FEW and now < self._recounted_at + RECOUNT_EVERY:
            return
        self._recounted_at = now
        recount = Recount(self._node.hub, self._connections, _is_live)
        for _ in recount.count():
            await asyncio.sleep(0)
        if recount.drift is not None:
            self._drift = recount.drift

    async def _send_buffer_max(self) -> int:
        largest = 0
        connections = iter(self._connections)
        while part := [connection for _, connection in zip(range(SLICE), connections, strict=False)]:
            largest = max(largest, max(connection.buffered for connection in part))
            await asyncio.sleep(0)
        return largest
