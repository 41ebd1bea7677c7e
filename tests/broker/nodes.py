"""A node's broker with a hub and without a database, for tests of the broker: what it hears is noted."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from exporter.broker.envelope import Envelope
from exporter.broker.location import locate
from exporter.broker.redis import RedisBroker
from exporter.core.hub import Hub
from exporter.metrics.counters import Metrics
from tests.servers.exporter import until


class Ear:
    """A local node that notes what comes."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.leaves_at_once = False
        self.opened: dict[str, list[float]] = {}  # by user, when their connections here were

    def deliver(self, envelope: Envelope[str]) -> None:
        self.heard.append(bytes(envelope.frame))

    def announce(self, word: str, conversation: str, user: str) -> None:
        self.tell(conversation, user, self.announcement(word, conversation, user))

    def announcement(self, word: str, conversation: str, user: str) -> bytes:
        return f"{word} {user}\n".encode()

    def tell(self, conversation: str, user: str, frame: bytes) -> bool:
        self.heard += frame.splitlines()  # several may come in one piece
        return self.leaves_at_once

    def said(self, conversation: str, user: str) -> None:
        """Nobody types here."""

    def removed(self, conversation: str, user: str) -> None:
        self.heard.append(f"removed {user}".encode())

    def connections_of(self, user: str, disconnect: bool) -> list[float]:
        return self.opened.pop(user, []) if disconnect else self.opened.get(user, [])

    def heal(self, conversation: str, after: int, through: int) -> None:
        self.heard.append(f"heal {after} {through}".encode())

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        """There is no database here."""


class Node:
    """A broker with a hub and an ear."""

    def __init__(
        self,
        url: str,
        cluster: str,
        lease: float = 2.0,
        password_file: Path | None = None,
        *,
        ear: Ear | None = None,
        **more: Any,
    ) -> None:
        self.hub: Hub[str] = Hub()
        self.ear = ear or Ear()
        self.metrics = Metrics()
        self.broker: RedisBroker[str] = RedisBroker(
            locate(url, password_file), cluster, lease, hub=self.hub, local=self.ear, meters=self.metrics, **more
        )

    def join(self, connection: str, user: str, conversation: str) -> None:
        for event in (*self.hub.open(connection, user),):
            self.broker.events.on_event[type(event)](event)

        def ready() -> None:
            self.broker.conversations.begin(conversation, 0)
            for event in self.hub.join(connection, conversation):
                self.broker.events.on_event[type(event)](event)
            self.broker.conversations.settle(conversation)

        self.broker.conversations.hold(conversation, ready)

    async def up(self) -> None:
        async def is_up() -> bool:
            return self.broker.up

        await until(is_up, "up")

    async def hears(self, frame: bytes) -> None:
        async def heard() -> bool:
            return frame in self.ear.heard

        await until(heard, f"{frame!r}, not only {self.ear.heard}")


@asynccontextmanager
async def nodes(url: str, count: int = 2, cluster: str | None = None, **more: Any) -> AsyncIterator[list[Node]]:
    """Nodes of a cluster of their own, where none is named."""
    cluster = cluster or uuid.uuid4().hex[:8]
    made = [Node(url, cluster, **more) for _ in range(count)]
    try:
        for node in made:
            await node.broker.start(5.0)
            await node.up()
        yield made
    finally:
        for node in made:
            await node.broker.close()


async def counts(node: Node, **expected: int) -> None:
    async def right() -> bool:
        cluster = node.broker.cluster()
        return cluster is not None and all(getattr(cluster, name) == value for name, value in expected.items())

    await until(right, f"{expected}")
