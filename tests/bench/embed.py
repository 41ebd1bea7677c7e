"""What ``Live`` costs a host: beside gauges and counters as tutorials step them, and beside nothing.

One process does the same sequence of a chat's events: (a) with ``Live``, (b) with ``prometheus_client``'s gauges and
counters with labels, ``inc`` and ``dec`` where things happen, interleaved in small rounds. Then the same chat in FastAPI on
uvicorn, end to end, with (a), (b) and (c) nothing. Last, how long one scrape of 10,000 connections holds up the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from exporter import Connection, Live
from tests.bench.options import Options
from tests.bench.report import table

ROUNDS: Final = 41
USERS: Final = 50
ROOMS: Final = 5


class Stepped:
    """As tutorials do: a gauge goes up here and down there, a counter beside it."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.connections = Gauge("chat_connections", "x", registry=registry)
        self.users = Gauge("chat_users", "x", registry=registry)
        self.conversations = Gauge("chat_conversations", "x", registry=registry)
        self.participants = Gauge("chat_participants", "x", registry=registry)
        self.typing = Gauge("chat_typing", "x", registry=registry)
        self.opened = Counter("chat_opened", "x", registry=registry)
        self.closed = Counter("chat_closed", "x", ["reason"], registry=registry)
        self.joins = Counter("chat_joins", "x", registry=registry)
        self.leaves = Counter("chat_leaves", "x", ["reason"], registry=registry)
        self.typing_started = Counter("chat_typing_started", "x", registry=registry)
        self.typing_stopped = Counter("chat_typing_stopped", "x", ["reason"], registry=registry)
        self.by_user: dict[str, set[object]] = {}
        self.by_room: dict[str, set[tuple[str, object]]] = {}
        self.typists: dict[tuple[str, str], float] = {}

    def open(self, user: str) -> SteppedConnection:
        """A connection came."""
        return SteppedConnection(self, user)


class SteppedConnection:
    """The dictionaries that every ConnectionManager has, and the gauges beside them."""

    def __init__(self, chat: Stepped, user: str) -> None:
        self.chat, self.user = chat, user
        self.rooms: set[str] = set()
        tabs = chat.by_user.setdefault(user, set())
        if not tabs:
            chat.users.inc()
        tabs.add(self)
        chat.connections.inc()
        chat.opened.inc()

    def join(self, room: str) -> None:
        """It joined."""
        audience = self.chat.by_room.setdefault(room, set())
        if not audience:
            self.chat.conversations.inc()
        if not any(user == self.user for user, _ in audience):
            self.chat.participants.inc()
            self.chat.joins.inc()
        audience.add((self.user, self))
        self.rooms.add(room)

    def typing(self, room: str, active: bool = True) -> None:
        """It types, or stops."""
        key = (room, self.user)
        if active:
            if key not in self.chat.typists:
                self.chat.typing.inc()
                self.chat.typing_started.inc()
            self.chat.typists[key] = time.monotonic() + 6
        elif self.chat.typists.pop(key, None) is not None:
            self.chat.typing.dec()
            self.chat.typing_stopped.labels(reason="stop").inc()

    def leave(self, room: str, reason: str = "leave") -> None:
        """It left."""
        self.typing(room, False)
        audience = self.chat.by_room[room]
        audience.discard((self.user, self))
        self.rooms.discard(room)
        if not any(user == self.user for user, _ in audience):
            self.chat.participants.dec()
            self.chat.leaves.labels(reason=reason).inc()
        if not audience:
            del self.chat.by_room[room]
            self.chat.conversations.dec()

    def close(self) -> None:
        """It went."""
        for room in list(self.rooms):
            self.leave(room, "disconnect")
        tabs = self.chat.by_user[self.user]
        tabs.discard(self)
        if not tabs:
            del self.chat.by_user[self.user]
            self.chat.users.dec()
        self.chat.connections.dec()
        self.chat.closed.labels(reason="client").inc()


def events(chat: Any) -> int:
    """One round of a chat: everybody comes, joins, types, writes, leaves and goes; how many events that were."""
    count = 0
    connections = [chat.open(f"user{number}") for number in range(USERS)]
    for number, connection in enumerate(connections):
        for step in range(ROOMS):
            connection.join(f"room{(number + step) % 10}")
        count += 1 + ROOMS
    for number, connection in enumerate(connections):
        for step in range(ROOMS):
            room = f"room{(number + step) % 10}"
            connection.typing(room)
            connection.typing(room)
            connection.typing(room, False)
            count += 3
        connection.leave(f"room{number % 10}")
        count += 1
    for connection in connections:
        connection.close()
        count += ROOMS  # the close, and what it left
    return count


def per_event(chat: Any, repeat: int = 4) -> float:
    """Microseconds of CPU per event."""
    begun = time.process_time_ns()
    count = sum(events(chat) for _ in range(repeat))
    return (time.process_time_ns() - begun) / 1_000 / count


def measure_events() -> dict[str, list[float]]:
    """Interleaved rounds of both."""
    found: dict[str, list[float]] = {"Live": [], "prometheus_client, stepped": []}
    live, stepped = Live(), Stepped()
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            found["Live"].append(per_event(live))
            found["prometheus_client, stepped"].append(per_event(stepped))
    finally:
        gc.enable()
    return found


async def longest_stall(work: Callable[[], Any]) -> float:
    """Milliseconds that the loop was held up at most while ``work`` ran."""
    longest = 0.0
    running = asyncio.create_task(work())
    while not running.done():
        begun = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - begun)
    running.result()
    return longest * 1_000


async def measure_scrape(count: int) -> float:
    """The longest stall of a scrape with that many connections, drift included; the median of seven."""
    sockets: set[Connection] = set()
    live = Live(open_sockets=lambda: sockets, workers=1)
    for number in range(count):
        connection = live.open(f"user{number}")
        connection.join(f"room{number % 500}")
        sockets.add(connection)
    app = live.asgi()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    async def scrape() -> None:
        await app({"type": "http", "method": "GET", "path": "/metrics", "headers": []}, receive, send)

    await scrape()
    gc.collect()
    gc.freeze()
    stalls = [await longest_stall(scrape) for _ in range(7)]
    gc.unfreeze()
    await app.aclose()
    return statistics.median(stalls)


def run(options: Options) -> str:
    """The experiment's part of the report."""
    found = measure_events()
    ours, theirs = (statistics.median(found[name]) for name in ("Live", "prometheus_client, stepped"))
    rows = [[name, f"{statistics.median(values):.2f}", f"{min(values):.2f}"] for name, values in found.items()]
    rows.append(["ratio", f"{ours / theirs:.2f}", ""])
    stall = asyncio.run(measure_scrape(10_000))
    return (
        "### Embedded\n\n"
        + table(["CPU per event, µs", "median", "least"], rows)
        + f"\n\nA scrape with 10,000 connections holds up the loop for {stall:.1f} ms at most (median of 7).\n"
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        print(run(Options()))
