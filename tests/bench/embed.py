"""What ``Live`` costs a host, beside gauges and counters as tutorials step them.

One process does the same sequence of a chat's events: (a) with ``Live``, (b) with ``prometheus_client``'s gauges and
counters with labels, ``inc`` and ``dec`` where things happen, interleaved in small rounds. Then the same chat in
FastAPI, end to end through its ASGI application, with (a), (b) and (c) nothing. Last, how long one scrape of 10,000
connections holds up the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI, WebSocket
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.websockets import WebSocketDisconnect

from exporter import Connection, Live
from tests.bench.options import Options
from tests.bench.report import table

ROUNDS: Final = 41
USERS: Final = 50
ROOMS: Final = 5


class Stepped:
    """As tutorials do, for the figures that ``Live`` has: gauges up here and down there, counters beside them, labels.

    It keeps no dictionaries, so its figures are only as right as its callers: a second tab is a second user. That is
    what tutorials do, and it is cheaper than being right.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        gauges = ("connections", "users", "conversations", "participants", "typing")
        self.connections, self.users, self.conversations, self.participants, self.typing = (
            Gauge(f"chat_{name}", "x", ["app"], registry=registry) for name in gauges
        )
        self.opened, self.joins, self.typing_started = (
            Counter(f"chat_{name}", "x", ["app"], registry=registry) for name in ("opened", "joins", "typing_started")
        )
        self.closed, self.leaves, self.typing_stopped = (
            Counter(f"chat_{name}", "x", ["app", "reason"], registry=registry)
            for name in ("closed", "leaves", "typing_stopped")
        )
        self.duration = Histogram("chat_duration", "x", ["app"], registry=registry)

    def open(self, user: str) -> SteppedConnection:
        """A connection came."""
        self.connections.labels("chat").inc()
        self.users.labels("chat").inc()
        self.opened.labels("chat").inc()
        return SteppedConnection(self)


class SteppedConnection:
    """What a handler does at each event; only a set of its own rooms, because the end has to undo them."""

    def __init__(self, chat: Stepped) -> None:
        self.chat = chat
        self.rooms: set[str] = set()
        self.opened_at = time.monotonic()

    def join(self, room: str) -> None:
        """It joined."""
        self.rooms.add(room)
        self.chat.conversations.labels("chat").inc()
        self.chat.participants.labels("chat").inc()
        self.chat.joins.labels("chat").inc()

    def typing(self, room: str, active: bool = True) -> None:
        """It types, or stops."""
        if active:
            self.chat.typing.labels("chat").inc()
            self.chat.typing_started.labels("chat").inc()
        else:
            self.chat.typing.labels("chat").dec()
            self.chat.typing_stopped.labels("chat", "stop").inc()

    def leave(self, room: str, reason: str = "leave") -> None:
        """It left."""
        self.rooms.discard(room)
        self.chat.conversations.labels("chat").dec()
        self.chat.participants.labels("chat").dec()
        self.chat.leaves.labels("chat", reason).inc()

    def close(self) -> None:
        """It went."""
        for room in list(self.rooms):
            self.leave(room, "disconnect")
        self.chat.connections.labels("chat").dec()
        self.chat.users.labels("chat").dec()
        self.chat.closed.labels("chat", "client").inc()
        self.chat.duration.labels("chat").observe(time.monotonic() - self.opened_at)


NAMES: Final = [f"user{number}" for number in range(USERS)]
ROOM_NAMES: Final = [[f"room{(number + step) % 10}" for step in range(ROOMS)] for number in range(USERS)]


def events(chat: Any) -> int:
    """One round of a chat: everybody comes, joins, types, stops, leaves and goes; how many events that were."""
    connections = [chat.open(name) for name in NAMES]
    for connection, rooms in zip(connections, ROOM_NAMES, strict=True):
        for room in rooms:
            connection.join(room)
    for connection, rooms in zip(connections, ROOM_NAMES, strict=True):
        for room in rooms:
            connection.typing(room)
            connection.typing(room, False)
        connection.leave(rooms[0])
    for connection in connections:
        connection.close()
    return USERS * (
        1 + ROOMS + 2 * ROOMS + ROOMS + 1
    )  # open, joins, typing and its end, leaves (by hand and by end), close


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
    """Milliseconds of the loop's own CPU that one turn took at most: what others do on this machine is not in it."""
    longest = 0.0
    running = asyncio.create_task(work())
    while not running.done():
        begun = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - begun)
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


def chat_app(chat: Any) -> FastAPI:
    """The chat as a host writes it; ``chat`` None is not instrumented."""
    app = FastAPI()

    @app.websocket("/ws/{user}")
    async def handler(websocket: WebSocket, user: str) -> None:
        await websocket.accept()
        connection = chat.open(user) if chat is not None else None
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                kind, _, room = (await websocket.receive_text()).partition(" ")
                if connection is not None:
                    match kind:
                        case "join":
                            connection.join(room)
                        case "typing":
                            connection.typing(room)
                        case "stop":
                            connection.typing(room, False)
                await websocket.send_text("ok")
        if connection is not None:
            connection.close()

    return app


async def per_command(app: FastAPI, count: int = 2_000) -> float:
    """Microseconds of CPU per command, through the whole of FastAPI; no socket."""
    texts = iter(["join room", *["typing room", "stop room"] * (count // 2)])

    async def receive() -> dict[str, Any]:
        if (text := next(texts, None)) is None:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": text}

    first = [{"type": "websocket.connect"}]

    async def begin() -> dict[str, Any]:
        return first.pop() if first else await receive()

    async def send(message: Any) -> None:
        pass

    scope = {"type": "websocket", "path": "/ws/ann", "headers": [], "query_string": b"", "subprotocols": []}
    begun = time.process_time_ns()
    await app(scope, begin, send)
    return (time.process_time_ns() - begun) / 1_000 / count


async def measure_fastapi() -> dict[str, list[float]]:
    """Interleaved rounds of the three."""
    chats: dict[str, Any] = {"not instrumented": None, "Live": Live(), "prometheus_client, stepped": Stepped()}
    apps = {name: chat_app(chat) for name, chat in chats.items()}
    found: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS // 2):
        for name, app in apps.items():
            found[name].append(await per_command(app))
    return found


def run(options: Options) -> str:
    """The experiment's part of the report."""
    found = measure_events()
    ours, theirs = (statistics.median(found[name]) for name in ("Live", "prometheus_client, stepped"))
    rows = [[name, f"{statistics.median(values):.2f}", f"{min(values):.2f}"] for name, values in found.items()]
    rows.append(["ratio", f"{ours / theirs:.2f}", ""])
    through = asyncio.run(measure_fastapi())
    chat_rows = [[name, f"{statistics.median(values):.2f}", f"{min(values):.2f}"] for name, values in through.items()]
    stall = asyncio.run(measure_scrape(10_000))
    return (
        "### Embedded\n\n"
        + table(["CPU per event, µs", "median", "least"], rows)
        + "\n\n"
        + table(["CPU per command through FastAPI, µs", "median", "least"], chat_rows)
        + f"\n\nA scrape with 10,000 connections holds up the loop for {stall:.1f} ms at most (median of 7).\n"
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        print(run(Options()))
