"""Several nodes over one broker and one database, as processes: what a disaster can be done to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.servers.exporter import Exporter

CLUSTER_FIGURES = ("connections", "users", "conversations", "participants", "typing_users")
NODE_FIGURES = (
    "active_connections",
    "connected_users",
    "active_conversations",
    "participants",
    "typing_users",
)


class Cluster:
    """Nodes that share a database, a broker and a secret. ``lease`` in seconds."""

    def __init__(self, folder: Path, database: str, broker: str, *flags: str, lease: float = 2.0, **options: Any):
        self.folder, self.lease = folder, lease
        self.secret = secrets.token_urlsafe(48)
        self.flags = ["--database.url", database, "--cluster.lease", f"{lease:g}s", *flags]
        if broker:  # else each node has a way of its own to it
            self.flags += ["--redis.url", broker]
        self.options = options
        self.nodes: list[Exporter] = []

    @property
    def beat(self) -> float:
        """Seconds between two beats of a node."""
        return min(1.0, self.lease / 5)

    def make(self, *flags: str, **options: Any) -> Exporter:
        """One more node, not started."""
        name = f"node{len(self.nodes)}"
        data = self.folder / name / "data"
        data.mkdir(parents=True)
        (data / "auth.secret").write_text(self.secret)
        (data / "auth.secret").chmod(0o600)
        node = Exporter(self.folder / name, *self.flags, *flags, **{**self.options, **options})
        self.nodes.append(node)
        return node

    async def add(self, *flags: str, **options: Any) -> Exporter:
        """One more node, ready."""
        node = self.make(*flags, **options)
        await node.start()
        return node

    async def settled(self, within: float | None = None) -> None:
        """Every node says that the figures are final."""
        patience = within if within is not None else self.lease + 20
        for node in self.nodes:
            if node.process is not None and node.process.returncode is None:
                await node.scraped(lambda f: f.get("messaging_cluster_settling") == 0, "settled", patience)

    async def kill(self) -> None:
        """Kill them all."""
        await asyncio.gather(*(node.kill() for node in self.nodes if node.process is not None))


def cluster_of(figures: dict[str, float]) -> dict[str, float]:
    """The cluster's figures of a scrape."""
    return {name: figures[f"messaging_cluster_{name}"] for name in CLUSTER_FIGURES}


@asynccontextmanager
async def running(
    folder: Path, database: str, broker: str, *flags: str, nodes: int = 2, **options: Any
) -> AsyncIterator[Cluster]:
    """Nodes for the length of a block; killed at its end, however it ends."""
    cluster = Cluster(folder, database, broker, *flags, **options)
    try:
        await cluster.add()  # makes the schema
        await asyncio.gather(*(cluster.add() for _ in range(nodes - 1)))
        yield cluster
    finally:
        await cluster.kill()
